"""Counts of predictions in plain integers, shown to Prometheus by a collector of our own.

`labels()` of the client library costs 3 us a call and an ordinary histogram as much again; the hot path instead adds
to lists that it finds by a tuple, and the text is made when somebody scrapes. Where several processes share a port, a
scrape meets any one of them; it answers for all (`storage.metrics_board`). Labels are bounded by what is served:
callers cannot invent values. The series of a version that is served no more are shown for `GONE_SHOWN_S` and forgotten
after `GONE_KEPT_S`: every process hides them before any of them forgets, so no sum of theirs ever goes back.
"""

import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from clave_inference.services.call import Call
    from clave_inference.services.prediction_records import Piece

LATENCY_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
SCORE_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_SERIES_MAX: Final = 5_000
GONE_SHOWN_S: Final = 900.0
GONE_KEPT_S: Final = 1_800.0
NOBODY: Final = "unknown"
"""Stands for the endpoint of requests that named none that is served."""
_WORTH_AN_ARRAY: Final = 24

LOG_FATES: Final = ("streamed", "spooled", "dropped")

RequestLabels = tuple[str, str, str, str, str]
ScoreLabels = tuple[str, str, str]
Served = tuple[str, str]
"""An endpoint and a version of it; the version is empty where a request was refused before one was chosen."""


@dataclass(slots=True)
class Buckets:
    """A histogram in the making."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: NDArray[Any]) -> None:
        """Count many values at once; one that is not a number would spoil the sum for ever and is left out."""
        if values.size < _WORTH_AN_ARRAY:
            for value in values.ravel().tolist():
                if value == value:  # noqa: PLR0124  not a number
                    self.add(value)
            return
        array = values.ravel().astype(np.float64)
        array = array[~np.isnan(array)]
        found = np.bincount(np.searchsorted(self.bounds, array), minlength=len(self.counts)).tolist()
        self.counts = [held + more for held, more in zip(self.counts, found, strict=True)]
        self.total += float(array.sum())

    def add_counts(self, numbers: list[int], total: float) -> None:
        """Add what another histogram of the same bounds counted."""
        if len(numbers) == len(self.counts):
            self.counts = [held + more for held, more in zip(self.counts, numbers, strict=True)]
            self.total += total

    def cumulative(self) -> list[tuple[str, float]]:
        """Give (upper bound, count up to it), as Prometheus wants them."""
        rows: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            rows.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(seen)))
        return rows


@dataclass(slots=True)
class Gauges:
    """What is read at the moment of a scrape."""

    queued_rows: Callable[[], int]
    log_waiting: Callable[[], int]
    log_counts: Callable[[], tuple[int, int, int]]
    versions: Callable[[], Iterable[tuple[str, int, str]]]


class Family(msgspec.Struct):
    """A metric family of a library: its samples by name and labels."""

    name: str
    documentation: str
    kind: str
    samples: list[tuple[str, tuple[tuple[str, str], ...], float]]


class Counts(msgspec.Struct):
    """The figures of a process at one moment; those of several processes add up.

    Attributes:
        requests: Bucket counts and sum of seconds, by the labels of a request.
        scores: Bucket counts and sum, by endpoint, version and arm.
        rows: By endpoint and version.
        batches: Bucket counts and sum of rows.
        log: Records of the prediction log, by `LOG_FATES`.
        gone: Since when (Unix seconds) what is counted is served no more.
        library: Figures that libraries keep.
    """

    requests: list[tuple[RequestLabels, list[int], float]] = []
    scores: list[tuple[ScoreLabels, list[int], float]] = []
    rows: list[tuple[tuple[str, str], int]] = []
    batches: tuple[list[int], float] = ([], 0.0)
    log: tuple[int, int, int] = (0, 0, 0)
    queued_rows: int = 0
    log_waiting: int = 0
    gone: list[tuple[Served, float]] = []
    library: list[Family] = []


class PredictionMetrics(Collector):
    """The figures of one process."""

    def __init__(self) -> None:
        self._log_before = (0, 0, 0)
        self._requests: dict[RequestLabels, Buckets] = {}
        self._scores: dict[ScoreLabels, Buckets] = {}
        self._rows: dict[Served, int] = {}
        self._gone: dict[Served, float] = {}
        self.batches = Buckets(BATCH_BUCKETS)
        self.gauges: Gauges | None = None

    def answered(
        self, *, endpoint: str, version: str, arm: str, protocol: str, code: str, latency_s: float, rows: int
    ) -> None:
        """Count one request; `code` is the status, `version` empty where none was chosen."""
        buckets = self._buckets((endpoint, version, arm, protocol, code))
        if buckets is None:
            return
        buckets.add(latency_s)
        key = (endpoint, version)
        self._rows[key] = self._rows.get(key, 0) + rows

    def succeeded(self, call: "Call") -> None:
        """Count an answered call and its scores."""
        target = call.target
        scores = None if call.outputs is None else target.loaded.scores(call.outputs, call.output_names)
        labels = (target.endpoint.name, target.version_text, target.arm, call.protocol, "200")
        self._count(labels, np.array([call.took_s]), rows=call.rows, scores=scores)

    def succeeded_together(self, runs: "Iterable[Piece]") -> None:
        """Count ordinary requests, all that ran since the last flush."""
        for kind, group in itertools.groupby(runs, lambda run: run.kind):
            if kind is None:
                continue
            latencies_s: list[float] = []
            scores: list[bytes] = []
            for run in group:
                latencies_s += [run.ended - began for began in run.began]
                scores.append(run.scores)
            labels = (kind.endpoint, kind.version, kind.arm, kind.protocol, "200")
            given = np.frombuffer(b"".join(scores), kind.score_dtype) if kind.score_dtype else None
            self._count(labels, np.array(latencies_s), rows=len(latencies_s), scores=given)

    def _count(
        self, labels: RequestLabels, latencies_s: NDArray[Any], *, rows: int, scores: NDArray[Any] | None
    ) -> None:
        endpoint, version, arm, _protocol, _code = labels
        buckets = self._buckets(labels)
        if buckets is not None:
            buckets.add_all(latencies_s)
        key = (endpoint, version)
        self._rows[key] = self._rows.get(key, 0) + rows
        if scores is None:
            return
        scored = self._scores.get((endpoint, version, arm))
        if scored is None:
            if len(self._scores) >= _SERIES_MAX:
                return
            scored = self._scores[(endpoint, version, arm)] = Buckets(SCORE_BUCKETS)
        scored.add_all(scores)

    def _buckets(self, labels: RequestLabels) -> Buckets | None:
        buckets = self._requests.get(labels)
        if buckets is None and len(self._requests) < _SERIES_MAX:
            buckets = self._requests[labels] = Buckets(LATENCY_BUCKETS_S)
        return buckets

    def forget_gone(self, served: Collection[Served], now: float) -> None:
        """Note what is served no more, and forget what has not been for long.

        Args:
            served: Every endpoint with every version of it, and with an empty one.
            now: Unix seconds.
        """
        counted: set[Served] = {(labels[0], labels[1]) for labels in (*self._requests, *self._scores)}
        counted |= self._rows.keys()
        gone = {pair for pair in counted if pair not in served and pair[0] != NOBODY}
        self._gone = {pair: self._gone.get(pair, now) for pair in gone}
        over = {pair for pair, since in self._gone.items() if now - since > GONE_KEPT_S}
        if over:
            self._requests = {labels: held for labels, held in self._requests.items() if labels[:2] not in over}
            self._scores = {labels: held for labels, held in self._scores.items() if labels[:2] not in over}
            self._rows = {pair: count for pair, count in self._rows.items() if pair not in over}

    def answered_by_version(self, endpoint: str, version: str) -> tuple[int, int, float]:
        """Give (successes, failures, seconds) of a version on an endpoint."""
        good = bad = 0
        seconds = 0.0
        for labels, buckets in self._requests.items():
            if labels[0] == endpoint and labels[1] == version:
                count = sum(buckets.counts)
                seconds += buckets.total
                if labels[4] in {"200", "OK"}:
                    good += count
                else:
                    bad += count
        return good, bad, seconds

    def rows(self, endpoint: str, version: str) -> int:
        """Give the rows that a version answered on an endpoint."""
        return self._rows.get((endpoint, version), 0)

    def counts(self) -> Counts:
        """Take the figures of this process."""
        gauges = self.gauges
        log = (0, 0, 0) if gauges is None else gauges.log_counts()
        before = self._log_before
        return Counts(
            requests=[(labels, list(held.counts), held.total) for labels, held in list(self._requests.items())],
            scores=[(labels, list(held.counts), held.total) for labels, held in list(self._scores.items())],
            rows=list(self._rows.items()),
            batches=(list(self.batches.counts), self.batches.total),
            log=(log[0] + before[0], log[1] + before[1], log[2] + before[2]),
            queued_rows=0 if gauges is None else gauges.queued_rows(),
            log_waiting=0 if gauges is None else gauges.log_waiting(),
            gone=list(self._gone.items()),
        )

    def carry_on(self, counts: Counts) -> None:
        """Begin where a predecessor ended: a counter that went back would read as a burst."""
        for labels, numbers, total in counts.requests:
            _add(self._requests, labels, LATENCY_BUCKETS_S, numbers, total)
        for score_labels, numbers, total in counts.scores:
            _add(self._scores, score_labels, SCORE_BUCKETS, numbers, total)
        for key, count in counts.rows:
            self._rows[key] = self._rows.get(key, 0) + count
        self.batches.add_counts(*counts.batches)
        before = self._log_before
        self._log_before = (before[0] + counts.log[0], before[1] + counts.log[1], before[2] + counts.log[2])
        for pair, since in counts.gone:
            self._gone[pair] = min(since, self._gone.get(pair, since))

    def collect(self) -> Iterable[Metric]:
        """Make the metric families of this moment."""
        return self.collected([self.counts()])

    def collected(self, processes: Iterable[Counts], *, now: float | None = None) -> Iterable[Metric]:
        """Make the families of several processes' figures, which add up."""
        everybody = PredictionMetrics()
        queued = waiting = 0
        for counts in processes:
            everybody.carry_on(counts)
            queued += counts.queued_rows
            waiting += counts.log_waiting
        yield from everybody.histograms(time.time() if now is None else now)
        if self.gauges is None:
            return
        yield GaugeMetricFamily("clave_inference_queued_rows", "Rows that wait.", value=queued)
        yield GaugeMetricFamily(
            "clave_prediction_log_waiting", "Records and entries not yet on the stream.", value=waiting
        )
        log = CounterMetricFamily("clave_prediction_log_records", "Records of the log.", labels=["fate"])
        for fate, count in zip(LOG_FATES, everybody.counts().log, strict=True):
            log.add_metric([fate], count)
        yield log
        yield self._versions(self.gauges)

    def histograms(self, now: float) -> Iterable[Metric]:
        """Make the families of what was answered."""
        hidden = {pair for pair, since in self._gone.items() if now - since > GONE_SHOWN_S}
        durations = HistogramMetricFamily(
            "clave_inference_duration_seconds",
            "From the request's last byte to the answer.",
            labels=["endpoint", "version", "arm", "protocol", "code"],
        )
        for labels, buckets in self._requests.items():
            if labels[:2] not in hidden:
                durations.add_metric(labels, buckets.cumulative(), buckets.total)
        yield durations
        rows = CounterMetricFamily("clave_predictions", "Rows answered or refused.", labels=["endpoint", "version"])
        for key, count in self._rows.items():
            if key not in hidden:
                rows.add_metric(key, count)
        yield rows
        scores = HistogramMetricFamily("clave_prediction_score", "Scores given.", labels=["endpoint", "version", "arm"])
        for score_labels, buckets in self._scores.items():
            if score_labels[:2] not in hidden:
                scores.add_metric(score_labels, buckets.cumulative(), buckets.total)
        yield scores
        batches = HistogramMetricFamily("clave_inference_batch_rows", "Rows computed in one run.")
        batches.add_metric([], self.batches.cumulative(), self.batches.total)
        yield batches

    @staticmethod
    def _versions(gauges: Gauges) -> Metric:
        loaded = GaugeMetricFamily(
            "clave_inference_model_version", "Versions by state.", labels=["model", "version", "state"]
        )
        for model, version, state in gauges.versions():
            loaded.add_metric([model, str(version), state], 1)
        return loaded


def _add(
    held: dict[Any, Buckets], labels: tuple[str, ...], bounds: Sequence[float], numbers: list[int], total: float
) -> None:
    buckets = held.get(labels)
    if buckets is None:
        buckets = held[labels] = Buckets(bounds)
    buckets.add_counts(numbers, total)
