"""Details of the policy that no worked case shows: boundaries, obligations, what is left alone."""

import copy
import json
from typing import Any

import pytest
from clave_testing.policies import CASES, engine, question, reasons, sample_bundle

SAMPLE = engine()
MACHINE = {
    "subject__id": "service_account:ci",
    "subject__type": "service_account",
    "context__auth__method": "api_key",
    "context__auth__amr": [],
}


def decision(asked: dict[str, Any], made: Any = SAMPLE) -> dict[str, Any]:
    return dict(made.evaluate(json.dumps(asked).encode()))


def obligations(asked: dict[str, Any], made: Any = SAMPLE) -> dict[str, Any]:
    return dict(decision(asked, made)["obligations"])


def with_catalog(action: str, **flags: Any) -> Any:
    catalog = copy.deepcopy(dict(CASES.data["catalog"]))
    catalog[action] = {**catalog[action], **flags}
    return engine(sample_bundle(catalog=catalog))


def with_bindings(subject: str, *held: dict[str, Any], **changes: Any) -> Any:
    bindings = {**CASES.data["bindings"], subject: list(held)}
    return engine(sample_bundle(bindings=bindings, **changes))


# ---- obligations


def test_a_decision_names_the_policy_it_was_made_by() -> None:
    assert decision(question("p001"))["policy_version"] == CASES.data["version"]


def test_audit_is_full_unless_the_catalogue_says_sampled() -> None:
    assert obligations(question("p001"))["audit"] == "sampled"
    assert obligations(question("p011"))["audit"] == "full"
    assert obligations(question("p017"))["audit"] == "full"


def test_only_reads_without_a_window_are_cached() -> None:
    assert obligations(question("p001"))["cache_ttl_s"] == 5
    for flags in ({"mutating": True}, {"mutating": "no"}, {"cache_ttl_s": "5"}):
        assert obligations(question("p001"), with_catalog("registry:model.read", **flags))["cache_ttl_s"] == 0
    made = with_catalog("registry:model.read", windowed=True)
    asked = question("p001", resource__properties__namespace="Development")
    assert decision(asked, made)["allow"] is True
    assert obligations(asked, made)["cache_ttl_s"] == 0


def test_a_subject_without_a_tier_has_the_default_one_if_the_data_name_it() -> None:
    assert obligations(question("p001"))["rate_limit"] == {"per_minute": 60, "burst": 10}
    made = engine(sample_bundle(settings={"default_tier": "batch"}))
    assert obligations(question("p001"), made)["rate_limit"] == {"per_minute": 6000, "burst": 500}
    assert obligations(question("p064"), made)["rate_limit"] == {"per_minute": 1000, "burst": 100}
    unknown = engine(sample_bundle(settings={"default_tier": "no such tier"}))
    assert obligations(question("p001"), unknown)["rate_limit"] == {"per_minute": 60, "burst": 10}


def test_a_cards_limit_counts_from_one_to_a_million_and_for_predictions_only() -> None:
    for limit in (1, 1_000_000):
        asked = question("p064", resource__properties__card={"rate_limit_per_minute": limit})
        assert obligations(asked)["rate_limit"]["per_minute"] == limit
    read = question("p001", resource__properties__card={"rate_limit_per_minute": 5})
    assert obligations(read)["rate_limit"]["per_minute"] == 60


# ---- identity


@pytest.mark.parametrize("at", [1_000_000_000, 10_000_000_000, 0, "1794996000", None, [], True])
def test_a_time_that_is_none_is_malformed(at: object) -> None:
    assert "malformed_input" in reasons(question("p001", context__time=at), SAMPLE)


@pytest.mark.parametrize(
    "path", ["subject__id", "subject__type", "action__name", "resource__type", "resource__id", "resource__properties"]
)
@pytest.mark.parametrize("odd", [None, 5, [], ...])
def test_a_missing_or_odd_part_is_malformed(path: str, odd: object) -> None:
    assert "malformed_input" in reasons(question("p001", **{path: odd}), SAMPLE)


def test_the_kind_of_subject_and_its_name_agree() -> None:
    assert "unauthenticated" in reasons(question("p001", **{**MACHINE, "subject__id": "user:vera"}), SAMPLE)
    assert "unauthenticated" in reasons(question("p001", subject__type="robot"), SAMPLE)
    assert "unauthenticated" in reasons(question("p001", context__auth__method="magic"), SAMPLE)


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("registry:model.read", True),
        ("registry:*", True),
        ("registry:mod*", True),
        ("**", True),
        ("registry:model.rea", False),
        ("registry:model.", False),
        ("*", False),
        ("registry:**", False),
        ("***", False),
        ("", False),
        ("registry:model.read*", True),
    ],
)
def test_scopes_cover_by_name_or_one_trailing_star(scope: str, covered: object) -> None:
    assert (reasons(question("p001", context__auth__scopes=[scope]), SAMPLE) == []) is covered


# ---- grants


def test_two_missing_or_null_tenants_do_not_match() -> None:
    asked = question("p001", subject__properties__tenant=None, resource__properties__tenant=None)
    assert "tenant_mismatch" in reasons(asked, SAMPLE)


def test_a_binding_of_another_tenant_grants_nothing_here() -> None:
    made = with_bindings("user:vera", {"role": "viewer", "tenant": "globex", "namespaces": ["*"]})
    assert reasons(question("p001"), made) == ["namespace_not_bound"]


def person(**changes: Any) -> dict[str, Any]:
    """dana reads no features at all, in an environment."""
    subject = {"subject__id": "user:dana", "subject__type": "user", "context__auth__method": "oidc"}
    return question("p055", **subject, resource__properties__features=[], **changes)


def test_a_binding_of_another_tenant_reaches_no_environment_here() -> None:
    elsewhere = {"role": "data-scientist", "tenant": "globex", "namespaces": ["*"]}
    here = {"role": "data-scientist", "tenant": "acme", "namespaces": ["Staging"]}
    for held, expected in [((here,), []), ((elsewhere,), ["namespace_not_bound"])]:
        made = with_bindings("user:dana", *held)
        asked = person(resource__properties__namespace="Staging")
        assert reasons(asked, made) == expected


def test_what_is_bound_everywhere_needs_neither_tenant_nor_environment() -> None:
    held = {"role": "data-scientist", "tenant": "*", "namespaces": ["*"]}
    made = with_bindings("user:dana", held)
    asked = person(resource__properties__namespace=...)
    assert reasons(asked, made) == []
    del asked["resource"]["properties"]["tenant"]
    assert reasons(asked, made) == []
    local = with_bindings("user:dana", {**held, "namespaces": ["Staging"]})
    assert reasons(asked, local) == ["namespace_not_bound"]


@pytest.mark.parametrize(
    ("pattern", "bound"),
    [
        ("**", True),
        ("models/fraud/versions/3", True),
        ("models/fraud/**", True),
        ("models/fraud/versions/3/**", False),
        ("models/fraud/versions/", False),
        ("models/fraud", False),
        ("models/fra/**", False),
        ("models/*", False),
        ("/**", False),
        ("*", False),
    ],
)
def test_resources_are_bound_by_id_or_by_what_lies_below(pattern: str, bound: object) -> None:
    held = {"role": "viewer", "tenant": "acme", "namespaces": ["*"], "resources": [pattern]}
    assert (reasons(question("p003"), with_bindings("user:vera", held)) == []) is bound


# ---- protection


def test_an_application_with_a_certificate_is_still_no_service() -> None:
    held = {"role": "drift-service", "tenant": "acme", "namespaces": ["*"]}
    asked = question("p080", subject__id="app:x", subject__type="app", resource__properties__tenant="acme")
    asked["subject"]["properties"]["tenant"] = "acme"
    assert reasons(asked, with_bindings("app:x", held)) == ["internal_only"]


def test_machines_need_no_second_factor_but_for_administration_that_they_hold() -> None:
    delete = question(
        "p046", action__name="inference:deployment.delete", **MACHINE, resource__properties__namespace="Staging"
    )
    assert reasons(delete, SAMPLE) == []
    assert reasons(question("p083", **MACHINE), SAMPLE) == ["no_grant"]


def test_the_network_matters_only_where_the_catalogue_says_so() -> None:
    assert reasons(question("p001", context__source_ip="8.8.8.8"), SAMPLE) == []
    assert reasons(question("p001", context__source_ip=...), SAMPLE) == []


def test_lockdown_exempts_what_is_listed_and_only_what_exists() -> None:
    def locked(*exempt: str) -> Any:
        return engine(sample_bundle(lockdown=True, settings={"lockdown_exempt": list(exempt)}))

    assert "lockdown" in reasons(question("p086"), locked())
    assert "lockdown" not in reasons(question("p086"), locked("admin:*"))
    assert "lockdown" in reasons(question("p086"), locked("admin:lockdown.set"))
    assert "lockdown" not in reasons(question("p086", action__name="admin:new.thing"), locked("admin:*"))
    assert reasons(question("p011"), locked("registry:model.*")) == []
    assert reasons(question("p011"), locked("admin:*")) == ["lockdown"]
    nuke = question("p011", action__name="registry:model.nuke")
    assert "lockdown" in reasons(nuke, locked("registry:model.*"))


# ---- quotas


@pytest.mark.parametrize(
    ("request_", "jobs", "fits"),
    [
        ({"cpus": 8, "max_runtime_s": 14400}, 3, True),
        ({"cpus": 1, "max_runtime_s": 1}, 0, True),
        ({"cpus": 8.5, "max_runtime_s": 14400}, 3, False),
        ({"cpus": 8, "max_runtime_s": 14401}, 3, False),
        ({"cpus": 8, "max_runtime_s": 14400}, 4, False),
        ({"cpus": 0, "max_runtime_s": 14400}, 3, False),
        ({"cpus": 8, "max_runtime_s": 0}, 3, False),
        ({"cpus": 8}, 3, False),
    ],
)
def test_a_quota_is_used_up_exactly(request_: dict[str, Any], jobs: object, fits: object) -> None:
    asked = question("p071", resource__properties__request=request_, context__running_jobs=jobs)
    assert reasons(asked, SAMPLE) == ([] if fits else ["quota_exceeded"])


# ---- windows


@pytest.mark.parametrize(
    ("named", "recorded_by", "allowed"),
    [
        (["service:trainer", "app:ci"], "service:trainer", True),
        (["service:trainer", "app:ci"], "app:ci", True),
        (["service:trainer"], "user:emil", False),
        (["service:trainer"], ..., False),
        ([None], None, False),
        ([], "service:trainer", False),
        ("service:trainer", "service:trainer", False),
        ({"a": "service:trainer"}, "service:trainer", False),
        (None, "service:trainer", False),
        (False, ..., True),
    ],
)
def test_an_environment_may_name_whose_evaluations_count(named: Any, recorded_by: Any, allowed: bool) -> None:
    namespaces = sample_bundle().data["namespaces"]
    strict = {**namespaces, "Production": {**namespaces["Production"], "require_evaluated_by": named}}
    deployment = {"action__name": "inference:deployment.create", "subject__id": "user:emil"}
    asked = question("p035", **deployment, resource__properties__evaluated_by=recorded_by)
    assert reasons(asked, engine(sample_bundle(namespaces=strict))) == ([] if allowed else ["evaluator_not_accepted"])
    assert reasons(asked, SAMPLE) == []


def test_whose_evaluation_it_is_matters_to_releases_alone() -> None:
    namespaces = sample_bundle().data["namespaces"]
    strict = {**namespaces, "Production": {**namespaces["Production"], "require_evaluated_by": ["service:trainer"]}}
    for action, expected in (
        ("inference:deployment.create", ["evaluator_not_accepted"]),
        ("registry:version.read", []),
    ):
        asked = question("p035", action__name=action, subject__id="user:emil")
        assert reasons(asked, engine(sample_bundle(namespaces=strict))) == expected


def test_a_reason_of_ten_characters_breaks_the_glass_and_nine_do_not() -> None:
    for reason, expected in (("0123456789", []), ("012345678", ["outside_change_window"])):
        asked = question("p052", context__break_glass={"ticket": "INC-1234", "reason": f"  {reason}  "})
        assert reasons(asked, SAMPLE) == expected


# ---- purpose and consent

PII = {"name": "email", "classification": "pii", "purposes": ["fraud-detection"], "consent": True}


def test_a_withheld_feature_is_masked_where_both_sides_accept_that() -> None:
    asked = question("p055", resource__properties__features=[PII], context__purpose="x", context__on_withheld="mask")
    assert reasons(asked, SAMPLE) == [], "a withheld feature needs no consent either"
    assert obligations(asked)["mask"] == ["email"]
    for other in ("drop", None, True):
        asked["context"]["on_withheld"] = other
        assert reasons(asked, SAMPLE) == ["purpose_not_permitted"]


def test_a_feature_without_a_name_is_refused_masked_or_not() -> None:
    for feature in ({"classification": "public"}, {"name": 5, "classification": "public"}):
        for mask in ("mask", None):
            asked = question("p055", resource__properties__features=[feature], context__on_withheld=mask)
            assert "purpose_not_permitted" in reasons(asked, SAMPLE)


def test_actions_that_read_no_features_do_not_care_about_them() -> None:
    plain = {"name": "x", "classification": "internal", "purposes": [], "consent": True}
    for odd in ("x", [{}], [PII], [plain], None):
        asked = question("p001", resource__properties__features=odd, context__purpose=None)
        assert reasons(asked, SAMPLE) == []


# ---- delegation


def mint(scopes: Any, **changes: Any) -> dict[str, Any]:
    return question("p086", resource__properties__scopes=scopes, **changes)


@pytest.mark.parametrize(
    ("scopes", "given"),
    [
        (["inference:predict"], True),
        (["admin:key.*"], True),
        (["admin:key.create"], True),
        (["inference:predict", "registry:model.read"], True),
        (["inference:predict", "policy:bundle.write"], False),
        (["admin:key.c*"], False),
        (["admin:*"], False),
        (["**"], False),
        (["*"], False),
        ([], False),
        ([None], False),
        ("inference:predict", False),
        ({"a": "inference:predict"}, False),
        (None, False),
    ],
)
def test_scopes_are_given_verbatim_or_by_a_plain_name_that_is_held(scopes: Any, given: object) -> None:
    assert (reasons(mint(scopes), SAMPLE) == []) is given


def test_whoever_holds_everything_gives_anything() -> None:
    roles = {**CASES.data["roles"], "owner": {"permissions": ["**"]}}
    made = with_bindings("user:tara", {"role": "owner", "tenant": "acme", "namespaces": ["*"]}, roles=roles)
    for scope in ("**", "registry:*", "policy:bundle.write"):
        assert reasons(mint([scope]), made) == []
    assert reasons(mint([5]), made) == ["privilege_escalation"]


def bind(**changes: Any) -> dict[str, Any]:
    asked = {"subject": "app:new", "role": "scoring-app", "tenant": "acme", "namespaces": ["Production"]}
    return {"tenant": "acme", "binding": {**asked, **changes}}


def test_a_credential_narrows_the_roles_it_gives() -> None:
    roles = copy.deepcopy(dict(CASES.data["roles"]))
    roles["tenant-admin"]["may_delegate"].append("inference:deployment.read")
    made = engine(sample_bundle(roles=roles))
    scopes = ["admin:binding.create", "inference:*", "features:*"]
    asked = question(
        "p086",
        action__name="admin:binding.create",
        resource__id="bindings/new",
        resource__properties=bind(),
        context__auth__scopes=scopes,
    )
    assert reasons(asked, made) == []
    asked["context"]["auth"]["scopes"] = scopes[:2]
    assert reasons(asked, made) == ["privilege_escalation"]


def test_any_action_that_the_catalogue_flags_gives_roles_within_bounds() -> None:
    made = with_catalog("admin:key.create", binds_role=True, delegates=False)
    assert reasons(question("p086", resource__properties=bind(role="policy-admin")), made) == ["privilege_escalation"]
    assert reasons(question("p011"), made) == []


def test_an_unknown_or_nameless_role_is_not_given() -> None:
    for changes in ({"role": None}, {"role": 5}, {"role": ""}, {"role": "nobody"}):
        asked = question("p086", action__name="admin:binding.create", resource__properties=bind(**changes))
        assert "privilege_escalation" in reasons(asked, SAMPLE)
