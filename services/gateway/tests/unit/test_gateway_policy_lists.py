"""Lists, roles with what they inherit, and what the shipped data demand beyond the worked cases."""

from typing import Any

import orjson
import pytest
import regorus
from clave_common.access.policy_bundle import PolicyBundle
from clave_gateway.domain.roles import permits
from clave_gateway.policy_cases import run_cases
from clave_testing.policies import CASES, bare, engine, question, reasons, sample_bundle, shipped_bundle

NOW = 1_794_988_800


def asked(action: str, *, who: str = "user:ada", resource: str = "list", **properties: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": who, "properties": {"tenant": "acme", "groups": []}},
        "action": {"name": action},
        "resource": {"type": "thing", "id": resource, "properties": {"tenant": "acme", **properties}},
        "context": {
            "time": NOW,
            "source_ip": "127.0.0.1",
            "auth": {"method": "api_key", "expires_at": NOW + 60, "scopes": ["**"], "amr": [], "key_id": "k"},
        },
    }


def shipped_with(*held: dict[str, Any], who: str = "user:ada", **data: Any) -> PolicyBundle:
    shipped = shipped_bundle()
    return PolicyBundle(shipped.modules, {**shipped.data, "bindings": {who: list(held)}, **data})


def visible(bundle: PolicyBundle, question_: dict[str, Any]) -> list[Any]:
    made = engine(bundle)
    found = made._ask(question_, "data.clave.filters.visible")
    return list(found) if isinstance(found, list) else []


ONE = {"role": "viewer", "tenant": "acme", "namespaces": ["Staging"], "resources": ["models/churn"]}


async def test_data_without_what_was_worked_out_decide_the_same() -> None:
    assert (await run_cases(bare(sample_bundle()), CASES.cases)).failures == []


@pytest.mark.parametrize("made", [engine, bare])
def test_a_role_grants_what_it_inherits(made: Any) -> None:
    held = {"role": "ml-engineer", "tenant": "acme", "namespaces": ["*"]}
    decides = made(shipped_with(held))
    for action in ("registry:model.read", "registry:version.create", "registry:webhook.manage"):
        assert reasons(asked(action, resource="models/x"), decides) == []
    assert reasons(asked("registry:hold.manage", resource="models/x"), decides) == ["no_grant"]


@pytest.mark.parametrize("made", [engine, bare])
def test_each_binding_reaches_its_own_things_in_its_own_environments(made: Any) -> None:
    places = [("Staging", "data/a"), ("Production", "data/b/**")]
    scientist = {"role": "data-scientist", "tenant": "acme"}
    decides = made(shipped_with(*({**scientist, "namespaces": [n], "resources": [r]} for n, r in places)))
    catalog = shipped_bundle().data["catalog"]
    assert catalog["training:run.cancel"]["namespaced"] is True
    for namespace, resource, refused in [
        ("Staging", "data/a", []),
        ("Staging", "data/a/x", ["resource_not_bound"]),
        ("Staging", "data/b/x", ["resource_not_bound"]),
        ("Production", "data/b/x", []),
        ("Production", "data/a", ["resource_not_bound"]),
        ("Production", "data/b", ["resource_not_bound"]),
        ("Development", "data/a", ["namespace_not_bound"]),
    ]:
        question_ = asked("training:run.cancel", resource=resource, namespace=namespace)
        assert reasons(question_, decides) == refused, (namespace, resource)


def test_a_role_is_given_with_all_that_it_inherits() -> None:
    held = {"role": "ml-engineer", "tenant": "acme", "namespaces": ["*"]}
    binding = {"subject": "user:new", "tenant": "acme", "namespaces": ["*"]}
    decides = engine(shipped_with(held, {"role": "tenant-admin", "tenant": "acme", "namespaces": ["*"]}))
    for role, refused in [("data-scientist", []), ("approver", ["privilege_escalation"])]:
        wanted = asked("admin:binding.create", resource="bindings/new", binding={**binding, "role": role})
        assert reasons(wanted, decides) == refused


@pytest.mark.parametrize("made", [engine, bare])
def test_what_may_be_handed_out_is_not_thereby_held(made: Any) -> None:
    decides = made(shipped_with({"role": "tenant-admin", "tenant": "acme", "namespaces": ["*"]}))
    named = {"namespace": "Production", "status": "approved", "features": [], "card": {}, "contributors": []}
    assert reasons(asked("inference:predict", resource="endpoints/x", **named), decides) == ["no_grant"]
    assert reasons(asked("admin:key.create", resource="keys/new", scopes=["inference:predict"]), decides) == []
    wanted = asked("admin:key.create", resource="keys/new", scopes=["registry:model.delete"])
    assert reasons(wanted, decides) == ["privilege_escalation"]


def test_the_administrator_binds_every_role_that_is_for_others_within_the_engines_bounds() -> None:
    admin = {"role": "admin", "tenant": "*", "namespaces": ["*"]}
    decides = engine(shipped_with(admin))
    everywhere = ["Development", "Staging", "Production"]
    for role in shipped_bundle().data["roles"]:
        for namespaces, resources in ((["*"], ["**"]), (everywhere, [f"models/m{number}/**" for number in range(50)])):
            given = {"role": role, "tenant": "acme", "namespaces": namespaces, "resources": resources}
            binding = {"subject": "user:new", **given}
            assert reasons(asked("admin:binding.create", resource="bindings/new", binding=binding), decides) == [], role


def test_whoever_may_see_some_rows_may_ask_for_the_list() -> None:
    decides = engine(shipped_with(ONE))
    assert reasons(asked("registry:model.list", listing=True), decides) == []
    assert reasons(asked("registry:model.list"), decides) == ["resource_not_bound"]
    assert reasons(asked("registry:model.list", listing="yes"), decides) == ["resource_not_bound"]
    assert reasons(asked("registry:run.write", listing=True), decides) == ["no_grant"]


def test_a_change_is_no_list_whatever_it_says() -> None:
    held = {**ONE, "role": "ml-engineer"}
    decides = engine(shipped_with(held))
    assert reasons(asked("registry:model.update", resource="models/x", listing=True), decides) == ["resource_not_bound"]


def test_a_list_of_something_with_an_environment_needs_one_environment_at_least() -> None:
    catalog = {**shipped_bundle().data["catalog"], "registry:model.list": {"mutating": False, "namespaced": True}}
    assert reasons(asked("registry:model.list", listing=True), engine(shipped_with(ONE, catalog=catalog))) == []


def test_each_binding_that_grants_a_list_gives_one_clause() -> None:
    wide = {"role": "auditor", "tenant": "*", "namespaces": ["*"]}
    other = {"role": "viewer", "tenant": "rival", "namespaces": ["*"]}
    scoring = {"role": "scoring-app", "tenant": "acme", "namespaces": ["*"]}
    clauses = visible(shipped_with(ONE, wide, other, scoring), asked("registry:model.list"))
    assert sorted(clauses, key=lambda clause: str(clause["tenant"])) == [
        {"tenant": None, "namespaces": ["*"], "resources": ["**"]},
        {"tenant": "acme", "namespaces": ["Staging"], "resources": ["models/churn"]},
    ]


@pytest.mark.parametrize(
    "path",
    [
        {"subject__type": "service"},
        {"context__auth__expires_at": NOW},
        {"context__auth__scopes": ["registry:run.read"]},
        {"context__time": 0},
        {"subject__properties__tenant": "rival"},
        {"resource__type": None},
    ],
)
def test_a_bad_credential_sees_no_row(path: dict[str, Any]) -> None:
    bundle = shipped_with(ONE)
    assert visible(bundle, asked("registry:model.list"))
    spoilt = asked("registry:model.list")
    for name, value in path.items():
        *parents, last = name.split("__")
        target = spoilt
        for parent in parents:
            target = target[parent]
        target[last] = value
    assert visible(bundle, spoilt) == []


def test_what_an_action_demands_of_its_caller_a_list_demands_too() -> None:
    auditor = {"role": "auditor", "tenant": "acme", "namespaces": ["*"]}
    settings = {**shipped_bundle().data["settings"], "mfa_enforced": True}
    assert visible(shipped_with(auditor), asked("audit:log.read"))
    assert visible(shipped_with(auditor, settings=settings), asked("audit:log.read")) == []
    catalog = {**shipped_bundle().data["catalog"]}
    for flag in ("internal", "admin_network"):
        catalog["audit:log.read"] = {"mutating": False, "namespaced": False, flag: True}
        narrow = shipped_with(auditor, catalog=catalog, admin_networks=["10.0.0.0/8"])
        assert visible(narrow, asked("audit:log.read")) == []
    assert visible(shipped_with(auditor, disabled_subjects=["user:ada"]), asked("audit:log.read")) == []


def test_a_list_demands_no_more_than_its_action_does() -> None:
    settings = {**shipped_bundle().data["settings"], "mfa_enforced": True}
    strict = shipped_with(ONE, settings=settings, admin_networks=["10.0.0.0/8"])
    far = asked("registry:model.list")
    far["context"]["source_ip"] = "8.8.8.8"
    assert visible(strict, far)
    catalog = {**shipped_bundle().data["catalog"]}
    catalog["registry:model.list"] = {"mutating": False, "namespaced": False, "admin_network": True}
    assert visible(shipped_with(ONE, catalog=catalog), asked("registry:model.list"))
    assert visible(shipped_with(ONE, catalog=catalog), far) == []
    catalog["registry:model.list"] = {"mutating": False, "namespaced": False, "internal": True}
    service = asked("registry:model.list", who="service:registry")
    service["subject"]["type"], service["context"]["auth"]["method"] = "service", "internal_jwt"
    assert visible(shipped_with(ONE, who="service:registry", catalog=catalog), service)


def test_gap_5_the_shipped_data_demand_that_whoever_reads_features_names_them() -> None:
    held = {"role": "data-scientist", "tenant": "acme", "namespaces": ["*"]}
    decides = engine(shipped_with(held, quotas={"acme": {"cpus": 1, "max_runtime_s": 60, "max_jobs": 2}}))
    named = {"namespace": "Production", "status": "approved", "card": {}, "contributors": []}
    run = {"namespace": "Production", "request": {"cpus": 1, "max_runtime_s": 60}}
    for action, properties in [
        ("inference:predict", named),
        ("features:online.read", {}),
        ("features:offline.read", {}),
        ("training:run.create", run),
    ]:
        silent = asked(action, resource="x", **properties)
        silent["context"]["running_jobs"] = 0
        assert reasons(silent, decides) == ["purpose_not_permitted"], action
        silent["resource"]["properties"]["features"] = []
        assert reasons(silent, decides) == [], action


def test_sample_questions_of_break_glass_read_the_closure_too() -> None:
    held = {"bindings": {**CASES.data["bindings"]}}
    glass = {"ticket": "INC-12345", "reason": "the model harms people"}
    late = question("p048", context__break_glass=glass, context__auth__amr=["mfa"])
    for role, refused in [("incident-commander", []), ("viewer", ["outside_change_window"])]:
        more = [*held["bindings"]["user:emil"], {"role": role, "tenant": "acme", "namespaces": ["*"]}]
        bundle = sample_bundle(bindings={**held["bindings"], "user:emil": more})
        assert reasons(late, engine(bundle)) == refused
        assert reasons(late, bare(bundle)) == refused


@pytest.mark.parametrize("made", [engine, bare])
def test_a_pattern_is_given_by_whoever_holds_it_in_role_and_credential(made: Any) -> None:
    decides = made(shipped_with({"role": "tenant-admin", "tenant": "acme", "namespaces": ["*"]}))
    wanted = asked("admin:key.create", resource="keys/new", scopes=["admin:key.*"])
    wanted["context"]["auth"]["scopes"] = ["admin:key.*"]
    assert reasons(wanted, decides) == []
    wanted["resource"]["properties"]["scopes"] = ["admin:*"]
    assert reasons(wanted, decides) == ["privilege_escalation"]


@pytest.mark.parametrize("made", [engine, bare])
def test_whoever_may_do_everything_gives_any_single_action(made: Any) -> None:
    decides = made(shipped_with({"role": "admin", "tenant": "*", "namespaces": ["*"]}))
    wanted = asked("admin:key.create", resource="keys/new", scopes=["inference:predict", "drift:alert.*"])
    assert reasons(wanted, decides) == []


def included(model: dict[str, Any], *held: dict[str, Any], **subject: Any) -> Any:
    """What the rule for engines that compile filters says of one row; None where it says nothing."""
    bundle = shipped_with(*held)
    data = orjson.dumps({"clave": bundle.document()}).decode()
    rule = "data.clave.filters.include"
    machine = regorus.Rvm()
    machine.load_program(regorus.Program.compile_from_modules(data, sorted(bundle.modules.items()), [rule]))
    machine.set_data_json(data)
    question_ = asked("registry:model.list")
    question_["subject"] |= subject
    machine.set_input_json(orjson.dumps({**question_, "models": model}).decode())
    answer = machine.execute_entry_point(rule)
    return answer if answer == "true" else None


def test_a_row_is_included_by_its_tenants_choice_its_owner_or_the_platforms_auditor() -> None:
    tenants = {"tenant": "acme", "visibility": "tenant", "owner": "user:other"}
    private = {**tenants, "visibility": "private"}
    mine = {**private, "owner": "user:ada"}
    assert [included(model) for model in (tenants, private, mine)] == ["true", None, "true"]
    assert [included({**model, "tenant": "rival"}) for model in (tenants, mine)] == [None, None]
    for held, seen in [
        ({"role": "auditor", "tenant": "*"}, "true"),
        ({"role": "auditor", "tenant": "acme"}, None),
        ({"role": "viewer", "tenant": "*"}, None),
    ]:
        assert included({**private, "tenant": "rival"}, {**held, "namespaces": ["*"]}) == seen


def test_whoever_oversees_reads_no_persons_features() -> None:
    roles = shipped_bundle().data["roles"]
    for role in ("auditor", "compliance-officer", "policy-admin", "tenant-admin", "approver", "viewer"):
        for action in ("features:offline.read", "features:online.read", "drift:labelled.read"):
            assert not permits(roles, role, action), (role, action)
