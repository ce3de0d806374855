"""Bad input at the own API: a clear refusal with a code, and nothing half-done."""

from typing import Any

import pytest
from registry_bench import API, Bench, onnx_model, register, version_request

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "body",
    [
        {"name": "churn", "surprise": 1},
        {"name": "a/b"},
        {"name": "..\\x"},
        {"name": "x\x00y"},
        {"name": ""},
        {"name": "x" * 101},
        {"name": "churn", "description": "x" * 5001},
        {"name": "churn", "tags": {"k" * 1000: "v"}},
        {"name": "churn", "tags": {f"k{n}": "v" for n in range(1000)}},
        {"name": "churn", "risk_class": "none"},
        {"name": ["churn"]},
        [],
        None,
    ],
)
async def test_models_with_bad_metadata_are_refused(bench: Bench, body: Any) -> None:
    answer = await bench.call("user:ana", "POST", f"{API}/models", body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"]
    assert (await bench.call("user:ana", "GET", f"{API}/models", expect=200)).json()["models"] == []


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"surprise": 1}, 422),
        ({"description": "x" * 5001}, 422),
        ({"contributors": [f"user:{n}" for n in range(101)]}, 422),
        ({"params": {"table": "x" * 1_000_001}}, 413),
        ({"tags": {"k": "v" * 100_000}}, 422),
        ({"lineage": {"parent_version": 77}}, 422),
        ({"lineage": {"datasets": [{"id": "ts", "name": "c", "digest": "no digest", "rows": 1}]}}, 422),
        ({"signature": {"inputs": [], "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]}}, 422),
        ({"card": {"limitations": "a text, not a list"}}, 422),
        (
            {"evaluation": {"metrics": {}, "gates": [{"gate": "g", "verdict": "great", "detail": ""}], "passed": True}},
            422,
        ),
    ],
)
async def test_versions_with_bad_metadata_are_refused(bench: Bench, changes: dict[str, Any], status: int) -> None:
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    artifact = {"path": "model.onnx", **await bench.upload(onnx_model())}
    body = version_request([artifact], **changes)
    answer = await bench.call("user:ana", "POST", f"{API}/models/churn/versions", body)
    assert answer.status_code == status, answer.text
    assert (await bench.call("user:ana", "GET", f"{API}/models/churn/versions", expect=200)).json()["versions"] == []


async def test_a_body_over_the_limit_is_refused_before_it_is_read(bench: Bench) -> None:
    content = b'{"name": "' + b"x" * (9 * 1024 * 1024) + b'"}'
    headers = {"content-type": "application/json"}
    answer = await bench.call("user:ana", "POST", f"{API}/models", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


async def test_a_stale_if_match_changes_nothing(bench: Bench) -> None:
    await register(bench)
    model, version = f"{API}/models/churn", f"{API}/models/churn/versions/1"
    cases = [
        ("user:eve", "PATCH", model, {"description": "new"}),
        ("user:ana", "PATCH", f"{version}/card", {"intended_use": "x"}),
        ("user:eve", "PATCH", f"{version}/tags", {"tags": {"a": "b"}}),
        ("user:ana", "POST", f"{version}/submit", {}),
        ("user:eve", "POST", f"{version}/archive", {}),
        ("user:admin", "DELETE", model, None),
    ]
    for who, method, path, body in cases:
        stale = await bench.call(who, method, path, body, headers={"if-match": '"999"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "stale_if_match"), path
        garbled = await bench.call(who, method, path, body, headers={"if-match": "yesterday"})
        assert garbled.status_code == 422, path
    shown = (await bench.call("user:ana", "GET", version, expect=200)).json()
    assert (shown["status"], shown["tags"]) == ("draft", {})


async def test_a_replayed_idempotency_key_repeats_the_answer_and_never_another_body(bench: Bench) -> None:
    headers = {"idempotency-key": "k-1"}
    first = await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, headers=headers, expect=201)
    again = await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, headers=headers, expect=201)
    assert (again.json(), again.headers["idempotent-replay"]) == (first.json(), "true")
    other = await bench.call("user:ana", "POST", f"{API}/models", {"name": "other"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    long = await bench.call("user:ana", "POST", f"{API}/models", {"name": "x"}, headers={"idempotency-key": "k" * 201})
    assert long.status_code == 422
    names = [m["name"] for m in (await bench.call("user:ana", "GET", f"{API}/models", expect=200)).json()["models"]]
    assert names == ["churn"]


async def test_wrong_states_are_refused_by_name(bench: Bench) -> None:
    await register(bench)
    version = f"{API}/models/churn/versions/1"
    early = await bench.call("user:bob", "POST", f"{version}/approve", {})
    assert (early.status_code, early.json()["code"]) == (409, "wrong_stage")
    missing = await bench.call("user:bob", "POST", f"{API}/models/churn/versions/9/approve", {})
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")
    for number in ("0", "2147483648", "one"):
        await bench.call("user:ana", "GET", f"{API}/models/churn/versions/{number}", expect=422)
    await bench.call("user:ana", "POST", f"{version}/submit", {}, expect=200)
    await bench.call("user:eve", "POST", f"{version}/archive", {"reason": "old"}, expect=200)
    for verb, who in (("submit", "user:ana"), ("archive", "user:eve")):
        answer = await bench.call(who, "POST", f"{version}/{verb}", {})
        assert answer.status_code in {403, 409}, answer.text
    gone = await bench.call("user:eve", "POST", f"{API}/rollouts/rol_nothing/pause", {})
    assert (gone.status_code, gone.json()["code"]) == (404, "rollout_not_found")


@pytest.mark.parametrize(
    "plan",
    [
        {"steps": []},
        {"steps": [{"weight": 0}]},
        {"steps": [{"weight": 1.1}]},
        {"steps": [{"weight": 0.5}, {"weight": 0.1}]},
        {"steps": [{"weight": 0.01 * n} for n in range(1, 23)]},
        {"steps": [{"weight": 0.5, "bake_s": 1e12}]},
        {"shadow_s": -1},
        {"step_s_max": 0},
        {"thresholds": {"error_rate_max": 2}},
        {"thresholds": {"surprise": 1}},
        {"surprise": 1},
    ],
)
async def test_plans_that_make_no_sense_are_refused(bench: Bench, plan: dict[str, Any]) -> None:
    for _ in range(2):
        await register(bench)
    for number in (1, 2):
        await bench.call("user:ana", "POST", f"{API}/models/churn/versions/{number}/submit", {}, expect=200)
    body = {"name": "churn", "model": "churn", "version": 1}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)
    answer = await bench.call("user:eve", "POST", f"{API}/endpoints/churn/rollouts", {"version": 2, "plan": plan})
    assert answer.status_code == 422, answer.text
    shown = (await bench.call("user:vic", "GET", f"{API}/endpoints/churn", expect=200)).json()
    assert (shown["rollout_id"], shown["live_version"]) == (None, 1)


async def test_questions_about_time_and_pages_are_checked(bench: Bench) -> None:
    await register(bench)
    await bench.call("user:eve", "POST", f"{API}/endpoints", {"name": "churn", "model": "churn"}, expect=201)
    for at in ("yesterday", "2026-11-22T08:00:00"):
        await bench.call("user:vic", "GET", f"{API}/endpoints/churn/history", params={"at": at}, expect=422)
    await bench.call("user:vic", "GET", f"{API}/endpoints", params={"page_token": "no token"}, expect=422)
    await bench.call("user:vic", "GET", f"{API}/lineage", expect=422)
    large = await bench.call("user:ana", "PATCH", f"{API}/models/churn/versions/1/card", {"overview": "x" * 200_000})
    assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
    unknown = await bench.call("user:ana", "PATCH", f"{API}/models/churn/versions/1/card", {"surprise": 1})
    assert (unknown.status_code, unknown.json()["field"]) == (422, "surprise")
