"""What is measured: every operation of the benchmark as a call on either server (both speak MLflow's REST)."""

import time
from collections.abc import Callable
from urllib.parse import quote

from benchmarks.registry.filling import MODELS
from benchmarks.registry.load import Caller

Operation = Callable[[Caller, int], object]


def _search(expression: str, *, order: str = "") -> Operation:
    path = f"model-versions/search?max_results=100&filter={quote(expression)}{order}"

    def call(caller: Caller, _turn: int) -> object:
        found = caller.get(path).get("model_versions", [])
        if not found:
            raise RuntimeError(f"nothing found: {expression}")
        return found

    return call


def create_version(caller: Caller, turn: int) -> object:
    """Register a version of a model outside of the filled ones."""
    return caller.post("model-versions/create", {"name": "grown", "source": f"s3://elsewhere/{turn}"})


def get_by_alias(caller: Caller, turn: int) -> object:
    """Ask which version an alias names."""
    return caller.get(f"registered-models/alias?name=model-{turn % MODELS}&alias=champion")


def set_alias(caller: Caller, turn: int) -> object:
    """Let an alias name a version."""
    body = {"name": f"model-{turn % MODELS}", "alias": "moving", "version": str(turn % 5 + 1)}
    return caller.post("registered-models/alias", body)


def log_batch(caller: Caller, turn: int) -> object:
    """Log 1,000 values of 10 metrics."""
    now = int(time.time() * 1000)
    metrics = [
        {"key": f"m{n % 10}", "value": n / 7, "timestamp": now + turn, "step": turn * 100 + n // 10}
        for n in range(1000)
    ]
    return caller.post("runs/log-batch", {"run_id": "r1", "metrics": metrics})


def search_runs(caller: Caller, _turn: int) -> object:
    """Search 100 runs by a metric and a param, best first."""
    body = {
        "experiment_ids": ["0"],
        "filter": "metrics.auc > 0.2 and params.b = '3'",
        "order_by": ["metrics.auc DESC"],
        "max_results": 100,
    }
    found = caller.post("runs/search", body)["runs"]
    if len(found) < 100:
        raise RuntimeError("too few runs")
    return found


def recent_runs(caller: Caller, _turn: int) -> object:
    """Search the newest 100 runs."""
    return caller.post("runs/search", {"experiment_ids": ["0"], "max_results": 100})["runs"]


GROUPS: dict[str, list[tuple[str, Operation, int]]] = {
    "create": [("create version", create_version, 1), ("create version, 8 callers", create_version, 8)],
    "alias": [
        ("get by alias", get_by_alias, 1),
        ("get by alias, 8 callers", get_by_alias, 8),
        ("set alias", set_alias, 1),
    ],
    "search": [
        ("search versions by name, 100 a page", _search("name = 'big'"), 1),
        ("search versions by a common tag", _search("tags.team = 't3'"), 1),
        ("search versions by a rare tag", _search("tags.kind = 'rare'"), 1),
        ("search versions by name and tag", _search("name = 'big' and tags.team = 't4'"), 1),
        ("search versions by run", _search("run_id = 'c4ca4238a0b923820dcc509a6f75849b'"), 1),
    ],
    "runs": [
        ("log_batch of 1,000 metrics", log_batch, 1),
        ("search_runs by metric and param, 100", search_runs, 1),
        ("search_runs, newest 100", recent_runs, 1),
    ],
}
SIZED = ("create", "alias", "search")
