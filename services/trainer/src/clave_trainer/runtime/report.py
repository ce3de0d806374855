"""Put a candidate's evaluation together: metrics by split, every gate, fairness, champion, monitoring reference."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clave_trainer.domain.arrays import Bools, Floats
from clave_trainer.domain.fairness import Verdict
from clave_trainer.domain.gates import GateResult, overall
from clave_trainer.domain.split import Deal, latest_of_each
from clave_trainer.runtime import evaluation
from clave_trainer.runtime.compute import OUT_FOLDER, Report
from clave_trainer.runtime.evaluation import Candidate
from clave_trainer.runtime.fairness_report import fairness_report
from clave_trainer.runtime.frames import Frame

EVALUATION_FILE = "evaluation.json"
REFERENCE_FILE = "reference.parquet"
_REGISTRY_VERDICT = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.REVIEW: "review"}


def evaluation_report(
    folder: Path, request: dict[str, Any], frame: Frame, dealt: Deal, report: Report
) -> dict[str, Any]:
    """Evaluate a candidate.

    Args:
        folder: Holds ``model.onnx`` and, where there is a champion, ``champion.onnx``.
        request: ``policy``, ``params``, ``threshold``, ``importance``, ``champion``, ``evaluation_after``.
        frame: The whole training set.
        dealt: Its split.
        report: Takes progress.

    Returns:
        ``facts`` with the evaluation as the registry keeps it, and ``refused`` with the reason of each failed gate.
    """
    policy = request["policy"]
    candidate = Candidate.load(folder / "model.onnx", frame.features, request["threshold"])
    test = frame.take(dealt.test)
    test = test.take(latest_of_each(test.keys, test.at))
    judged, window = evaluation_rows(test, request.get("evaluation_after"), rows_min=policy["rows_min"])
    report(0.2, f"judging on {len(judged.keys)} rows, {window}")
    scores = candidate.scores(judged.rows)
    selected = scores >= candidate.threshold
    results = evaluation.performance_gates(policy, judged.outcomes, scores)
    champion, compared = _champion(folder, request, judged, scores)
    results += compared
    report(0.5, "fairness")
    fair = fairness_report(policy, judged, selected)
    report(0.7, "latency and robustness")
    costs, cost_figures = evaluation.cost_gates(policy, candidate, judged.rows[:1])
    results += fair.gates + costs
    results += evaluation.robustness_gates(policy, request["params"], candidate, judged, judged.rows)
    verdict = overall(results)
    facts = {
        "metrics": _metrics(candidate, frame, dealt, test, judged, window) | {"serving": cost_figures},
        "gates": [_verdict(result) for result in results] + _without_champion(champion),
        "passed": not any(needs_a_person(result, policy) or result.verdict is Verdict.FAIL for result in results),
        "fairness": fair.figures,
        "slices": fair.slices,
        "champion": champion,
        "importance": request["importance"],
        "latency_us_p50": cost_figures["latency_us_p50"],
        "rows": len(judged.keys),
    }
    _write_reference(folder / OUT_FOLDER / REFERENCE_FILE, judged, scores)
    refused = [result.reason for result in results if result.verdict is Verdict.FAIL]
    return {"facts": facts, "window": window, "verdict": str(verdict), **({"refused": refused} if refused else {})}


def needs_a_person(result: GateResult, policy: dict[str, Any]) -> bool:
    """Tell whether a gate that could not decide holds the version up until somebody approves it.

    Fairness that the rows cannot tell is shown on the card and holds nothing up, unless ``parity_blocks`` says so.
    """
    if result.verdict is not Verdict.REVIEW:
        return False
    return bool(policy["parity_blocks"]) or not result.gate.startswith("fairness:")


def evaluation_rows(test: Frame, after: str | None, *, rows_min: int) -> tuple[Frame, str]:
    """Choose the rows that judge: the test rows of the window, or all where the window holds too few.

    Args:
        test: Test rows, one per entity.
        after: Start of the window, RFC 3339; None = all rows.
        rows_min: Rows below which a window is not trusted.

    Returns:
        The rows and a phrase that says which they are.
    """
    if after is None:
        return test, "all test rows"
    since = int(datetime.fromisoformat(after).timestamp() * 1_000_000)
    within: Bools = test.at >= since
    rows = int(within.sum())
    if rows < rows_min:
        return test, f"all test rows (the window since {after} holds only {rows}, {rows_min} are needed)"
    return test.take(within), f"test rows since {after}"


def _champion(
    folder: Path, request: dict[str, Any], judged: Frame, scores: Floats
) -> tuple[dict[str, Any] | None, list[GateResult]]:
    known = request.get("champion")
    if known is None:
        return None, []
    rows = judged.columns(known["columns"])
    if rows is None:
        missing = sorted(set(known["columns"]) - set(judged.features))
        reason = f"the champion reads {', '.join(missing)}, which the training set lacks; compare them by a rollout"
        return {"version": known["version"]}, [GateResult("champion_challenger", Verdict.REVIEW, reason)]
    champion = Candidate.load(folder / "champion.onnx", known["columns"], known["threshold"])
    theirs = champion.scores(rows)
    results = evaluation.champion_gates(request["policy"], judged.outcomes, champion=theirs, challenger=scores)
    metrics = evaluation.metrics(judged.outcomes, theirs, champion.threshold)
    return {"version": known["version"], "metrics": metrics, "rows": len(judged.keys)}, results


def _without_champion(champion: dict[str, Any] | None) -> list[dict[str, Any]]:
    if champion is not None:
        return []
    detail = "the endpoint has no live version to compare with"
    return [{"gate": "champion_challenger", "verdict": "not_applicable", "detail": detail}]


def _metrics(
    candidate: Candidate, frame: Frame, dealt: Deal, test: Frame, judged: Frame, window: str
) -> dict[str, dict[str, float]]:
    parts = {"train": frame.take(dealt.train), "validation": frame.take(dealt.validation), "test": test}
    if window.startswith("test rows since"):
        parts["evaluation_window"] = judged
    return {
        name: evaluation.metrics(part.outcomes, candidate.scores(part.rows), candidate.threshold)
        for name, part in parts.items()
    }


def _verdict(result: GateResult) -> dict[str, Any]:
    """Render a gate as the registry keeps it."""
    facts = result.facts

    def number(*names: str) -> float | None:
        for name in names:
            value = facts.get(name)
            if isinstance(value, float) and np.isfinite(value):
                return value
        return None

    low = number("lower", "lower_one_sided")
    rows = number("n")
    return {
        "gate": result.gate,
        "verdict": _REGISTRY_VERDICT[result.verdict],
        "detail": result.reason,
        "estimate": number("estimate", "improvement"),
        "low": low,
        "high": number("upper"),
        "limit": number("limit"),
        "n": int(rows) if rows is not None else None,
        "p_value": number("p_better"),
    }


def _write_reference(path: Path, judged: Frame, scores: Floats) -> None:
    """Write the rows that judged, as served: inputs by name, ``score``, ``label``, protected attributes."""
    columns: dict[str, pa.Array] = {
        name: pa.array(judged.rows[:, column], mask=np.isnan(judged.rows[:, column]))
        for column, name in enumerate(judged.features)
    }
    columns |= {name: pa.array(values, pa.string()) for name, values in judged.extras.items()}
    columns["score"] = pa.array(scores.astype(np.float32))
    columns["label"] = pa.array(judged.label.astype(np.int8))
    pq.write_table(pa.table(columns), path, compression="zstd")
