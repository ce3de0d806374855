"""The monitor's Prometheus series; names and labels are those of docs/services/monitor.md.

Gauges show the monitors that matter now: an endpoint's live version and versions with recent traffic. A version
that left takes its series with it, so that an alert on staleness means a stale monitor.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from clave_contracts.events import PredictionRecord
from clave_contracts.monitor import FeedbackResult
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from clave_monitor.storage.records import Key

_MODEL = ("endpoint", "model_name", "model_version")
_FEATURES_MAX = 100
_DELAYS_S = (1, 10, 60, 600, 3600, 21_600, 86_400, 604_800, 2_592_000)


class Metrics:
    """Every series of the monitor."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, (*_MODEL, *labels), registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, (*_MODEL, *labels), registry=registry)

        self._rows = Counter(
            "clave_monitor_predictions_total", "Prediction rows taken in", ("result",), registry=registry
        )
        self._malformed = Counter(
            "clave_monitor_malformed_batches_total", "Stream entries that were no predictions", registry=registry
        )
        self._feedback = Counter(
            "clave_monitor_feedback_total", "Outcomes by what became of them", ("result",), registry=registry
        )
        self._window_rows = gauge("clave_monitor_window_rows", "Rows of the last window")
        self._waiting_rows = gauge("clave_monitor_waiting_rows", "Rows that no window has taken yet")
        self._effect = gauge("clave_drift_effect", "Distance of the last window, 0 to 1", "feature", "kind")
        self._effect_low = gauge("clave_drift_effect_lcb_max", "Greatest lower bound on a distance", "scope")
        self._evidence = gauge("clave_drift_evalue_log10", "Latched evidence, power of ten", "scope")
        self._alarms = counter("clave_drift_alarm_total", "Alarms", "scope")
        self._last_window = gauge("clave_drift_last_window_timestamp_seconds", "When the last window closed")
        self._period = gauge("clave_drift_window_period_seconds", "Longest time between windows")
        self._quality = counter("clave_data_quality_violations_total", "Violations", "feature", "check")
        self._broken = gauge("clave_data_quality_broken", "1 while the last window violates data quality")
        self._estimated = gauge("clave_estimated_performance", "Without labels", "metric")
        self._estimate_dropped = gauge("clave_estimated_performance_dropped", "1 while below its band")
        self._realised = gauge("clave_realised_performance", "From labels", "metric")
        self._reference = gauge("clave_reference_performance", "On the reference", "metric")
        self._harm = gauge("clave_performance_harm_log10", "Latched evidence of harm, power of ten")
        self._harm_limit = gauge("clave_performance_harm_limit_log10", "Evidence at which harm is proven")
        self._coverage = gauge("clave_label_coverage_ratio", "Share of predictions with an outcome, 0 to 1")
        self._delay = Histogram(
            "clave_label_delay_seconds", "Prediction to outcome", _MODEL, buckets=_DELAYS_S, registry=registry
        )
        self._fairness = gauge("clave_fairness_gap", "Widest difference of groups", "metric", "attribute")
        self._decisions = counter("clave_retrain_decisions_total", "Decisions", "decision", "reason")
        self._gauges = (
            self._window_rows,
            self._waiting_rows,
            self._effect,
            self._effect_low,
            self._evidence,
            self._last_window,
            self._period,
            self._broken,
            self._estimated,
            self._estimate_dropped,
            self._realised,
            self._reference,
            self._harm,
            self._harm_limit,
            self._coverage,
            self._fairness,
        )

    def predictions_taken(self, records: Sequence[PredictionRecord], *, new: int, known: int) -> None:
        """Count prediction rows."""
        if records:
            self._rows.labels("new").inc(new)
            self._rows.labels("known").inc(known)

    def batch_malformed(self) -> None:
        """Count a stream entry that could not be read."""
        self._malformed.inc()

    def feedback_taken(self, result: FeedbackResult) -> None:
        """Count outcomes."""
        self._feedback.labels("joined").inc(result.joined)
        self._feedback.labels("pending").inc(result.pending)
        self._feedback.labels("duplicate").inc(result.duplicates)
        self._feedback.labels("refused").inc(len(result.refused))

    def label_delays(self, key: Key, delays_s: Sequence[float]) -> None:
        """Observe how long outcomes took."""
        child = self._delay.labels(*_who(key))
        for delay_s in delays_s:
            child.observe(max(0.0, delay_s))

    def alarm(self, key: Key, scope: str) -> None:
        """Count an alarm."""
        self._alarms.labels(*_who(key), scope).inc()

    def violation(self, key: Key, *, feature: str, check: str) -> None:
        """Count a data-quality violation."""
        self._quality.labels(*_who(key), feature, check).inc()

    def decided(self, key: Key, *, decision: str, reason: str) -> None:
        """Count a decision."""
        self._decisions.labels(*_who(key), decision, reason).inc()

    def show(self, key: Key, report: dict[str, Any], *, period_s: float) -> None:
        """Show a monitor's report in the gauges."""
        who = _who(key)
        self._window_rows.labels(*who).set(report.get("window_rows", 0))
        self._period.labels(*who).set(period_s)
        if report.get("at"):
            self._last_window.labels(*who).set(datetime.fromisoformat(report["at"]).timestamp())
        for scope, state in report.get("scopes", {}).items():
            self._evidence.labels(*who, scope).set(state["evidence_log10"])
            self._effect_low.labels(*who, scope).set(state["effect_low"])
        for feature in report.get("features", [])[:_FEATURES_MAX]:
            self._effect.labels(*who, feature["feature"], feature["kind"]).set(feature["effect"])
        self._broken.labels(*who).set(1 if report.get("data_quality") else 0)
        self._show_performance(who, report.get("performance", {}))
        for attribute, figures in report.get("fairness", {}).items():
            for metric, gap in figures.get("gaps", {}).items():
                self._fairness.labels(*who, metric, attribute).set(gap)

    def _show_performance(self, who: tuple[str, str, str], figures: dict[str, Any]) -> None:
        kinds = (("estimated", self._estimated), ("realised", self._realised), ("reference", self._reference))
        for kind, gauge in kinds:
            for metric, value in figures.get(kind, {}).items():
                gauge.labels(*who, metric).set(value)
        self._estimate_dropped.labels(*who).set(1 if figures.get("estimate_dropped") else 0)
        self._harm.labels(*who).set(figures.get("harm_evidence_log10", -3.0))
        self._harm_limit.labels(*who).set(figures.get("harm_limit_log10", 5.0))
        self._coverage.labels(*who).set(figures.get("label_coverage", 0.0))

    def waiting(self, key: Key, rows: int) -> None:
        """Show how many rows wait for a window."""
        self._waiting_rows.labels(*_who(key)).set(rows)

    def keep_only(self, keys: set[Key]) -> None:
        """Remove the gauges of versions that are gone."""
        kept = {_who(key) for key in keys}
        for gauge in self._gauges:
            for metric in list(gauge.collect()):
                for sample in metric.samples:
                    if tuple(sample.labels[name] for name in _MODEL) not in kept:
                        gauge.remove(*sample.labels.values())


def _who(key: Key) -> tuple[str, str, str]:
    return key.endpoint, key.model, str(key.model_version)
