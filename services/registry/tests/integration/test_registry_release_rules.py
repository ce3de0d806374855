"""What a release takes: people by risk class, words that are still fresh, and an open window at the last step."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from clave.signing import sign_files
from clave_common.access import Access
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.engine import EmbeddedEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_testing.patience import PATIENCE_S
from registry_bench import API, Bench, policy_bundle, register, version_request
from sqlalchemy import text

pytestmark = pytest.mark.integration
CLOSED = [{"days": [], "from_minute": 0, "to_minute": 1440}]


class Policy:
    """The shipped policy, whose windows a test opens and closes."""

    def __init__(self) -> None:
        self.engine = EmbeddedEngine()
        self.snapshot: Snapshot | None = None

    async def lock_down(self) -> None:
        shipped = policy_bundle()
        await self._use(PolicyBundle(modules=shipped.modules, data={**shipped.data, "lockdown": True}))

    async def set_windows(self, windows: list[Mapping[str, Any]], **rules: Any) -> None:
        shipped = policy_bundle()
        given = {"windows": windows, **rules}
        namespaces = {name: {**shipped_rules, **given} for name, shipped_rules in shipped.data["namespaces"].items()}
        await self._use(PolicyBundle(modules=shipped.modules, data={**shipped.data, "namespaces": namespaces}))

    async def _use(self, bundle: PolicyBundle) -> None:
        await self.engine.load(bundle)
        self.snapshot = Snapshot(revision=1, issued_at=0.0, keys={}, bundle=bundle)


POLICY = Policy()


@pytest.fixture(autouse=True)
async def no_windows() -> None:
    await POLICY.set_windows([])


@pytest.fixture(scope="module")
async def policy_access() -> Access:
    await POLICY.set_windows([])
    return Access(LocalDecisionPoint(POLICY.engine, lambda: POLICY.snapshot))


async def submitted(bench: Bench, *, risk_class: str) -> str:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn", "risk_class": risk_class}, expect=201)
    card = {"intended_use": "x", "limitations": ["y"], "ethical_considerations": "z"}
    version = (await register(bench, card=card))["version"]
    path = f"{API}/models/churn/versions/{version}"
    await bench.call("user:ana", "POST", f"{path}/submit", {}, expect=200)
    return path


async def status(bench: Bench, path: str) -> tuple[str, int]:
    shown = (await bench.call("user:vic", "GET", path, expect=200)).json()
    return shown["status"], shown["approvals_needed"]


async def test_a_high_risk_model_takes_two_people_who_did_not_make_it(bench: Bench) -> None:
    path = await submitted(bench, risk_class="high")
    assert await status(bench, path) == ("submitted", 2)
    await bench.call("user:bob", "POST", f"{path}/approve", {}, expect=200)
    assert await status(bench, path) == ("submitted", 2)
    again = await bench.call("user:bob", "POST", f"{path}/approve", {})
    assert again.status_code == 403
    assert "already_approved_by_subject" in again.text
    await bench.call("service:trainer", "POST", f"{path}/approve", {}, expect=403)
    await bench.call("user:cat", "POST", f"{path}/approve", {}, expect=200)
    assert (await status(bench, path))[0] == "approved"


async def test_an_approval_for_development_opens_no_way_to_production(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn", "risk_class": "limited"}, expect=201)
    await register(bench, card={"intended_use": "x"})
    path = f"{API}/models/churn/versions/1"
    done = await bench.call("user:ana", "POST", f"{path}/submit", {"namespace": "Development"}, expect=200)
    assert done.json()["status"] == "approved"
    body = {"name": "churn", "model": "churn", "version": 1}
    refused = await bench.call("user:eve", "POST", f"{API}/endpoints", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "approvals_missing")
    await bench.call("user:eve", "POST", f"{API}/endpoints", {**body, "namespace": "Development"}, expect=201)


async def test_an_approval_that_is_no_longer_fresh_releases_nothing(bench: Bench) -> None:
    path = await submitted(bench, risk_class="limited")
    await bench.call("user:bob", "POST", f"{path}/approve", {}, expect=200)
    async with bench.database.transaction() as tx:
        await tx.session.execute(text("update registry.approvals set at = at - interval '15 days'"))
    body = {"name": "churn", "model": "churn", "version": 1}
    refused = await bench.call("user:eve", "POST", f"{API}/endpoints", body)
    assert refused.json()["code"] == "approvals_missing"
    assert "14 days" in refused.json()["detail"]


async def test_approval_is_refused_while_the_card_lacks_what_only_people_can_write(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn", "risk_class": "limited"}, expect=201)
    await register(bench)
    path = f"{API}/models/churn/versions/1"
    await bench.call("user:ana", "POST", f"{path}/submit", {}, expect=200)
    refused = await bench.call("user:bob", "POST", f"{path}/approve", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "card_incomplete")
    assert "lacks intended_use. Write it with 'clave card edit churn 1'" in refused.json()["detail"]
    waiting = (await bench.call("user:bob", "GET", path, expect=200)).json()
    assert (waiting["status"], waiting["approvals"]) == ("submitted", [])
    await bench.call("user:ana", "PATCH", f"{path}/card", {"intended_use": "Retention offers"}, expect=200)
    done = (await bench.call("user:bob", "POST", f"{path}/approve", {}, expect=200)).json()
    assert done["status"] == "approved"


async def ticked(bench: Bench, rollout_id: str, *, until: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await bench.wired.operations.rollouts.advance(rollout_id)
            answer = await bench.call("user:vic", "GET", f"{API}/rollouts/{rollout_id}", expect=200)
            shown: dict[str, Any] = answer.json()
            if until in {shown["state"], shown["outcome"]} or until in shown["outcome"]:
                return shown


async def test_a_freeze_that_begins_during_a_rollout_holds_its_promotion(bench: Bench) -> None:
    for _ in range(2):
        version = (await register(bench))["version"]
        await bench.call("user:ana", "POST", f"{API}/models/churn/versions/{version}/submit", {}, expect=200)
    body = {"name": "churn", "model": "churn", "version": 1}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    plan = {"steps": [{"weight": 0.5, "bake_s": 0, "rows_min": 1}]}
    started = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 2, "plan": plan}, expect=201
    )
    rollout_id = started.json()["id"]
    await POLICY.set_windows(CLOSED)
    held = await ticked(bench, rollout_id, until="policy holds the promotion (outside_change_window)")
    assert held["state"] == "canary"
    frozen = await bench.call("user:eve", "POST", f"{API}/rollouts/{rollout_id}/pause", {}, expect=200)
    assert frozen.json()["state"] == "paused"
    resumed = await bench.call("user:eve", "POST", f"{API}/rollouts/{rollout_id}/resume", {})
    assert resumed.status_code == 403
    await POLICY.set_windows([])
    await bench.call("user:eve", "POST", f"{API}/rollouts/{rollout_id}/resume", {}, expect=200)
    assert (await ticked(bench, rollout_id, until="promoted"))["state"] == "promoted"


async def test_a_namespace_that_asks_for_a_signature_gets_one_that_verifies(bench: Bench) -> None:
    await POLICY.set_windows([], require_signature=True)
    version = await register(bench)
    path = f"{API}/models/churn/versions/1"
    await bench.call("user:ana", "POST", f"{path}/submit", {}, expect=200)
    body = {"name": "churn", "model": "churn", "version": 1}
    unsigned = await bench.call("user:eve", "POST", f"{API}/endpoints", body)
    assert (unsigned.status_code, unsigned.json()["reasons"]) == (403, ["artifact_not_signed"])
    files = {artifact["path"]: artifact["digest"] for artifact in version["artifacts"]}
    other = sign_files("churn-v1", {**files, "model.onnx": "0" * 64}, private_key=bench.signing_key)
    for bundle in (other, b"{}", b"\xff"):
        refused = await bench.call("user:eve", "POST", f"{path}/signatures", content=bundle)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_signature")
    bundle = sign_files("churn-v1", files, private_key=bench.signing_key)
    await bench.call("user:ana", "POST", f"{path}/signatures", content=bundle, expect=403)
    added = (await bench.call("user:eve", "POST", f"{path}/signatures", content=bundle, expect=200)).json()
    assert (added["verified"], len(added["signatures"])) == (True, 1)
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    desired = (await bench.call("service:inference", "GET", f"{API}/desired", expect=200)).json()
    assert desired["versions"][0]["signature_verified"] is True
    async with bench.database.transaction() as tx:
        await tx.session.execute(text("update registry.version_signatures set bundle = convert_to('{}', 'utf8')"))
    assert (await bench.call("user:vic", "GET", f"{path}/signatures", expect=200)).json()["verified"] is False
    spoilt = (await bench.call("service:inference", "GET", f"{API}/desired", expect=200)).json()
    assert spoilt["versions"][0]["signature_verified"] is False
    history = (await bench.call("user:vic", "GET", f"{path}/history", expect=200)).json()["events"]
    assert "signed" in [event["action"] for event in history]


async def test_a_namespace_that_names_its_evaluators_takes_nobody_elses_figures(bench: Bench) -> None:
    await POLICY.set_windows([], require_evaluated_by=["service:trainer", "user:eve"])
    version = await register(bench)
    assert version["evaluated_by"] == "user:ana"
    body = version_request([{key: version["artifacts"][0][key] for key in ("path", "digest", "size")}])
    versions = f"{API}/models/churn/versions"
    on_behalf = {"x-clave-on-behalf-of": "user:ana"}
    made = await bench.call("service:trainer", "POST", versions, body, headers=on_behalf, expect=201)
    assert made.json()["evaluated_by"] == "service:trainer"
    bare = await bench.call("user:eve", "POST", versions, {**body, "evaluation": None}, expect=201)
    assert bare.json()["evaluated_by"] is None, "no evaluation, no evaluator"
    for number in (1, 2):
        await bench.call("user:ana", "POST", f"{versions}/{number}/submit", {}, expect=200)
    endpoint = {"name": "churn", "model": "churn"}
    refused = await bench.call("user:eve", "POST", f"{API}/endpoints", {**endpoint, "version": 1})
    assert (refused.status_code, refused.json()["reasons"]) == (403, ["evaluator_not_accepted"])
    await bench.call("user:eve", "POST", f"{API}/endpoints", {**endpoint, "version": 2}, expect=201)
    await POLICY.set_windows([])
    await bench.call("user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 1}, expect=201)


async def test_a_plans_limits_roll_back_what_the_monitor_would_let_pass(bench: Bench) -> None:
    for _ in range(2):
        version = (await register(bench))["version"]
        await bench.call("user:ana", "POST", f"{API}/models/churn/versions/{version}/submit", {}, expect=200)
    await bench.call("user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1})
    bench.source.figures = {"challenger": {"rows": 500, "errors": 50}}
    plan = {"steps": [{"weight": 0.5, "bake_s": 0, "rows_min": 1}], "thresholds": {"error_rate_max": 0.05}}
    started = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 2, "plan": plan}, expect=201
    )
    ended = await ticked(bench, started.json()["id"], until="rolled_back")
    assert "error rate is 0.1, over the plan's limit 0.05" in ended["outcome"]


async def test_one_call_says_who_answered_then_approved_by_whom_and_made_from_what(bench: Bench) -> None:
    path = await submitted(bench, risk_class="limited")
    await bench.call("user:bob", "POST", f"{path}/approve", {"comment": "read it"}, expect=200)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )
    answer = await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", expect=200)
    moment = answer.json()["entries"][0]["since"]
    then = await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", params={"at": moment}, expect=200)
    (entry,) = then.json()["entries"]
    assert (entry["model"], entry["version"], entry["by"]) == ("churn", 1, "user:eve")
    assert (entry["approved_by"], entry["approvals"][0]["comment"]) == (["user:bob"], "read it")
    assert (entry["datasets"][0]["digest"], entry["run_id"]) == ("a" * 64, "run_1")
    assert entry["gates"][0]["gate"] == "auc"
    before = await bench.call(
        "user:vic", "GET", f"{API}/endpoints/churn/history", params={"at": "2020-01-01T00:00:00Z"}, expect=200
    )
    assert before.json()["entries"] == []


async def test_what_asked_for_a_persons_judgement_is_not_judged_by_an_environment_that_asks_nobody(
    bench: Bench,
) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn", "risk_class": "minimal"}, expect=201)
    evaluation = version_request([])["evaluation"]
    evaluation["passed"] = False
    evaluation["gates"][0]["verdict"] = "review"
    await register(bench, evaluation=evaluation)
    path = f"{API}/models/churn/versions/1"
    done = await bench.call("user:ana", "POST", f"{path}/submit", {"namespace": "Development"}, expect=200)
    assert (done.json()["status"], done.json()["approved_by"]) == ("approved", "policy")
    endpoint = {"name": "churn", "model": "churn", "version": 1}
    refused = await bench.call("user:eve", "POST", f"{API}/endpoints", {**endpoint, "namespace": "Production"})
    assert (refused.status_code, refused.json().get("reasons")) == (403, ["evaluation_gate_not_passed"]), refused.text
    await bench.call("user:eve", "POST", f"{API}/endpoints", {**endpoint, "namespace": "Development"}, expect=201)


async def test_in_lockdown_no_name_is_taken_and_traffic_still_goes_back(bench: Bench) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn", "risk_class": "minimal"}, expect=201)
    await POLICY.lock_down()
    taken = await bench.call("user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn"})
    assert (taken.status_code, taken.json().get("reasons")) == (403, ["lockdown"]), taken.text
    await POLICY.set_windows([])
    await bench.call("user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn"}, expect=201)
    await POLICY.lock_down()
    back = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/roll-back", {"reason": "it errs"})
    assert back.json()["code"] == "no_previous_version", back.text
