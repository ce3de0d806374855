"""What `/metrics` shows where several processes share a port: one answer for all, whichever of them a scrape meets.

Predictions are counted by `metrics`; here are the figures that libraries keep: HTTP requests outside of infer, policy
decisions, leases without Redis, the process itself. Counters and histograms of all processes add up, a replaced
process goes on from its predecessor's; gauges stay apart, by the label ``worker``. What a scrape shows is on the board
before it is shown, so no death of a process takes a counter back.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric

from clave_inference.metrics import Counts, Family, PredictionMetrics
from clave_inference.storage.metrics_board import MetricsBoard

_ADDED_UP: Final = frozenset({"counter", "histogram", "summary"})
_CREATED: Final = "_created"
Labels = tuple[tuple[str, str], ...]


class PortRegistry(CollectorRegistry):
    """The figures of one process, or of all that share its port.

    Args:
        predictions: Counts of predictions, of all processes.
        board: Where the processes leave their figures; None where this one is alone.
    """

    def __init__(self, predictions: PredictionMetrics, board: MetricsBoard | None = None) -> None:
        super().__init__(auto_describe=True)
        self._predictions = predictions
        self._board = board
        self._before: list[Family] = []
        if board is not None and (before := board.own()) is not None:
            predictions.carry_on(before)
            self._before = [family for family in before.library if family.kind in _ADDED_UP]

    def counts(self) -> Counts:
        """Take the figures of this process."""
        counts = self._predictions.counts()
        own = [_family(metric) for metric in self._library()]
        counts.library = _added_up([own, self._before], apart=lambda _which: ())
        return counts

    def _library(self) -> Iterator[Metric]:
        yield from super().collect()
        yield from REGISTRY.collect()

    def collect(self) -> Iterator[Metric]:
        """Give the metric families of this moment."""
        if self._board is None:
            yield from self._predictions.collect()
            yield from self._library()
            return
        own = self.counts()
        self._board.post(own)
        siblings = list(self._board.siblings())
        yield from self._predictions.collected([own, *(counts for _worker, counts in siblings)])
        workers = [self._board.worker, *(worker for worker, _counts in siblings)]
        library = [own.library, *(counts.library for _worker, counts in siblings)]
        for family in _added_up(library, apart=lambda which: (("worker", str(workers[which])),)):
            metric = Metric(family.name, family.documentation, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def _family(metric: Metric) -> Family:
    samples = [
        (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
        for sample in metric.samples
        if not sample.name.endswith(_CREATED)
    ]
    return Family(metric.name, metric.documentation, metric.type, samples)


def _added_up(processes: Iterable[Iterable[Family]], *, apart: Callable[[int], Labels]) -> list[Family]:
    """Join the families of several processes; `apart` labels what does not add up."""
    families: dict[str, Family] = {}
    held: dict[str, dict[tuple[str, Labels], float]] = {}
    for which, process in enumerate(processes):
        for family in process:
            families.setdefault(family.name, family)
            samples = held.setdefault(family.name, {})
            extra = () if family.kind in _ADDED_UP else apart(which)
            for name, labels, value in family.samples:
                key = (name, (*labels, *extra))
                samples[key] = samples.get(key, 0.0) + value
    return [
        Family(family.name, family.documentation, family.kind, [(*key, value) for key, value in held[name].items()])
        for name, family in families.items()
    ]
