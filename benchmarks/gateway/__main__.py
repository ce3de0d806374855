"""`python -m benchmarks.gateway`: measure, write benchmarks/results/gateway.{json,md}.

Postgres and Valkey are the test suite's own (PYTHONPATH=tests). CPU is the measured process's; other load on the
machine widens it, so the table says which load there was.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import orjson
from clave.stack.secrets import ensure_secrets
from clave_testing import servers

from benchmarks.gateway import enforcement, stores

RESULTS = Path(__file__).parents[1] / "results"
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
PARTS = ("enforcement", "audit", "limits", "revocation")


def main() -> None:
    """Measure the parts asked for and keep the others as they were."""
    parser = argparse.ArgumentParser(prog="benchmarks.gateway")
    parser.add_argument("--opa", default=shutil.which("opa"), help="a real OPA program")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--only", choices=PARTS, action="append")
    arguments = parser.parse_args()
    path = RESULTS / "gateway.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    before = os.getloadavg()[0]
    fresh = asyncio.run(_measure(arguments.only or list(PARTS), arguments))
    found |= {name: {**part, "load_before": round(before, 2)} for name, part in fresh.items()}
    RESULTS.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    (RESULTS / "gateway.md").write_text(table(found))
    print(table(found))


async def _measure(parts: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "enforcement" in parts:
        found["enforcement"] = await enforcement.measure(arguments.opa)
    if parts == ["enforcement"]:
        return found
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        secrets = folder / "secrets"
        secrets.mkdir(mode=0o700)
        ensure_secrets(secrets, SERVICES)
        root = servers.make_session_root()
        try:
            if "audit" in parts:
                found["audit"] = await stores.audit(
                    servers.new_database("gateway"), secrets, folder, entries=arguments.entries
                )
            if "limits" in parts:
                found["limits"] = await stores.rate_limits(servers.new_redis(), processes=4, seconds=6.0)
            if "revocation" in parts:
                found["revocation"] = await stores.revocation(
                    servers.new_database("gateway"), servers.new_redis(), secrets, folder, keys=20
                )
        finally:
            servers.stop_servers(root)
    return found


def table(found: dict[str, Any]) -> str:
    """Write what was found as Markdown."""
    lines = ["| what | measured |", "|---|---|"]
    if one := found.get("enforcement"):
        lines += [
            f"| enforcement of a prediction, decision cached | {_us(one['cached_us'])} CPU |",
            f"| the same, decided afresh by the embedded engine | {_us(one['uncached_us'])} CPU |",
            f"| worked cases, embedded engine alone, mean | {_us(one['matrix_us'])} CPU |",
            f"| decisions a second and core, embedded, with authentication | {one['decisions_per_s']} |",
        ]
        if opa := one.get("opa"):
            lines += [
                f"| decided afresh by a real OPA: the service's share | {opa['service_us']} us CPU |",
                f"| the same, OPA's share | {opa['server_us']} us CPU |",
                f"| the same, wall time | {opa['wall_us']} us |",
                f"| decisions a second through OPA, 20 at once | {opa['decisions_per_s']} |",
            ]
    if one := found.get("audit"):
        lines += [
            f"| audit appends a second, durable, batches of 100 | {one['appends_per_s']} ({one['append_cpu_us']} us) |",
            f"| verifying {one['entries']} entries | {one['verify_s']} s |",
        ]
    if one := found.get("limits"):
        lines.append(
            f"| two limits, {one['processes']} processes, {one['seconds']} s | {one['allowed']} allowed, bound "
            f"{one['bound']}; {one['cpu_us_per_check']} us CPU a check |"
        )
    if one := found.get("revocation"):
        lines.append(
            f"| revocation to refusal in another service, {one['keys']} keys | median {one['median_ms']} ms, worst "
            f"{one['worst_ms']} ms |"
        )
    loads = ", ".join(f"{name} {part['load_before']}" for name, part in found.items())
    return (
        "\n".join([*lines, "", f"CPU: median (best) of {enforcement.ROUNDS} short rounds. Load before: {loads}."])
        + "\n"
    )


def _us(value: dict[str, float]) -> str:
    return f"{value['median']} ({value['best']}) us"


if __name__ == "__main__":
    main()
