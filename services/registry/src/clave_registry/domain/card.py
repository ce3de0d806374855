"""The model card: what is known about a version, and what only a person can say.

One JSON document is the card; Markdown and HTML are renderings of it. Numbers are never typed in: each comes from the
version's evaluation and names its split, rows and interval, and links to the run, the training set's digest and the
gate that judged it. Texts of people (intended use, limitations, ethical considerations) stay theirs; an empty one is
shown as empty and can hold up approval.

Sections follow the four of the suite's card template: model details, performance, limitations, usage notes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clave_registry.domain.card_diff import against_champion
from clave_registry.domain.card_slices import slice_rows

CARD_VERSION = "1.0"
RATE_LIMIT_PER_MINUTE_DEFAULT = 1000.0
NAMESPACES = ("Development", "Staging", "Production")
HUMAN_FIELDS = ("intended_use", "limitations", "ethical_considerations")
REQUIRED_BY_RISK: Mapping[str, tuple[str, ...]] = {
    "minimal": (),
    "limited": ("intended_use",),
    "high": HUMAN_FIELDS,
}
HEADLINE_METRICS = ("auc", "accuracy")
PARITY = "parity_ratio"
FAIRNESS_MEASURES: Mapping[str, str] = {
    PARITY: "statistical parity ratio",
    "statistical_parity_ratio": "statistical parity ratio",
    "true_positive_rate_gap": "gap of true positive rates",
    "false_positive_rate_gap": "gap of false positive rates",
}
_GATE_FIELDS = ("gate", "verdict", "estimate", "low", "high", "limit", "n")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything a card is made from; the mappings are the version's parts as they were registered.

    Attributes:
        texts: What people and the pipeline's definition said (the `card` of the version).
        evaluation: Metrics by split, gates, fairness; None when the version was never evaluated.
        endpoints: Names of the endpoints that serve the version now.
        links: Name to URL or path of what the card refers to.
    """

    model: str
    version: int
    status: str
    risk_class: str
    manifest_digest: str
    signature: Mapping[str, Any]
    params: Mapping[str, Any]
    lineage: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    texts: Mapping[str, Any]
    contributors: Sequence[str]
    approvals: Sequence[Mapping[str, Any]]
    approved_by: str | None
    endpoints: Sequence[str]
    created_at: datetime
    created_by: str
    links: Mapping[str, str]


def empty_fields(texts: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the parts of the card that a person must write and has not."""
    return tuple(field for field in HUMAN_FIELDS if not texts.get(field))


def build_card(facts: CardFacts) -> dict[str, Any]:
    """Generate the card of a version as one JSON-able document."""
    return {
        "card_version": CARD_VERSION,
        "title": facts.texts.get("display_name") or facts.model,
        "model_details": _details(facts),
        "performance": _performance(facts),
        "limitations": _limitations(facts),
        "usage_notes": _usage(facts),
        "governance": _governance(facts),
        "links": dict(facts.links),
    }


def _details(facts: CardFacts) -> dict[str, Any]:
    columns = list(facts.signature.get("columns") or [])
    return {
        "id": f"{facts.model}-v{facts.version}",
        "model": facts.model,
        "version": facts.version,
        "overview": facts.texts.get("overview") or "",
        "algorithm": facts.texts.get("algorithm") or str(facts.params.get("algorithm", "")),
        "task": facts.signature.get("task"),
        "training_data": [_dataset(dataset) for dataset in facts.lineage.get("datasets") or []],
        "inputs": [dict(tensor) for tensor in facts.signature.get("inputs") or []],
        "outputs": [dict(tensor) for tensor in facts.signature.get("outputs") or []],
        "feature_set": {"count": len(columns), "features": columns},
        "parameters": dict(facts.params),
        "owners": list(facts.texts.get("owners") or []),
        "manifest_digest": facts.manifest_digest,
        "created_at": facts.created_at.isoformat(),
        "created_by": facts.created_by,
    }


def _dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    wanted = (
        "id", "name", "digest", "rows", "as_of", "feature_service", "feature_views", "consent_policy"
    )  # fmt: skip
    return {field: dataset.get(field) for field in wanted}


def _performance(facts: CardFacts) -> dict[str, Any]:
    evaluation = facts.evaluation or {}
    metrics: Mapping[str, Mapping[str, float]] = evaluation.get("metrics") or {}
    names = sorted({name for split in metrics.values() for name in split}, key=_metric_order)
    splits = sorted(metrics, key=lambda split: (split != "train", split))
    return {
        "evaluated": facts.evaluation is not None,
        "rows": evaluation.get("rows"),
        "splits": splits,
        "metrics": [
            {
                "name": name,
                "values": {split: metrics[split].get(name) for split in splits},
                "evidence": _evidence(facts, name),
            }
            for name in names
        ],
        "fairness": _fairness(evaluation),
        "slices": slice_rows(evaluation.get("slices") or []),
        "gates": [dict(gate) for gate in evaluation.get("gates") or []],
        "champion": evaluation.get("champion"),
        "against_champion": against_champion(evaluation),
        "importance": dict(sorted((evaluation.get("importance") or {}).items(), key=lambda pair: -abs(pair[1]))[:20]),
        "latency_us_p50": evaluation.get("latency_us_p50"),
    }


def _evidence(facts: CardFacts, metric: str) -> dict[str, Any]:
    """Say where a figure comes from: run, data, rows, and the gate that judged it with its interval and n."""
    evaluation = facts.evaluation or {}
    gates = [gate for gate in evaluation.get("gates") or [] if metric in _words(str(gate.get("gate")))]
    datasets = facts.lineage.get("datasets") or []
    return {
        "run": facts.links.get("run"),
        "dataset_digests": [dataset.get("digest") for dataset in datasets],
        "rows": evaluation.get("rows"),
        "gates": [{field: gate.get(field) for field in _GATE_FIELDS} for gate in gates],
    }


def _words(gate: str) -> set[str]:
    """Name what a gate may judge: ``champion_challenger:log_loss`` and ``auc_min`` judge log_loss and auc."""
    last = gate.rpartition(":")[2]
    return {gate, last, last.removesuffix("_min"), last.removesuffix("_max"), last.removesuffix("_loss")}


def _metric_order(name: str) -> tuple[int, str]:
    return (HEADLINE_METRICS.index(name) if name in HEADLINE_METRICS else len(HEADLINE_METRICS), name)


def _fairness(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Show every measure of every attribute, and of every pair of them, with one row per compared group."""
    figures: Mapping[str, Any] = evaluation.get("fairness") or {}
    rows: list[dict[str, Any]] = []
    for attribute, value in sorted(figures.items(), key=lambda pair: (" x " in pair[0], pair[0])):
        facts = dict(value) if isinstance(value, Mapping) else {PARITY: value}
        for measure in FAIRNESS_MEASURES:
            measured = facts.get(measure)
            if isinstance(measured, list):  # one comparison per group of the attribute
                rows += [_comparison(attribute, measure, comparison, facts) for comparison in measured]
            elif measured is not None:
                rows.append(_comparison(attribute, measure, {**facts, "estimate": measured}, facts))
    return rows


def _comparison(attribute: str, measure: str, figures: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    judges = facts.get("judged_by") in {None, measure}
    return {
        "attribute": attribute,
        "metric": FAIRNESS_MEASURES[measure],
        **{name: figures.get(name) for name in ("group", "reference", "estimate", "low", "high", "n")},
        "judged_by": facts.get("judged_by"),
        "verdict": facts.get("verdict") if judges else None,
        "limit": facts.get("limit") if judges else None,
    }


def _limitations(facts: CardFacts) -> dict[str, Any]:
    evaluation = facts.evaluation or {}
    found = [
        f"Gate '{gate['gate']}' {gate['verdict']}: {gate['detail']}"
        for gate in evaluation.get("gates") or []
        if gate.get("verdict") in {"failed", "review"}
    ]
    return {
        "stated": list(facts.texts.get("limitations") or []),
        "found": found,
        "ethical_considerations": facts.texts.get("ethical_considerations") or "",
    }


def _usage(facts: CardFacts) -> dict[str, Any]:
    return {
        "intended_use": facts.texts.get("intended_use") or "",
        "allowed_namespaces": list(facts.texts.get("allowed_namespaces", NAMESPACES)),
        "rate_limit_per_minute": facts.texts.get("rate_limit_per_minute") or RATE_LIMIT_PER_MINUTE_DEFAULT,
        "retrain_when": facts.texts.get("retrain_when") or "",
        "notes": list(facts.texts.get("usage_notes") or []),
        "threshold": facts.signature.get("threshold"),
        "endpoints": list(facts.endpoints),
    }


def _governance(facts: CardFacts) -> dict[str, Any]:
    required = REQUIRED_BY_RISK.get(facts.risk_class, HUMAN_FIELDS)
    empty = empty_fields(facts.texts)
    return {
        "status": facts.status,
        "risk_class": facts.risk_class,
        "contributors": list(facts.contributors),
        "approvals": [dict(approval) for approval in facts.approvals],
        "approved_by": facts.approved_by,
        "parent_version": facts.lineage.get("parent_version"),
        "run_id": facts.lineage.get("run_id"),
        "code_version": facts.lineage.get("code_version"),
        "environment_digest": facts.lineage.get("environment_digest"),
        "empty_fields": list(empty),
        "missing_fields": [field for field in empty if field in required],
    }
