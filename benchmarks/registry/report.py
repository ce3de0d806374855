"""Writes the figures as a table."""

from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """Render what was measured."""
    lines = ["| operation | clave | MLflow | ratio |", "|---|---|---|---|"]
    sizes = sorted((key for key in found if key.isdecimal()), key=int)
    for size in sizes:
        lines += _rows(found[size], suffix=f", {int(size):,} versions")
    lines += _rows(found.get("others", {}), suffix="")
    lines += _memory(found.get("memory", {}))
    text = "\n".join(lines) + "\n"
    if len(sizes) > 1:
        text += "\n" + _growth(found, sizes[0], sizes[-1])
    return text


def _rows(figures: dict[str, Any], *, suffix: str) -> list[str]:
    ours, theirs = figures.get("clave", {}), figures.get("mlflow", {})
    rows = []
    for name in {**ours, **theirs}:
        a, b = ours.get(name), theirs.get(name)
        ratio = f"{_rate(a) / _rate(b):.1f}x" if a and b else ""
        rows.append(f"| {name}{suffix} | {_shown(a)} | {_shown(b)} | {ratio} |")
    return rows


def _rate(figure: dict[str, float]) -> float:
    return figure["mb_per_s"] if "mb_per_s" in figure else figure["per_s"]


def _shown(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    if "mb_per_s" in figure:
        return f"{figure['mb_per_s']:.0f} MB/s"
    return f"{figure['p50_ms']:.1f} / {figure['p95_ms']:.1f} ms, {figure['per_s']:.0f}/s"


def _memory(figures: dict[str, Any]) -> list[str]:
    rows = []
    for name, unit in (("start_s", "s"), ("after start", "MB"), ("after the load", "MB")):
        a, b = (figures.get(server, {}).get(name) for server in ("clave", "mlflow"))
        label = "ready after" if name == "start_s" else f"memory {name}"
        shown = [f"{value:.0f} {unit}" if value is not None else "" for value in (a, b)]
        ratio = f"{b / a:.1f}x less" if a and b else ""
        rows.append(f"| {label} | {shown[0]} | {shown[1]} | {ratio} |")
    return rows


def _growth(found: dict[str, Any], small: str, large: str) -> str:
    lines = [f"| growth of p50 from {int(small):,} to {int(large):,} versions | clave | MLflow |", "|---|---|---|"]
    for name in found[small].get("clave", {}):
        shown = []
        for server in ("clave", "mlflow"):
            pair = [found[size].get(server, {}).get(name) for size in (small, large)]
            shown.append(f"{pair[1]['p50_ms'] / pair[0]['p50_ms']:.2f}x" if all(pair) else "")
        lines.append(f"| {name} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines) + "\n"
