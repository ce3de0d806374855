"""What changed between two cards: figures side by side, and every part that reads otherwise."""

from collections.abc import Mapping
from typing import Any

JUDGED_SPLITS = ("evaluation_window", "test", "validation", "train")


def judged_split(splits: Mapping[str, Any] | list[str]) -> str | None:
    """Name the split by which a version is judged: the newest rows that it never learned from."""
    return next((name for name in JUDGED_SPLITS if name in splits), None)


def against_champion(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare a version with the champion that was evaluated on the same rows; None where there was none."""
    champion = evaluation.get("champion")
    if not champion or not champion.get("metrics"):
        return None
    metrics = evaluation.get("metrics") or {}
    split = judged_split(metrics)
    ours = metrics.get(split) or {} if split else {}
    return {
        "version": champion["version"],
        "split": split,
        "rows": champion.get("rows") or evaluation.get("rows"),
        "metrics": _figures(ours, champion["metrics"]),
    }


def _figures(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "this": ours.get(name),
            "other": theirs.get(name),
            "difference": ours[name] - theirs[name] if name in ours and name in theirs else None,
        }
        for name in sorted({*ours, *theirs})
    ]


def card_diff(this: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two cards of one model.

    Args:
        this: The card asked about.
        other: What it is compared with, usually the champion's.

    Returns:
        Metrics of the judged split side by side, and ``changes``: dotted path to both values, where they differ.
    """
    split = judged_split(this["performance"]["splits"])
    changes = [
        {"path": path, "this": ours, "other": theirs}
        for path, ours, theirs in _differences("", _comparable(this), _comparable(other))
    ]
    return {
        "model": this["model_details"]["model"],
        "this": this["model_details"]["version"],
        "other": other["model_details"]["version"],
        "split": split,
        "metrics": _figures(_metrics(this, split), _metrics(other, split)),
        "same_rows": against_champion_of(this, other),
        "changes": changes,
    }


def against_champion_of(this: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the comparison on the same rows, where this version was evaluated beside the other."""
    compared: dict[str, Any] | None = this["performance"].get("against_champion")
    return compared if compared and compared["version"] == other["model_details"]["version"] else None


def _metrics(card: Mapping[str, Any], split: str | None) -> dict[str, float]:
    values = {metric["name"]: metric["values"].get(split) for metric in card["performance"]["metrics"]}
    return {name: value for name, value in values.items() if value is not None}


def _comparable(card: Mapping[str, Any]) -> dict[str, Any]:
    details = card["model_details"]
    return {
        "parameters": details["parameters"],
        "algorithm": details["algorithm"],
        "features": details["feature_set"]["features"],
        "training_data": {data["name"]: data["digest"] for data in details["training_data"]},
        "gates": {gate["gate"]: gate["verdict"] for gate in card["performance"]["gates"]},
        "fairness": {
            ".".join(str(row[key]) for key in ("attribute", "metric", "group") if row.get(key)): row.get("estimate")
            for row in card["performance"]["fairness"]
        },
        "slices": {
            row["slice"]: {figure["name"]: figure["estimate"] for figure in row["figures"]}
            for row in card["performance"]["slices"]
        },
        "usage": {name: card["usage_notes"][name] for name in ("intended_use", "threshold", "allowed_namespaces")},
        "limitations": card["limitations"]["stated"],
        "code_version": card["governance"]["code_version"],
        "environment_digest": card["governance"]["environment_digest"],
    }


def _differences(path: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found: list[tuple[str, Any, Any]] = []
        for name in sorted({*ours, *theirs}):
            inner = f"{path}.{name}" if path else str(name)
            found += _differences(inner, ours.get(name), theirs.get(name))
        return found
    return [] if ours == theirs else [(path, ours, theirs)]
