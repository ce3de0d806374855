"""A version from upload to live traffic, through the registry's own door."""

import asyncio
from typing import Any

import pytest
from clave_testing.patience import PATIENCE_S
from registry_bench import API, Bench, onnx_model, register, version_request

pytestmark = pytest.mark.integration


async def approved(bench: Bench, **changes: Any) -> int:
    version = (await register(bench, **changes))["version"]
    answer = await bench.call(
        "user:ana", "POST", f"{API}/models/churn/versions/{version}/submit", {"namespace": "Production"}, expect=200
    )
    assert answer.json()["status"] == "approved", answer.text
    return int(version)


async def test_a_version_goes_from_upload_to_approval_by_policy_alone(bench: Bench) -> None:
    version = await register(bench)
    assert version["version"] == 1
    assert version["status"] == "draft"
    assert version["contributors"] == ["user:ana"]
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {}, expect=200)
    assert answer.json()["status"] == "approved"
    assert answer.json()["approved_by"] == "policy"
    again = await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {})
    assert again.status_code == 409
    assert again.json()["code"] == "wrong_stage"


async def test_a_version_whose_gates_failed_is_rejected_when_submitted(bench: Bench) -> None:
    await register(bench, passed=False)
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {}, expect=200)
    assert answer.json()["status"] == "rejected"
    assert "auc" in answer.json()["status_reason"]
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=403
    )


async def test_gates_in_review_wait_for_an_independent_person(bench: Bench) -> None:
    evaluation = version_request([])["evaluation"]
    evaluation["passed"] = False
    evaluation["gates"][0]["verdict"] = "review"
    await register(bench, evaluation=evaluation)
    path = f"{API}/models/churn/versions/1"
    waiting = (await bench.call("user:ana", "POST", f"{path}/submit", {}, expect=200)).json()
    assert (waiting["status"], waiting["approvals_needed"]) == ("submitted", 1)
    await bench.call("user:ana", "POST", f"{path}/approve", {}, expect=403)
    await bench.call("service:trainer", "POST", f"{path}/approve", {}, expect=403)
    done = (await bench.call("user:bob", "POST", f"{path}/approve", {"comment": "looked at it"}, expect=200)).json()
    assert (done["status"], done["approved_by"]) == ("approved", "user:bob")
    history = (await bench.call("user:vic", "GET", f"{path}/history", expect=200)).json()["events"]
    assert [event["action"] for event in history] == ["registered", "submitted", "approval", "approved"]
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )


async def test_an_approver_may_reject_and_nothing_follows(bench: Bench) -> None:
    evaluation = version_request([])["evaluation"]
    evaluation["passed"] = False
    evaluation["gates"][0]["verdict"] = "review"
    await register(bench, evaluation=evaluation)
    path = f"{API}/models/churn/versions/1"
    await bench.call("user:ana", "POST", f"{path}/submit", {}, expect=200)
    done = (await bench.call("user:bob", "POST", f"{path}/reject", {"comment": "unfair"}, expect=200)).json()
    assert done["status"] == "rejected"
    await bench.call("user:cat", "POST", f"{path}/approve", {}, expect=409)


async def test_a_first_version_goes_live_and_a_second_through_canary(bench: Bench) -> None:
    first, second = await approved(bench), await approved(bench)
    created = await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": first}, expect=201
    )
    assert created.json()["routes"] == [{"version": 1, "arm": "live", "weight": 1.0}]
    plan = {"steps": [{"weight": 0.2, "bake_s": 0, "rows_min": 10}, {"weight": 0.5, "bake_s": 0, "rows_min": 10}]}
    started = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": second, "plan": plan}, expect=201
    )
    rollout = started.json()
    assert (rollout["state"], rollout["step"], rollout["weight"]) == ("canary", 0, 0.2)
    desired = (await bench.call("service:inference", "GET", f"{API}/desired", expect=200)).json()
    assert desired["endpoints"][0]["routes"] == [
        {"version": 1, "arm": "live", "weight": 0.8},
        {"version": 2, "arm": "canary", "weight": 0.2},
    ]
    busy = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": second, "plan": plan})
    assert busy.json()["code"] == "rollout_running"
    ended = await until_ended(bench, rollout["id"])
    assert ended["state"] == "promoted"
    assert [event["state"] for event in ended["events"]] == ["canary", "canary", "promoted"]
    endpoint = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn", expect=200)).json()
    assert (endpoint["live_version"], endpoint["previous_version"], endpoint["rollout_id"]) == (2, 1, None)
    after = (await bench.call("service:inference", "GET", f"{API}/desired", expect=200)).json()
    assert after["revision"] != desired["revision"]
    assert after["endpoints"][0]["keep"] == [1]
    assert [version["version"] for version in after["versions"]] == [1, 2]


async def until_ended(bench: Bench, rollout_id: str) -> dict[str, Any]:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        await bench.wired.controller.tick()
        shown: dict[str, Any] = (await bench.call("user:vic", "GET", f"{API}/rollouts/{rollout_id}", expect=200)).json()
        if shown["finished_at"]:
            return shown
        await asyncio.sleep(0.05)
    raise AssertionError("the rollout did not end")


async def test_a_failing_analysis_rolls_back_and_history_names_who_answered(bench: Bench) -> None:
    from clave_registry.domain.rollout import Verdict

    first, second = await approved(bench), await approved(bench)
    body = {"name": "churn", "model": "churn", "version": first}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    bench.source.verdict, bench.source.reasons = Verdict.FAIL, ("errors rose",)
    started = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": second}, expect=201)
    ended = await until_ended(bench, started.json()["id"])
    assert (ended["state"], ended["outcome"]) == ("rolled_back", "errors rose")
    endpoint = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn", expect=200)).json()
    assert endpoint["routes"] == [{"version": 1, "arm": "live", "weight": 1.0}]
    entries = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", expect=200)).json()["entries"]
    assert [entry["version"] for entry in entries] == [1]
    assert entries[0]["approved_by"] == ["policy"]
    assert entries[0]["datasets"][0]["digest"] == "a" * 64


async def test_an_operator_can_hold_resume_abort_and_go_back(bench: Bench) -> None:
    first, second = await approved(bench), await approved(bench)
    body = {"name": "churn", "model": "churn", "version": first}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    none = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/roll-back", {"reason": "bad"})
    assert none.json()["code"] == "no_previous_version"
    slow = {"steps": [{"weight": 0.5, "bake_s": 3600, "rows_min": 0}]}
    started = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": second, "plan": slow}, expect=201
    )
    rollout = f"{API}/rollouts/{started.json()['id']}"
    assert (await bench.call("user:eve", "POST", f"{rollout}/pause", {}, expect=200)).json()["state"] == "paused"
    assert (await bench.call("user:eve", "POST", f"{rollout}/resume", {}, expect=200)).json()["state"] == "canary"
    refused = await bench.call("user:vic", "POST", f"{rollout}/abort", {})
    assert refused.status_code == 403
    assert (await bench.call("user:eve", "POST", f"{rollout}/abort", {}, expect=200)).json()["state"] == "aborted"
    fast = {"steps": [{"weight": 0.5, "bake_s": 0, "rows_min": 0}]}
    again = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": second, "plan": fast}, expect=201
    )
    assert (await until_ended(bench, again.json()["id"]))["state"] == "promoted"
    back = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/roll-back", {"reason": "complaints"}, expect=200
    )
    assert back.json()["live_version"] == 1
    entries = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", expect=200)).json()["entries"]
    assert [entry["version"] for entry in entries] == [1, 2, 1]
    moment = entries[1]["since"]
    then = await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", params={"at": moment}, expect=200)
    assert [entry["version"] for entry in then.json()["entries"]] == [2]


async def test_desired_state_answers_304_and_observed_state_shows_on_the_endpoint(bench: Bench) -> None:
    await approved(bench)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )
    first = await bench.call("service:inference", "GET", f"{API}/desired", expect=200)
    headers = {"if-none-match": first.headers["etag"]}
    await bench.call("service:inference", "GET", f"{API}/desired", headers=headers, expect=304)
    await bench.call("user:ana", "GET", f"{API}/desired", expect=403)
    report = {"revision": "r", "versions": [{"model": "churn", "version": 1, "state": "ready"}]}
    await bench.call("service:inference", "PUT", f"{API}/observed/inference-1", report, expect=204)
    endpoint = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn", expect=200)).json()
    assert endpoint["in_sync"] is True
    assert endpoint["observed"][0]["instance"] == "inference-1"


async def test_forty_writers_get_forty_numbers_without_gaps(bench: Bench) -> None:
    await register(bench)
    artifact = {"path": "model.onnx", **await bench.upload(onnx_model())}
    request = version_request([artifact])

    async def create() -> int:
        answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", request, expect=201)
        return int(answer.json()["version"])

    numbers = await asyncio.gather(*(create() for _ in range(40)))
    assert sorted(numbers) == list(range(2, 42))


async def test_card_is_generated_and_completed_by_people(bench: Bench) -> None:
    await register(bench)
    path = f"{API}/models/churn/versions/1/card"
    card = (await bench.call("user:vic", "GET", path, expect=200)).json()
    assert card["model_details"]["feature_set"]["count"] == 3
    metric = card["performance"]["metrics"][0]
    assert (metric["name"], metric["values"]) == ("auc", {"train": 0.87, "test": 0.83})
    assert metric["evidence"]["gates"][0]["n"] == 2000
    text = (await bench.call("user:vic", "GET", path, params={"format": "md"}, expect=200)).text
    assert "## 2. Performance" in text
    assert "1,000 requests/min" in text or "1000 requests/min" in text
    assert "<b>" not in text
    page = (await bench.call("user:vic", "GET", path, params={"format": "html"}, expect=200)).text
    assert "<b>sample</b>" not in page
    tag = (await bench.call("user:vic", "GET", path)).headers["etag"]
    changes = {"intended_use": "Retention offers"}
    await bench.call("user:ana", "PATCH", path, changes, headers={"if-match": tag}, expect=200)
    stale = await bench.call("user:ana", "PATCH", path, changes, headers={"if-match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_if_match")
    bad = await bench.call("user:ana", "PATCH", path, {"rate_limit_per_minute": -1})
    assert bad.status_code == 422


async def test_cards_are_read_in_every_form_and_compared_with_the_champion(bench: Bench) -> None:
    await register(bench)
    lineage = {**version_request([])["lineage"], "parent_version": 1}
    await register(bench, lineage=lineage, params={"max_depth": 6})
    path = f"{API}/models/churn/versions/2"
    sections = {
        "model-card-toolkit": "quantitative_analysis",
        "sagemaker": "evaluation_details",
        "cyclonedx": "modelParameters",
        "annex-iv": "sections",
    }
    for form, section in sections.items():
        shown = (await bench.call("user:vic", "GET", f"{path}/card", params={"format": form}, expect=200)).json()
        assert section in shown
    for form, begins in {"huggingface": "---\n", "annex-iv-md": "# Technical documentation"}.items():
        text = (await bench.call("user:vic", "GET", f"{path}/card", params={"format": form}, expect=200)).text
        assert text.startswith(begins)
    await bench.call("user:vic", "GET", f"{path}/card", params={"format": "docx"}, expect=422)
    diff = (await bench.call("user:vic", "GET", f"{path}/card/diff", expect=200)).json()
    assert (diff["this"], diff["other"]) == (2, 1)
    assert {"path": "parameters.max_depth", "this": 6, "other": 5} in diff["changes"]
    none = await bench.call("user:vic", "GET", f"{API}/models/churn/versions/1/card/diff")
    assert (none.status_code, none.json()["code"]) == (409, "no_champion")
    bom = await bench.call("user:vic", "GET", f"{path}/ml-bom", expect=200)
    assert bom.headers["content-type"].startswith("application/vnd.cyclonedx+json")
    assert bom.json()["components"][0]["name"] == "model.onnx"
    event = (await bench.call("user:vic", "GET", f"{path}/openlineage", expect=200)).json()
    assert event["outputs"][0]["name"] == "models/churn"


async def test_lineage_is_found_in_both_directions(bench: Bench) -> None:
    first = await approved(bench)
    lineage = {**version_request([])["lineage"], "parent_version": first}
    await register(bench, lineage=lineage)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )
    back = (await bench.call("user:vic", "GET", f"{API}/models/churn/versions/2/lineage", expect=200)).json()
    assert [ancestor["version"] for ancestor in back["ancestors"]] == [1]
    forth = (
        await bench.call("user:vic", "GET", f"{API}/lineage", params={"dataset_digest": "a" * 64}, expect=200)
    ).json()
    assert [(entry["version"], entry["endpoints"]) for entry in forth["versions"]] == [(2, []), (1, ["churn"])]


async def test_a_withdrawn_consent_names_versions_and_endpoints_to_retrain(bench: Bench) -> None:
    from clave_registry.services.lineage import HeldIn

    first = await approved(bench)
    other = {**version_request([])["lineage"], "datasets": [{"id": "ts_2", "name": "c", "digest": "b" * 64, "rows": 9}]}
    await approved(bench, lineage=other)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": first}, expect=201
    )
    bench.membership.held = [HeldIn("ts_1", "churn", "a" * 64, matching_rows=3)]
    body = {"keys": {"customer_id": "7590-VHVEG"}}
    answer = await bench.call("user:ana", "POST", f"{API}/lineage/entity", body, expect=200)
    found = answer.json()
    assert found["training_sets"] == [{"id": "ts_1", "name": "churn", "digest": "a" * 64, "matching_rows": 3}]
    assert [(v["version"], v["endpoints"], v["training_sets"]) for v in found["versions"]] == [(1, ["churn"], ["ts_1"])]
    assert found["must_retrain"] == [{"endpoint": "churn", "model": "churn", "live_version": 1}]
    assert (found["must_not_return_to"], found["complete"]) == ([], True)
    fast = {"steps": [{"weight": 0.5, "bake_s": 0, "rows_min": 0}]}
    started = await bench.call(
        "user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 2, "plan": fast}, expect=201
    )
    await until_ended(bench, started.json()["id"])
    after = (await bench.call("user:ana", "POST", f"{API}/lineage/entity", body, expect=200)).json()
    assert after["must_retrain"] == []
    assert after["must_not_return_to"] == [{"endpoint": "churn", "model": "churn", "previous_version": 1}]
    bench.membership.held, bench.membership.complete = [], False
    nobody = (await bench.call("user:ana", "POST", f"{API}/lineage/entity", body, expect=200)).json()
    assert (nobody["versions"], nobody["complete"]) == ([], False)
    await bench.call("user:vic", "POST", f"{API}/lineage/entity", body, expect=403)
    await bench.call("user:ana", "POST", f"{API}/lineage/entity", {"keys": {}}, expect=422)
    logged = await bench.rows("select convert_from(body, 'utf8') as body from registry.outbox")
    assert not any("VHVEG" in row["body"] for row in logged)


async def test_aliases_move_with_history_and_reserved_words_are_refused(bench: Bench) -> None:
    await register(bench)
    await register(bench)
    path = f"{API}/models/churn/aliases/champion"
    for version in (1, 2):
        await bench.call("user:eve", "PUT", path, {"version": version, "reason": "try"}, expect=200)
    assert (await bench.call("user:vic", "GET", path, expect=200)).json()["version"] == 2
    moves = (await bench.call("user:vic", "GET", f"{path}/history", expect=200)).json()["moves"]
    assert [move["version"] for move in moves] == [2, 1]
    for alias in ("latest", "v7"):
        await bench.call("user:eve", "PUT", f"{API}/models/churn/aliases/{alias}", {"version": 1}, expect=422)
    await bench.call("user:eve", "PUT", path, {"version": 9}, expect=404)


async def test_every_change_leaves_an_audit_entry_and_events_in_the_outbox(bench: Bench) -> None:
    await approved(bench)
    await bench.call(
        "user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn", "version": 1}, expect=201
    )
    rows = await bench.rows(
        "select stream, convert_from(body, 'utf8')::jsonb as body from registry.outbox order by seq"
    )
    actions = [row["body"]["action"] for row in rows if row["stream"] == "clave.audit"]
    assert actions == [
        "registry:model.create",
        "registry:blob.write",
        "registry:version.create",
        "registry:version.submit",
        "registry:version.approve",
        "inference:deployment.create",
    ]
    kinds = [row["body"]["type"] for row in rows if row["stream"] == "clave.events.registry"]
    assert kinds == [
        "ModelVersionRegistered",
        "ModelVersionStatusChanged",
        "ModelVersionStatusChanged",
        "DesiredStateChanged",
    ]


async def test_an_idempotency_key_creates_one_version(bench: Bench) -> None:
    await register(bench)
    artifact = {"path": "model.onnx", **await bench.upload(onnx_model())}
    headers = {"idempotency-key": "run_1:register"}
    path, request = f"{API}/models/churn/versions", version_request([artifact])
    first = await bench.call("user:ana", "POST", path, request, headers=headers, expect=201)
    second = await bench.call("user:ana", "POST", path, request, headers=headers, expect=201)
    assert first.json()["version"] == second.json()["version"] == 2


async def test_a_repeated_deployment_is_told_again_to_who_may_still_read_it(bench: Bench) -> None:
    first, second = await approved(bench), await approved(bench)
    endpoint = {"name": "churn", "model": "churn", "version": first}
    for path, body in ((f"{API}/endpoints", endpoint), (f"{API}/endpoints/churn/rollouts", {"version": second})):
        told = [
            await bench.call("user:eve", "POST", path, body, headers={"idempotency-key": "run_1"}, expect=201)
            for _ in range(2)
        ]
        assert told[0].json() == told[1].json()
