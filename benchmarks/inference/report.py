"""The tables of a result, as Markdown."""

import statistics
from typing import Any

from benchmarks.inference.contestants import CLAVE, EXPLAINING, FLOOR, LIMIT
from benchmarks.inference.reference_model import BODIES

CONNECTIONS = ("1", "16", "64")
EXPLAINED_PER_S_MIN = 1_000
TARGETS = (
    ("mosec / clave", "fast", "mosec", CLAVE, (3.5, 1.3, 1.1)),
    ("Triton / clave", "fast", "triton", CLAVE, (3.0, 2.5, 2.0)),
    ("MLServer / clave", "python", "mlserver", CLAVE, (4.0, 12.0, 15.0)),
    ("KServe SDK / clave", "python", "kserve", CLAVE, (4.0, 12.0, 15.0)),
    ("BentoML / clave", "python", "bentoml", CLAVE, (7.0, 20.0, 25.0)),
    ("LitServe / clave", "python", "litserve", CLAVE, (7.0, 20.0, 25.0)),
    ("MLflow / clave", "python", "mlflow", CLAVE, (7.0, 20.0, 25.0)),
    ("Ray Serve / clave", "ray", "ray", CLAVE, (7.0, 20.0, 25.0)),
    ("clave / bare protocol", "own", CLAVE, FLOOR, (-1.6, -1.5, -1.4)),
    ("clave / nginx plus raw session.run", "own", CLAVE, LIMIT, (0.0, 0.0, -2.2)),
    ("extras on / off", "own", CLAVE, "clave without extras", (-1.25, -1.25, -1.25)),
    ("demo model: clave / bare protocol", "demo", CLAVE, FLOOR, (-1.6, -1.5, -1.4)),
    ("demo model: clave / nginx plus raw session.run", "demo", CLAVE, LIMIT, (0.0, 0.0, 0.0)),
    ("demo model: mosec / clave", "demo", "mosec", CLAVE, (3.5, 1.3, 1.1)),
    ("demo model: Triton / clave", "demo", "triton", CLAVE, (3.0, 2.5, 2.0)),
    ("demo model: extras on / off", "demo", CLAVE, "clave without extras", (-1.25, -1.25, -1.25)),
    ("MLServer gRPC / clave bridged", "grpc", "mlserver gRPC", "clave gRPC (Envoy's bridge)", (0.0, 1.8, 1.8)),
    ("KServe gRPC / clave bridged", "grpc", "kserve gRPC", "clave gRPC (Envoy's bridge)", (0.0, 1.8, 1.8)),
    ("Triton gRPC / clave bridged", "grpc", "triton gRPC", "clave gRPC (Envoy's bridge)", (0.0, 1.8, 1.8)),
)
"""Name, group, numerator, denominator, and what the CPU ratio should be at least (below 0: at most)."""


def tables(result: dict[str, Any]) -> str:
    parts = ["## Against the targets (CPU per request, median of the rounds' ratios)", "", target_table(result)]
    for name, group in result["groups"].items():
        parts += ["", f"## Group {name} ({group['rounds']} rounds of {group['seconds']} s)", "", group_table(group)]
        parts += [f"- {server}: {why}" for server, why in group["missing"].items()]
        if group.get("clients"):
            parts += ["", f"KServe's own clients, unmodified, against clave: {group['clients']}."]
    return "\n".join(parts)


def target_table(result: dict[str, Any]) -> str:
    lines = ["| ratio | target 1/16/64 | measured 1/16/64 | |", "|---|---|---|---|"]
    for name, group, above, below, targets in TARGETS:
        visits = result["groups"].get(group, {}).get("servers", {})
        if above not in visits or below not in visits:
            lines.append(f"| {name} | {wanted(targets)} | not measured | |")
            continue
        found = [ratio(visits[above], visits[below], connections) for connections in CONNECTIONS]
        met = [holds(value, target) for value, target in zip(found, targets, strict=True)]
        verdict = (
            "met"
            if all(met)
            else "missed at "
            + ", ".join(connections for connections, good in zip(CONNECTIONS, met, strict=True) if not good)
        )
        lines.append(f"| {name} | {wanted(targets)} | {' / '.join(f'{value:.2f}' for value in found)} | {verdict} |")
    for label, group in (("explained rows per CPU second", "own"), ("demo model: the same", "demo")):
        explained = result["groups"].get(group, {}).get("servers", {}).get(EXPLAINING)
        if explained is not None:
            per_s = statistics.median(BODIES * 1e6 / one["cpu_us"] for one in explained["visits"]["1"])
            verdict = "met" if per_s >= EXPLAINED_PER_S_MIN else "missed"
            lines.append(f"| {label} | >= {EXPLAINED_PER_S_MIN} | {per_s:.0f} | {verdict} |")
    return "\n".join(lines)


def wanted(targets: tuple[float, ...]) -> str:
    return " / ".join("-" if not one else (f">= {one:g}" if one > 0 else f"<= {-one:g}") for one in targets)


def holds(value: float, target: float) -> bool:
    return value >= target if target >= 0 else value <= -target


def ratio(above: dict[str, Any], below: dict[str, Any], connections: str) -> float:
    pairs = zip(above["visits"][connections], below["visits"][connections], strict=True)
    return statistics.median(one["cpu_us"] / max(0.1, other["cpu_us"]) for one, other in pairs)


def group_table(group: dict[str, Any]) -> str:
    lines = [
        (
            "| server | connections | CPU us/request | requests/s | p50 us | p99 us | errors | others "
            "| start s | PSS MB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, server in group["servers"].items():
        for connections, rounds in server["visits"].items():
            middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            if "per_s" not in middle:  # a sum of two measurements, no server
                lines.append(f"| {name} | {connections} | {middle['cpu_us']:.0f} | | | | | | | |")
                continue
            lines.append(
                f"| {name} | {connections} | {middle['cpu_us']:.0f} | {middle['per_s']:.0f} "
                f"| {middle['p50_us']:.0f} | {middle['p99_us']:.0f} | {sum(one['errors'] for one in rounds):.0f} "
                f"| {middle['others']:.0%} | {server['start_s']:.1f} | {server['pss_mb']:.0f} |"
            )
    return "\n".join(lines)
