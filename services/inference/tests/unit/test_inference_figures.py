"""Figures of several processes add up, limits hold together, and what a killed process logged comes back."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from clave_contracts.prediction_batches import kind_part, record_part, table_part
from clave_inference.domain.limits import Bucket, RowBudget, Spend
from clave_inference.metrics import GONE_KEPT_S, GONE_SHOWN_S, NOBODY, Counts, PredictionMetrics
from clave_inference.port_registry import PortRegistry
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.services.prediction_records import Piece, RunKind
from clave_inference.storage.journal import Journal
from clave_inference.storage.metrics_board import MetricsBoard
from clave_inference.storage.spool import Spool
from prometheus_client import Counter, Gauge, generate_latest

SHARED = {"endpoint": "churn", "model": "churn", "model_version": 1, "arm": "live", "columns": ["a", "b"]}
PART = kind_part(SHARED, dtype="<f4", score_dtype="<f4", label_dtype="")
KIND = RunKind("churn", "1", "live", "rest", PART, "<f4")


def rows_run(*ids: str) -> Piece:
    count = len(ids)
    scores = np.full(count, 0.25, np.float32).tobytes()
    table = table_part(
        ids=ids,
        principals=["app:web"] * count,
        traces=None,
        began=[1.0] * count,
        ended=1.002,
        offset=1e9,
        rows=np.arange(count * 2, dtype=np.float32).tobytes(),
        scores=scores,
        labels=b"",
    )
    return Piece(table, count, KIND, [1.0] * count, 1.002, scores)


def answered(metrics: PredictionMetrics, *ids: str) -> None:
    metrics.succeeded_together([rows_run(*ids)])


def text_of(registry: PortRegistry) -> str:
    return generate_latest(registry).decode()


def test_a_scrape_of_one_process_tells_of_all(tmp_path: Path) -> None:
    boards = [MetricsBoard(tmp_path, worker=number, run=7) for number in range(2)]
    first, second = PredictionMetrics(), PredictionMetrics()
    registries = [PortRegistry(metrics, board) for metrics, board in zip((first, second), boards, strict=True)]
    answered(first, "a", "b")
    answered(second, "c")
    for number, registry in enumerate(registries):
        Counter("things", "Of a library.", registry=registry).inc(number + 1)
        Gauge("level", "Of a library.", registry=registry).set(number)
    text_of(registries[1])  # a scrape leaves the figures on the board
    for registry in (registries[0], registries[1], registries[0]):
        text = text_of(registry)
        assert 'clave_predictions_total{endpoint="churn",version="1"} 3.0' in text
        assert 'clave_prediction_score_sum{arm="live",endpoint="churn",version="1"} 0.75' in text
        series = 'arm="live",code="200",endpoint="churn",protocol="rest",version="1"'
        assert f"clave_inference_duration_seconds_count{{{series}}} 3.0" in text
        assert "things_total 3.0" in text
        assert 'level{worker="0"} 0.0' in text
        assert 'level{worker="1"} 1.0' in text


def test_what_a_library_counted_goes_on_in_a_successor(tmp_path: Path) -> None:
    def started() -> tuple[PortRegistry, Counter]:
        registry = PortRegistry(PredictionMetrics(), MetricsBoard(tmp_path, worker=0, run=7))
        return registry, Counter("things", "Of a library.", registry=registry)

    registry, things = started()
    things.inc(2)
    assert "things_total 2.0" in text_of(registry)
    successor, things = started()
    assert "things_total 2.0" in text_of(successor)
    things.inc()
    assert "things_total 3.0" in text_of(successor)


def test_series_of_a_version_that_is_gone_are_hidden_then_forgotten() -> None:
    metrics = PredictionMetrics()
    answered(metrics, "a", "b")
    metrics.answered(endpoint=NOBODY, version="", arm="", protocol="rest", code="not_found", latency_s=0.0, rows=0)

    def shown(now: float) -> set[tuple[str, str]]:
        families = {family.name: family for family in metrics.collected([metrics.counts()], now=now)}
        return {
            (sample.labels["endpoint"], sample.labels["version"])
            for name in ("clave_predictions", "clave_inference_duration_seconds", "clave_prediction_score")
            for sample in families[name].samples
        }

    metrics.forget_gone({("churn", "1"), ("churn", "")}, 1_000.0)
    assert shown(1_000.0 + 10 * GONE_KEPT_S) == {("churn", "1"), (NOBODY, "")}
    metrics.forget_gone({("churn", "2")}, 2_000.0)
    assert ("churn", "1") in shown(2_000.0 + GONE_SHOWN_S)
    assert shown(2_001.0 + GONE_SHOWN_S) == {(NOBODY, "")}
    successor = PredictionMetrics()
    successor.carry_on(metrics.counts())  # what is gone stays so over a replacement
    successor.forget_gone({("churn", "2")}, 2_500.0)
    assert dict(successor.counts().gone) == {("churn", "1"): 2_000.0}
    successor.forget_gone({("churn", "2")}, 2_001.0 + GONE_KEPT_S)
    assert successor.rows("churn", "1") == 0
    assert [labels for labels, _, _ in successor.counts().requests] == [(NOBODY, "", "", "rest", "not_found")]
    metrics.forget_gone({("churn", "1")}, 2_002.0)  # it came back in time
    answered(metrics, "c")
    assert metrics.rows("churn", "1") == 3
    assert ("churn", "1") in shown(9e9)


def test_a_table_names_what_may_be_counted(bench: Any) -> None:
    asyncio.run(bench.deployment.step())
    assert bench.deployment.table.countable() == {("churn", ""), ("churn", "1")}


def test_a_replaced_process_goes_on_counting_and_another_run_starts_at_nothing(tmp_path: Path) -> None:
    metrics = PredictionMetrics()
    answered(metrics, "a", "b")
    MetricsBoard(tmp_path, worker=0, run=7).post(metrics.counts())
    before = MetricsBoard(tmp_path, worker=0, run=7).own()
    assert before is not None
    successor = PredictionMetrics()
    successor.carry_on(before)
    answered(successor, "c")
    assert successor.rows("churn", "1") == 3
    assert MetricsBoard(tmp_path, worker=0, run=8).own() is None
    assert list(MetricsBoard(tmp_path, worker=1, run=8).siblings()) == []
    assert isinstance(successor.counts(), Counts)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def spent(ledger: RowLedger, budget: RowBudget, clock: Clock, attempts: int) -> int:
    granted = 0
    for _ in range(attempts):
        while (outcome := budget.spend(1, clock.now)) is Spend.ASK:
            await ledger.draw(budget, 1)
        granted += outcome is Spend.GRANTED
    return granted


async def test_a_request_needs_room_in_every_bucket_and_takes_from_all_or_none() -> None:
    clock = Clock()
    ledger = RowLedger(None, now=clock)
    model = Bucket("model", 1.0, 15.0, "rows-model")
    one = RowBudget((Bucket("a", 1.0, 10.0), model))
    other = RowBudget((Bucket("b", 1.0, 10.0), model))
    assert await spent(ledger, one, clock, 12) == 10
    assert one.refused_by.name == "rows"
    assert await spent(ledger, other, clock, 12) == 5
    assert other.refused_by.name == "rows-model"
    clock.now += 3.0
    assert await spent(ledger, other, clock, 12) == 3  # its own bucket still held five: nothing was taken in vain
    assert other.standing(clock.now).bucket.name == "rows-model"


async def test_what_a_killed_process_logged_comes_back(bench: Any, tmp_path: Path) -> None:
    killed = Journal(tmp_path / "j")
    log = log_with(bench, tmp_path, killed)
    log._take(rows_run("a", "b"))
    log._take(Piece(record_part(b'{"id":"c","latency_ms":1}'), 1))
    journal = Journal(tmp_path / "j")
    with (tmp_path / "j.a").open("ab") as file:
        file.write(b"\xff\0\0\0torn")
    again = log_with(bench, tmp_path, journal)
    assert again.spooled == 3
    await again._replay()
    records = bench.stream.records()
    assert [record["id"] for record in records] == ["a", "b", "c"]
    assert records[1]["values"] == [[2.0, 3.0]]
    assert records[0]["score"] == [0.25]
    assert records[0]["latency_ms"] == 2.0
    assert journal.left_behind() == []


async def test_a_flush_leaves_nothing_in_the_journal_but_what_came_since(bench: Any, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    log = log_with(bench, tmp_path, journal)
    log._take(rows_run("a"))
    await log.flush()
    log._take(rows_run("b"))
    assert len(journal.left_behind()) == 1
    await log.close()
    assert [record["id"] for record in bench.stream.records()] == ["a", "b"]


def log_with(bench: Any, folder: Path, journal: Journal) -> PredictionLog:
    return PredictionLog(
        stream=bench.stream,
        spool=Spool(folder / "s.log", bytes_max=1 << 20),
        journal=journal,
        metrics=bench.metrics,
        flush_after_s=0.0,
        buffered_max=100,
    )
