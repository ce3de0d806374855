"""The policy decides as worked by hand, and each rule that the cases leave open is pinned here."""

import copy
import json
from typing import Any

import pytest
from clave_gateway.domain.roles import covers, permits
from clave_gateway.policy_cases import run_cases
from clave_testing.policies import BY_ID, CASES, engine, question, reasons, sample_bundle, shipped_bundle

SAMPLE = engine()


async def test_every_worked_case_comes_out_as_written() -> None:
    report = await run_cases(SAMPLE, CASES.cases)
    assert report.cases == 98
    assert report.failures == []


async def test_every_worked_case_stands_on_its_own() -> None:
    assert len(BY_ID) == len(CASES.cases)


@pytest.mark.parametrize(
    ("case", "changes", "expected"),
    [
        ("p001", {"subject__id": "user:mallory"}, ["subject_disabled"]),
        ("p001", {"context__time": 1794996000000}, ["credential_expired", "malformed_input"]),
        ("p001", {"context__auth__expires_at": 1794996000}, ["credential_expired"]),
        ("p001", {"context__auth__expires_at": "2099"}, ["credential_expired"]),
        ("p001", {"resource__id": "models/fraud\n"}, ["resource_not_bound"]),
        ("p028", {"context__auth__amr": ["pwd"]}, ["mfa_required"]),
        ("p028", {"context__auth__amr": ...}, ["mfa_required"]),
        (
            "p028",
            {"resource__properties__approvals": [{"by": "user:anna", "decision": "reject"}]},
            ["already_approved_by_subject"],
        ),
        ("p028", {"resource__properties__approvals": ...}, ["already_approved_by_subject"]),
        ("p028", {"resource__properties__approvals": [{"by": None}]}, ["already_approved_by_subject"]),
        ("p028", {"resource__properties__contributors": []}, ["separation_of_duties"]),
        ("p035", {"resource__properties__evaluation_gate": "failed"}, ["evaluation_gate_not_passed"]),
        ("p035", {"resource__properties__signature_verified": "yes"}, ["artifact_not_signed"]),
        ("p035", {"resource__properties__card": ...}, ["card_forbids_namespace"]),
        ("p035", {"resource__properties__card": {"allowed_namespaces": "Production"}}, ["card_forbids_namespace"]),
        ("p083", {"context__source_ip": "8.8.8.8"}, ["network_not_allowed"]),
        ("p083", {"context__source_ip": None}, ["network_not_allowed"]),
        ("p083", {"context__source_ip": "10.0.0.1/8"}, ["network_not_allowed"]),
        ("p083", {"context__auth__amr": []}, ["mfa_required"]),
        ("p081", {"context__auth__amr": []}, ["mfa_required"]),
    ],
)
def test_one_change_gives_one_reason(case: str, changes: dict[str, Any], expected: list[str]) -> None:
    assert reasons(question(case, **changes), SAMPLE) == expected


def deploy(**changes: Any) -> dict[str, Any]:
    """A deployment to production that is allowed within the window."""
    return question("p035", **{"action__name": "inference:deployment.create", "subject__id": "user:emil", **changes})


WEDNESDAY_8 = 1794988800
BREAK_GLASS = {"ticket": "INC-12345", "reason": "fraud model returns NaN"}


def late(**changes: Any) -> dict[str, Any]:
    """A deployment outside of the window by an incident commander."""
    asked = deploy(**{"context__break_glass": BREAK_GLASS, "subject__id": "user:ivan", **changes})
    asked["context"]["time"] = WEDNESDAY_8 - 1
    return asked


def test_windows_open_and_close_on_the_minute_and_on_their_days() -> None:
    for at, expected in [
        (WEDNESDAY_8 - 1, ["outside_change_window"]),
        (WEDNESDAY_8, []),
        (WEDNESDAY_8 + 8 * 3600 - 1, []),
        (WEDNESDAY_8 + 8 * 3600, ["outside_change_window"]),
        (WEDNESDAY_8 + 2 * 86400, ["outside_change_window"]),
    ]:
        asked = deploy(context__time=at, context__auth__expires_at=at + 10)
        assert reasons(asked, SAMPLE) == expected, at


def test_a_freeze_ends_exclusively() -> None:
    wednesday = WEDNESDAY_8 + 3600
    during = engine(sample_bundle(freezes=[{"from": wednesday - 10, "until": wednesday + 10}]))
    assert reasons(deploy(context__time=wednesday), during) == ["outside_change_window"]
    ended = engine(sample_bundle(freezes=[{"from": wednesday - 10, "until": wednesday}]))
    assert reasons(deploy(context__time=wednesday), ended) == []
    begins = engine(sample_bundle(freezes=[{"from": wednesday, "until": wednesday + 10}]))
    assert reasons(deploy(context__time=wednesday), begins) == ["outside_change_window"]


def test_break_glass_opens_the_window_for_an_incident_commander() -> None:
    assert reasons(late(), SAMPLE) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"subject__id": "user:emil"},
        {"context__auth__amr": ["pwd"]},
        {"context__break_glass": {**BREAK_GLASS, "ticket": "INC-1"}},
        {"context__break_glass": {**BREAK_GLASS, "ticket": "JIRA-12345"}},
        {"context__break_glass": {**BREAK_GLASS, "ticket": 12345}},
        {"context__break_glass": {**BREAK_GLASS, "reason": "          x         "}},
        {"context__break_glass": {**BREAK_GLASS, "reason": ["a"] * 20}},
        {"context__break_glass": {"ticket": "INC-12345"}},
    ],
)
def test_break_glass_needs_everything(changes: dict[str, Any]) -> None:
    assert "outside_change_window" in reasons(late(**changes), SAMPLE)


def test_break_glass_of_another_tenant_opens_nothing() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["user:ivan"] = [
        {"role": "incident-commander", "tenant": "globex", "namespaces": ["*"]},
        {"role": "ml-engineer", "tenant": "acme", "namespaces": ["*"]},
    ]
    assert reasons(late(), engine(sample_bundle(bindings=bindings))) == ["outside_change_window"]


def test_lockdown_stops_changes_but_neither_reads_nor_administration() -> None:
    locked = engine(sample_bundle(lockdown=True))
    assert reasons(question("p011"), locked) == ["lockdown"]
    assert reasons(question("p001"), locked) == []
    assert "lockdown" not in reasons(question("p086"), locked)
    assert "lockdown" in reasons(question("p017"), locked)
    unknown = engine(sample_bundle(lockdown=None))
    assert reasons(question("p011"), unknown) == ["lockdown"]


def test_lockdown_lets_through_what_the_shipped_data_exempt() -> None:
    bundle = shipped_bundle()
    made = engine(type(bundle)(modules=bundle.modules, data={**bundle.data, "lockdown": True}))
    back = admin("inference:deployment.rollback", "endpoints/churn", namespace="Production")
    assert reasons(back, made) == []
    ahead = admin("policy:bundle.activate", "policies/2", contributors=["user:someone"], tenant="*")
    assert reasons(ahead, made) == ["lockdown"]


def admin(action: str, resource: str, **properties: Any) -> dict[str, Any]:
    """A question of the shipped administrator."""
    return {
        "subject": {"type": "user", "id": "user:admin", "properties": {"tenant": "default", "groups": []}},
        "action": {"name": action},
        "resource": {"type": "thing", "id": resource, "properties": {"tenant": "default", **properties}},
        "context": {
            "time": WEDNESDAY_8,
            "source_ip": "127.0.0.1",
            "auth": {"method": "api_key", "expires_at": WEDNESDAY_8 + 60, "scopes": ["**"], "amr": [], "key_id": "k"},
        },
    }


# ---- the ten gaps of the draft


def bind(**changes: Any) -> dict[str, Any]:
    """tara, a tenant administrator of acme, gives a role."""
    binding = {
        "subject": "app:new",
        "role": "scoring-app",
        "tenant": "acme",
        "namespaces": ["Production"],
        **changes,
    }
    return question(
        "p086",
        action__name="admin:binding.create",
        resource__id="bindings/new",
        resource__properties={"tenant": "acme", "binding": binding},
    )


DELEGATING = copy.deepcopy(dict(CASES.data["roles"]))
DELEGATING["tenant-admin"]["may_delegate"] += ["inference:deployment.read"]


def test_gap_1_a_role_is_given_only_within_what_the_giver_holds() -> None:
    made = engine(sample_bundle(roles=DELEGATING))
    assert reasons(bind(), made) == []
    for changes in (
        {"role": "policy-admin"},
        {"role": "ml-engineer"},
        {"role": "no-such-role"},
        {"tenant": "*"},
        {"tenant": "globex"},
        {"tenant": None},
        {"namespaces": []},
        {"namespaces": ["Nowhere"]},
        {"namespaces": "Production"},
        {"subject": None},
        {"resources": "**"},
        {"resources": [None]},
    ):
        assert reasons(bind(**changes), made) == ["privilege_escalation"], changes
    nothing = bind()
    del nothing["resource"]["properties"]["binding"]
    assert reasons(nothing, made) == ["privilege_escalation"]


def test_gap_1_a_role_reaches_no_namespace_or_resource_that_the_giver_does_not() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["user:tara"] = [
        {"role": "tenant-admin", "tenant": "acme", "namespaces": ["Staging"], "resources": ["bindings/**", "m/**"]}
    ]
    made = engine(sample_bundle(roles=DELEGATING, bindings=bindings))
    assert reasons(bind(namespaces=["Staging"], resources=["m/**"]), made) == []
    assert reasons(bind(namespaces=["Staging"], resources=["m/fraud/**", "m/x"]), made) == []
    for changes in (
        {"namespaces": ["Production"], "resources": ["m/**"]},
        {"namespaces": ["*"], "resources": ["m/**"]},
        {"namespaces": ["Staging"]},
        {"namespaces": ["Staging"], "resources": ["**"]},
        {"namespaces": ["Staging"], "resources": ["models/**"]},
        {"namespaces": ["Staging"], "resources": ["m"]},
        {"namespaces": ["Staging"], "resources": ["bindings/x/**", "n/**"]},
    ):
        assert reasons(bind(**changes), made) == ["privilege_escalation"], changes


def test_gap_1_who_reaches_one_thing_does_not_give_what_lies_below_it() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["user:tara"] = [
        {"role": "tenant-admin", "tenant": "acme", "namespaces": ["*"], "resources": ["bindings/new", "m/x"]}
    ]
    made = engine(sample_bundle(roles=DELEGATING, bindings=bindings))
    assert reasons(bind(resources=["m/x"]), made) == []
    assert reasons(bind(resources=["m/x/**"]), made) == ["privilege_escalation"]


def test_gap_2_a_key_hands_out_no_more_than_its_own_scopes() -> None:
    narrow = {"context__auth__scopes": ["admin:key.create"], "resource__properties__scopes": ["training:run.create"]}
    assert reasons(question("p086", **narrow), SAMPLE) == ["privilege_escalation"]
    wide = {**narrow, "context__auth__scopes": ["admin:key.create", "training:*"]}
    assert reasons(question("p086", **wide), SAMPLE) == []


def test_gap_3_what_is_held_elsewhere_is_not_given_here() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["user:tara"].append({"role": "ml-engineer", "tenant": "globex", "namespaces": ["*"]})
    made = engine(sample_bundle(bindings=bindings))
    asked = question("p086", resource__properties__scopes=["features:view.write"])
    assert reasons(asked, made) == ["privilege_escalation"]


def test_gap_3_a_role_held_elsewhere_is_not_given_here() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["user:tara"].append({"role": "ml-engineer", "tenant": "globex", "namespaces": ["*"]})
    made = engine(sample_bundle(roles=DELEGATING, bindings=bindings))
    assert reasons(bind(), made) == []
    assert reasons(bind(role="data-scientist"), made) == ["privilege_escalation"]


@pytest.mark.parametrize("by", ["service_account:ci", "somebody", "user:", "user: x", "user:anna\n"])
def test_gap_4_only_people_approve(by: str) -> None:
    approvals = [{"by": "user:bert", "decision": "approve"}, {"by": by, "decision": "approve"}]
    asked = deploy(resource__properties__approvals=approvals)
    assert reasons(asked, SAMPLE) == ["insufficient_approvals"]


def test_gap_5_data_can_demand_that_features_are_named() -> None:
    asked = question("p064")
    strict = engine(sample_bundle(settings={"features_required": True}))
    assert reasons(asked, strict) == ["purpose_not_permitted"]
    asked["resource"]["properties"]["features"] = []
    assert reasons(asked, strict) == []


def test_gap_6_a_null_purpose_fits_nothing_and_any_truthy_consent_counts() -> None:
    pii = {"name": "email", "classification": "pii", "purposes": [None, ""], "consent": False}
    for purpose in (None, "", ...):
        asked = question("p055", resource__properties__features=[pii], context__purpose=purpose)
        assert reasons(asked, SAMPLE) == ["purpose_not_permitted"], purpose
    plain = {"name": "x", "classification": "internal", "purposes": [], "consent": "yes"}
    asked = question("p055", resource__properties__features=[plain])
    assert reasons(asked, SAMPLE) == ["consent_missing"]
    asked = question(
        "p055", resource__properties__features=[plain], context__subject_consents=[None], context__purpose=None
    )
    assert reasons(asked, SAMPLE) == ["consent_missing"]


@pytest.mark.parametrize("limit", [1e308, 0.5, 1.5, -3, 0, "100", None, 1_000_001])
def test_gap_8_an_absurd_card_limit_falls_back_to_the_tier(limit: object) -> None:
    asked = question("p064", resource__properties__card={"rate_limit_per_minute": limit})
    document = SAMPLE.evaluate(json.dumps(asked).encode())
    assert document["obligations"]["rate_limit"] == {"per_minute": 1000, "burst": 100}


def test_gap_8_a_whole_card_limit_counts() -> None:
    asked = question("p064", resource__properties__card={"rate_limit_per_minute": 31})
    document = SAMPLE.evaluate(json.dumps(asked).encode())
    assert document["obligations"]["rate_limit"] == {"per_minute": 31, "burst": 4}


def test_gap_9_a_machine_with_an_administrators_role_is_not_exempt_from_mfa() -> None:
    bindings = copy.deepcopy(dict(CASES.data["bindings"]))
    bindings["service_account:ci"] = [{"role": "policy-admin", "tenant": "*", "namespaces": ["*"]}]
    made = engine(sample_bundle(bindings=bindings))
    asked = question(
        "p083",
        subject__id="service_account:ci",
        subject__type="service_account",
        context__auth__method="api_key",
        context__auth__amr=[],
    )
    assert reasons(asked, made) == ["mfa_required"]


def test_gap_9_an_administrators_role_is_given_to_people_only() -> None:
    made = engine(shipped_bundle())
    for subject, expected in (("user:second", []), ("app:robot", ["privilege_escalation"])):
        binding = {"subject": subject, "role": "policy-admin", "tenant": "default", "namespaces": ["*"]}
        assert reasons(admin("admin:binding.create", "bindings/new", binding=binding), made) == expected


def test_gap_10_a_denial_is_never_cached() -> None:
    allowed = SAMPLE.evaluate(json.dumps(question("p001")).encode())
    assert allowed["obligations"]["cache_ttl_s"] == 5
    denied = SAMPLE.evaluate(json.dumps(question("p018")).encode())
    assert denied["obligations"]["cache_ttl_s"] == 0


# ---- the shipped data


def test_a_lone_engineers_gated_pipeline_deploys_without_anybody_else() -> None:
    made = engine(shipped_bundle())
    asked = admin(
        "inference:deployment.create",
        "endpoints/churn",
        namespace="Production",
        status="approved",
        contributors=["service:trainer"],
        approvals=[],
        evaluation_gate="passed",
        card={},
    )
    assert reasons(asked, made) == []
    asked["resource"]["properties"]["evaluation_gate"] = "failed"
    assert reasons(asked, made) == ["evaluation_gate_not_passed"]


def test_nobody_approves_their_own_version_even_alone() -> None:
    made = engine(shipped_bundle())
    asked = admin(
        "registry:version.approve",
        "models/churn/versions/1",
        namespace="Production",
        status="submitted",
        contributors=["user:admin"],
        approvals=[],
    )
    assert reasons(asked, made) == ["separation_of_duties"]


def test_the_administrator_does_everything_but_what_only_services_do() -> None:
    bundle = shipped_bundle()
    made = engine(bundle)
    for action, entry in bundle.data["catalog"].items():
        found = reasons(admin(action, "things/x", namespace="Development"), made)
        assert ("internal_only" in found) is bool(entry.get("internal")), action
        assert "no_grant" not in found


def test_every_shipped_permission_names_an_action_or_covers_one() -> None:
    bundle = shipped_bundle()
    for role, entry in bundle.data["roles"].items():
        for permission in [*entry["permissions"], *entry.get("may_delegate", [])]:
            assert any(covers(permission, action) for action in bundle.data["catalog"]), (role, permission)


def test_no_shipped_machine_holds_a_role_over_the_rules() -> None:
    bundle = shipped_bundle()
    administered = [name for name, entry in bundle.data["catalog"].items() if entry.get("admin_network")]
    for subject, bindings in bundle.data["bindings"].items():
        if not subject.startswith("user:"):
            for binding in bindings:
                held = [name for name in administered if permits(bundle.data["roles"], binding["role"], name)]
                assert held == [], subject


def test_the_policy_itself_is_reached_by_a_role_of_the_whole_platform_only() -> None:
    bundle = shipped_bundle()
    held = {"user:admin": [{"role": "admin", "tenant": "default", "namespaces": ["*"]}]}
    tenants_own = engine(type(bundle)(modules=bundle.modules, data={**bundle.data, "bindings": held}))
    for action in ("policy:bundle.write", "policy:bundle.rollback", "admin:lockdown.set"):
        asked = admin(action, "policies/2", tenant="*")
        assert reasons(asked, engine(bundle)) == []
        assert "tenant_mismatch" in reasons(asked, tenants_own)
