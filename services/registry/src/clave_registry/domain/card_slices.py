"""Slices of an evaluation on the card: a row per group or intersection, each rate with its interval and n."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_Z = 1.959963984540054  # two-sided 95 %
_RATES = ("positive_rate", "selection_rate", "true_positive_rate")


def wilson_interval(rate: float, n: float) -> tuple[float, float]:
    """Bound a share by its 95 % score interval.

    Args:
        rate: Share seen, 0 to 1.
        n: Rows behind it, above 0.

    Returns:
        Low and high, within 0 and 1.

    Source: Wilson (1927), JASA 22, p. 209.
    """
    centre = rate + _Z * _Z / (2 * n)
    spread = _Z * math.sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def slice_rows(slices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Show slices: those of one attribute first, then intersections (several attributes named)."""
    rows = [_row(one) for one in slices]
    return sorted(rows, key=lambda row: (row["intersection"], row["slice"]))


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    groups = _groups(one)
    n = one.get("rows")
    positives: float | None = None if n is None else (one.get("positive_rate") or 0.0) * n
    counts: dict[str, float | None] = {"positive_rate": n, "selection_rate": n, "true_positive_rate": positives}
    rates = [_rate(name, float(one[name]), counts[name]) for name in _RATES if one.get(name) is not None]
    known = {"attribute", "attributes", "group", "groups", "rows", *_RATES}
    others = [
        {"name": name, "estimate": value, "low": None, "high": None, "n": n}
        for name, value in sorted(one.items())
        if name not in known and isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return {
        "slice": ", ".join(f"{name} = {value}" for name, value in groups.items()),
        "groups": groups,
        "intersection": len(groups) > 1,
        "rows": n,
        "figures": rates + others,
    }


def _groups(one: Mapping[str, Any]) -> dict[str, str]:
    if isinstance(one.get("groups"), Mapping):
        return {str(name): str(value) for name, value in one["groups"].items()}
    if "attribute" in one:
        return {str(one["attribute"]): str(one.get("group", ""))}
    return {"slice": str(one.get("name", ""))}


def _rate(name: str, value: float, n: float | None) -> dict[str, Any]:
    if not n or not 0 <= value <= 1:
        return {"name": name, "estimate": value, "low": None, "high": None, "n": n}
    low, high = wilson_interval(value, n)
    return {"name": name, "estimate": value, "low": low, "high": high, "n": round(n)}
