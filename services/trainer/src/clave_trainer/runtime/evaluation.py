"""Evaluate a candidate as it would be served: the ONNX graph, on rows that no model has learned from.

Every gate of the pipeline's policy is computed here, with its interval and its rows. Champion and challenger are
asked on the same rows: the test split within the evaluation window, one row per entity. Where the window holds too
few rows, all test rows are taken and the report says so.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from clave_trainer.domain import gates
from clave_trainer.domain.arrays import Bools, Floats, Rows
from clave_trainer.domain.discrimination import (
    PairedComparison,
    TooFewOutcomes,
    auc_interval,
    compare_auc,
)
from clave_trainer.domain.fairness import Verdict
from clave_trainer.domain.gates import ChallengerRule, Direction, GateResult, Limit, PrimaryMetric
from clave_trainer.domain.intervals import Interval, z_of
from clave_trainer.domain.probability import (
    compare_terms,
    confusion,
    expected_calibration_error,
    log_losses,
    mean_interval,
    squared_errors,
)
from clave_trainer.domain.robustness import with_gaps, with_noise
from clave_trainer.runtime.frames import Frame
from clave_trainer.runtime.parity import session_of

_LATENCY_CALLS = 400
_WARM_UP_CALLS = 50


@dataclass(frozen=True)
class Candidate:
    """A graph that can be asked.

    Attributes:
        session: The graph.
        columns: Its inputs by name, in order.
        threshold: Score from which its label is 1.
        size_bytes: Of the serialised graph.
    """

    session: onnxruntime.InferenceSession
    columns: list[str]
    threshold: float
    size_bytes: int

    @classmethod
    def load(cls, path: Path, columns: list[str], threshold: float) -> "Candidate":
        """Open a graph from a file."""
        return cls(session_of(path.read_bytes()), columns, threshold, path.stat().st_size)

    def scores(self, rows: Rows) -> Floats:
        """Return the probability of the positive class, shape (n,)."""
        names = [output.name for output in self.session.get_outputs()]
        name = "probabilities" if "probabilities" in names else names[-1]
        (answer,) = self.session.run([name], {self.session.get_inputs()[0].name: rows})
        scores = answer[:, -1] if answer.ndim == 2 else answer  # noqa: PLR2004 - a column per class
        return np.asarray(scores, dtype=np.float64)


def metrics(outcomes: Bools, scores: Floats, threshold: float) -> dict[str, float]:
    """Compute the figures of one split; AUC is left out where a class is missing."""
    counts = confusion(outcomes, scores, threshold)
    loss = mean_interval(log_losses(outcomes, scores))
    found = {
        "rows": float(outcomes.size),
        "positive_rate": float(outcomes.mean()),
        "mean_score": float(scores.mean()),
        "log_loss": loss.estimate,
        "log_loss_low": loss.lower,
        "log_loss_high": loss.upper,
        "brier": float(squared_errors(outcomes, scores).mean()),
        "accuracy": counts.accuracy,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "calibration_error": expected_calibration_error(outcomes, scores),
    }
    try:
        auc = auc_interval(outcomes, scores)
    except TooFewOutcomes:
        return found
    return {**found, "auc": auc.estimate, "auc_low": auc.lower, "auc_high": auc.upper}


def performance_gates(policy: dict[str, Any], outcomes: Bools, scores: Floats) -> list[GateResult]:
    """Judge the candidate alone: discrimination and calibration."""
    try:
        auc = auc_interval(outcomes, scores)
    except TooFewOutcomes as error:
        return [GateResult("auc", Verdict.FAIL, f"the evaluation rows cannot judge: {error}")]
    error_limit = Limit("calibration error", Direction.AT_MOST, policy["calibration_error_max"])
    return [
        gates.limit_gate("auc", Limit("auc", Direction.AT_LEAST, policy["auc_min"]), auc, rows=outcomes.size),
        gates.limit_gate("calibration", error_limit, expected_calibration_error(outcomes, scores), rows=outcomes.size),
    ]


def champion_gates(
    policy: dict[str, Any], outcomes: Bools, *, champion: Floats, challenger: Floats
) -> list[GateResult]:
    """Judge the candidate against the champion on the same rows."""
    rule = ChallengerRule(
        primary=PrimaryMetric(policy["primary_metric"]),
        alpha=policy["alpha"],
        improvement_min=policy["margin_min"],
        guard_margin=policy["auc_loss_max"],
        rows_min=policy["rows_min"],
    )
    try:
        auc = compare_auc(outcomes, champion=champion, challenger=challenger, alpha=rule.alpha)
    except TooFewOutcomes as error:
        return [GateResult("champion_challenger", Verdict.FAIL, f"the evaluation rows cannot judge: {error}")]
    primary = _primary(rule, auc, outcomes, champion=champion, challenger=challenger)
    return gates.challenger_gate(rule, primary=primary, auc=auc)


def _primary(
    rule: ChallengerRule, auc: PairedComparison, outcomes: Bools, *, champion: Floats, challenger: Floats
) -> PairedComparison:
    if rule.primary is PrimaryMetric.AUC:
        return auc
    terms = log_losses if rule.primary is PrimaryMetric.LOG_LOSS else squared_errors
    return compare_terms(champion=terms(outcomes, champion), challenger=terms(outcomes, challenger), alpha=rule.alpha)


def _auc_lost(outcomes: Bools, calm: Floats, disturbed: Floats) -> Interval:
    shown = compare_auc(outcomes, champion=calm, challenger=disturbed)
    half = z_of(0.95) * shown.standard_error
    return Interval(-shown.improvement, -shown.improvement - half, -shown.improvement + half)


def latency_us(candidate: Candidate, row: Rows) -> tuple[float, float]:
    """Time one row on one thread; returns the median and the 99th percentile in microseconds."""
    times = []
    for call in range(_WARM_UP_CALLS + _LATENCY_CALLS):
        start = time.perf_counter_ns()
        candidate.scores(row)
        if call >= _WARM_UP_CALLS:
            times.append((time.perf_counter_ns() - start) / 1000)
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def cost_gates(policy: dict[str, Any], candidate: Candidate, row: Rows) -> tuple[list[GateResult], dict[str, float]]:
    """Judge what serving costs: latency of one row and size."""
    median, tail = latency_us(candidate, row)
    slow = Limit("median latency", Direction.AT_MOST, policy["latency_us_p50_max"])
    large = Limit("model size", Direction.AT_MOST, float(policy["model_bytes_max"]))
    results = [
        gates.limit_gate("latency", slow, median, rows=_LATENCY_CALLS, unit=" us"),
        gates.limit_gate("size", large, float(candidate.size_bytes), rows=1, unit=" bytes"),
    ]
    return results, {"latency_us_p50": median, "latency_us_p99": tail, "size_bytes": float(candidate.size_bytes)}


def robustness_gates(
    policy: dict[str, Any], params: dict[str, Any], candidate: Candidate, frame: Frame, rows: Rows
) -> list[GateResult]:
    """Judge how much order the candidate loses on noisy and on gapped rows, by the paired interval of the loss."""
    outcomes = frame.outcomes
    limit = policy["robustness_auc_loss_max"]
    seed = int(params.get("seed", 0))
    disturbed = {
        "noise": with_noise(rows, share_of_spread=float(params["robustness_noise"]), seed=seed),
        "gaps": with_gaps(rows, share=float(params["robustness_missing"]), seed=seed),
    }
    try:
        calm = candidate.scores(rows)
        lost = {name: _auc_lost(outcomes, calm, candidate.scores(each)) for name, each in disturbed.items()}
    except TooFewOutcomes as error:
        return [GateResult("robustness", Verdict.FAIL, f"the evaluation rows cannot judge: {error}")]
    return [
        gates.limit_gate(
            f"robustness:{name}",
            Limit(f"auc lost under {name}", Direction.AT_MOST, limit),
            loss,
            rows=outcomes.size,
        )
        for name, loss in lost.items()
    ]
