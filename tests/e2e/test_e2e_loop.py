"""The loop closes on real data, on a stack of its own, and what it made survives every kind of stop.

One story in one file (`--dist loadfile` keeps a file on one worker): each test builds on the stack that the demo left.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from clave_testing.patience import BUSY_S, LONG_S, PATIENCE_S, wait_until
from clave_testing.servers import session_root
from clave_testing.stack import CLAVE, Stack, read_stack, stop_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
FIRST_CUSTOMER = {"parameters": {"entities": {"customer_id": ["C00007"]}}, "inputs": []}


@pytest.fixture(scope="module")
def loop():
    """The demo's stack, kept, and the story it wrote."""
    data_dir = session_root() / "loop"
    story = session_root() / "loop-story.json.txt"
    done = subprocess.run(
        [*CLAVE, "demo", "churn", "--keep", "--data-dir", str(data_dir), "--json", str(story)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stderr[-4000:]
        yield data_dir, json.loads(story.read_text())
    finally:
        subprocess.run(stop_command(data_dir), check=False, capture_output=True, timeout=LONG_S)


@pytest.fixture
def stack(loop) -> Stack:
    return read_stack(loop[0])


def get(stack: Stack, path: str, **params) -> dict:
    answer = httpx.get(stack.url + path, headers=stack.headers, params=params, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def predict(stack: Stack) -> dict:
    answer = httpx.post(
        f"{stack.url}/v2/models/churn/infer", json=FIRST_CUSTOMER, headers=stack.headers, timeout=PATIENCE_S
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def kept(stack: Stack) -> dict:
    """What must be the same after every restart."""
    endpoint = get(stack, "/api/registry/v1/endpoints/churn")
    runs = get(stack, "/api/trainer/v1/runs")["runs"]
    return {
        "live": endpoint["live_version"],
        "versions": [
            get(stack, f"/api/registry/v1/models/churn/versions/{number}")["manifest_digest"]
            for number in range(1, endpoint["live_version"] + 1)
        ],
        "runs": sorted((run["id"], run["status"]) for run in runs),
        "score": predict(stack)["outputs"][-1]["data"],
    }


def test_the_loop_closed_by_itself(loop):
    _data_dir, story = loop
    summary = story["summary"]
    assert story["outcome"] == "closed"
    assert summary["live_version"] > summary["first_version"]
    assert summary["refused_reasons"], "the crippled challenger was refused with reasons"
    assert summary["calm"]["state"] in {"ok", "watch"}
    assert summary["shifted"]["state"] == "harm"
    assert summary["drifted_features"]
    assert len(summary["application"]["rows_by_version"]) == 2


def test_the_new_version_tells_where_it_comes_from(loop, stack):
    summary = loop[1]["summary"]
    version = get(stack, f"/api/registry/v1/models/churn/versions/{summary['live_version']}")
    assert version["status"] == "approved"
    assert version["evaluation"]["passed"] is True
    assert version["lineage"]["retraining_decision_id"]
    assert version["lineage"]["datasets"][0]["digest"]
    card = stack.clave("models", "card", "churn").stdout
    for section in ("Model Details", "Performance", "Limitations", "Usage Notes"):
        assert section in card


def test_every_change_is_in_the_audit_log_and_the_log_proves_itself(stack):
    stack.clave("audit", "verify")
    actions = {record["entry"]["action"] for record in get(stack, "/api/gateway/v1/audit", page_size=500)["records"]}
    assert {"registry:version.create", "admin:key.create"} <= actions


def test_a_revoked_key_stops_working(stack):
    new = json.loads(
        stack.clave("keys", "create", "--name", "e2e-app", "--role", "scoring-app", "--output", "json").stdout
    )
    headers = {"authorization": f"Bearer {new['key']}"}

    def status() -> int:
        answer = httpx.post(
            f"{stack.url}/v2/models/churn/infer", json=FIRST_CUSTOMER, headers=headers, timeout=PATIENCE_S
        )
        return answer.status_code

    wait_until(lambda: status() == 200, what="the new key to work")
    stack.clave("keys", "revoke", new["id"])
    wait_until(lambda: status() == 401, what="the revoked key to be refused", seconds=BUSY_S)


def test_a_worker_killed_in_the_middle_of_training_does_not_lose_the_run(stack):
    started = httpx.post(
        f"{stack.url}/api/trainer/v1/pipelines/churn/runs",
        headers=stack.headers,
        json={"reason": "kill test", "roll_out": False, "params": {"train": {"rounds": 4000, "early_stopping": 0}}},
        timeout=PATIENCE_S,
    )
    if started.status_code == 422:
        started = httpx.post(
            f"{stack.url}/api/trainer/v1/pipelines/churn/runs",
            headers=stack.headers,
            json={"reason": "kill test", "roll_out": False, "params": {"rounds": 4000}},
            timeout=PATIENCE_S,
        )
    assert started.status_code < 300, started.text
    run_id = started.json()["id"]

    def step(name: str) -> dict:
        run = get(stack, f"/api/trainer/v1/runs/{run_id}")
        return next(step for step in run["steps"] if step["name"] == name)

    wait_until(lambda: step("train")["state"] == "running", what="training to begin")
    worker = next(
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "clave_trainer" in (process.info["cmdline"] or [])
        and "worker" in (process.info["cmdline"] or [])
        and str(stack.data_dir) in (process.info["environ"] or {}).get("CLAVE_TRAINER_DATA_DIR", "")
    )
    for process in [*worker.children(recursive=True), worker]:
        process.send_signal(signal.SIGKILL)
    ended = {"succeeded", "refused"}
    wait_until(
        lambda: get(stack, f"/api/trainer/v1/runs/{run_id}")["status"] in ended | {"failed"},
        what="the run to end",
        seconds=LONG_S,
    )
    assert get(stack, f"/api/trainer/v1/runs/{run_id}")["status"] in ended
    assert step("train")["attempt"] == 2


def test_a_restart_of_the_whole_stack_keeps_everything(loop, stack):
    before = kept(stack)
    stack.clave("down")
    assert leftovers(loop[0]) == []
    stack.clave("up", "--detach")
    after = read_stack(loop[0])
    assert kept(after) == before
    after.clave("audit", "verify")


def test_up_after_a_hard_kill_of_everything_loses_nothing(loop, stack):
    before = kept(stack)
    for process in leftovers(loop[0]):
        with contextlib.suppress(psutil.NoSuchProcess):  # some die of their parent's death
            process.send_signal(signal.SIGKILL)
    wait_until(lambda: leftovers(loop[0]) == [], what="the end of every process")
    stack.clave("up", "--detach")
    assert kept(read_stack(loop[0])) == before


def leftovers(data_dir: Path) -> list[psutil.Process]:
    """Every process that belongs to a stack."""
    from clave.stack.layout import Layout
    from clave.stack.processes import MARK

    stack_id = Layout.at(data_dir).stack_id
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        if (process.info["environ"] or {}).get(MARK) == stack_id and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)
BY_OTHER_TESTS = ("make demo", "make test", "make up", "clave up", "clave down", "clave demo", "docker compose")


def documented() -> list:
    blocks = []
    for page in (
        ROOT / "README.md",
        ROOT / "docs" / "quickstart.md",
        *sorted((ROOT / "docs" / "services").glob("*.md")),
        *sorted((ROOT / "docs" / "guides").glob("*.md")),
    ):
        if not page.exists():
            continue
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
            if not any(line.strip().startswith(BY_OTHER_TESTS) for line in code.splitlines()):
                blocks.append(pytest.param(language, code, id=f"{page.name}-{number}"))
    return blocks


@pytest.mark.parametrize(("language", "code"), documented())
def test_what_the_documents_say_works(stack, language, code, request):
    page = request.node.callspec.id.rpartition("-")[0]
    folder = session_root() / "documents" / page  # one for each page: later blocks read what earlier ones wrote
    folder.mkdir(parents=True, exist_ok=True)
    text = code.replace("http://127.0.0.1:47310", stack.url).replace(".clave/", f"{stack.data_dir}/")
    program = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
    environment = {
        **os.environ,
        "CLAVE_DATA_DIR": str(stack.data_dir),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        program, env=environment, cwd=folder, capture_output=True, text=True, timeout=LONG_S, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "not found" not in done.stdout.lower()
