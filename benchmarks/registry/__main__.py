"""``python -m benchmarks.registry [--groups create alias ...] [--sizes 5000 50000] [--seconds N] [--work DIR]``.

Measures the groups that are asked for, merges them with what the work folder holds from runs before, and writes
``registry.json`` and ``registry.md`` to ``benchmarks/results``. The work folder keeps MLflow's environment, the cluster
and the filled databases, so that a long measurement can be made in short runs.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.registry import filling, servers
from benchmarks.registry.load import CHUNK_BYTES, Caller, timed
from benchmarks.registry.operations import GROUPS, SIZED
from benchmarks.registry.report import markdown
from benchmarks.registry.servers import Server

RESULTS = Path(__file__).parents[1] / "results"
TRANSFER_MIB = 200
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@contextmanager
def running(work: Path, names: list[str]) -> Iterator[tuple[str, list[Server]]]:
    """Start the stores and the servers; stop them all."""
    postgres, host = servers.start_postgres(work)
    valkey, redis_url = servers.start_valkey(work)
    found: list[Server] = []
    try:
        if "clave" in names:
            found.append(servers.start_clave(work, host=host, redis_url=redis_url))
        if "mlflow" in names:
            found.append(servers.start_mlflow(work, host=host))
        yield host, found
    finally:
        for server in found:
            servers.stop(server.process)
        servers.stop(valkey)
        servers.stop(postgres)


def measure(server: Server, group: str, *, seconds: float) -> dict[str, Any]:
    """Measure one group of operations on one server."""
    return {
        name: asdict(timed(server, call, seconds=seconds, callers=callers)) for name, call, callers in GROUPS[group]
    }


def transfer(server: Server) -> dict[str, Any]:
    """Send a file up and bring it down, three times; the best of each (MB/s of 1e6 bytes)."""
    best = {"upload": 0.0, "download": 0.0}
    size = TRANSFER_MIB * CHUNK_BYTES
    for turn in range(3):
        caller, path = Caller(server), f"{ARTIFACTS}/0/r1/artifacts/big-{os.getpid()}-{turn}.bin"
        took = caller.upload(path, os.urandom(CHUNK_BYTES), times=TRANSFER_MIB)
        best["upload"] = max(best["upload"], size / took / 1e6)
        took, got = caller.download(path)
        if got != size:
            raise RuntimeError(f"{server.name}: {got} of {size} bytes came back")
        best["download"] = max(best["download"], size / took / 1e6)
    return {f"{TRANSFER_MIB} MiB {way}": {"mb_per_s": rate} for way, rate in best.items()}


def run(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """Measure and put the figures where they belong."""
    with running(arguments.work, arguments.servers) as (host, contestants):
        for server in contestants:
            memory = found.setdefault("memory", {}).setdefault(server.name, {})
            memory |= {"start_s": server.start_s, "after start": server.memory_mb()}
        for size in arguments.sizes:
            filling.fill(host, versions=size)
            for group in (g for g in arguments.groups if g in SIZED):
                for server in contestants:
                    if group == "create":
                        _grown(server)
                    figures = measure(server, group, seconds=arguments.seconds)
                    found.setdefault(str(size), {}).setdefault(server.name, {}).update(figures)
        for server in contestants:
            own = found.setdefault("others", {}).setdefault(server.name, {})
            if "runs" in arguments.groups:
                own |= measure(server, "runs", seconds=arguments.seconds)
            if "transfer" in arguments.groups:
                own |= transfer(server)
            found["memory"][server.name]["after the load"] = server.memory_mb()


def _grown(server: Server) -> None:
    caller = Caller(server)
    try:
        caller.post("registered-models/create", {"name": "grown"})
    except RuntimeError as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(error):
            raise


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*GROUPS, "transfer"]
    parser.add_argument("--groups", nargs="*", choices=every, default=every)
    parser.add_argument("--servers", nargs="*", choices=["clave", "mlflow"], default=["clave", "mlflow"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[5_000, 50_000])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/clave-bench/registry")
    parser.add_argument("--prepare", action="store_true", help="install, start once, stop")
    parser.add_argument("--print", action="store_true", help="write to the terminal alone")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    kept = arguments.work / "found.json"
    found = json.loads(kept.read_text()) if kept.exists() and not arguments.print else {}
    if arguments.prepare:
        with running(arguments.work, arguments.servers) as (host, _):
            filling.fill(host, versions=min(arguments.sizes))
        return 0
    run(arguments, found)
    found["machine"] = {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.release()}
    found["versions"] = {"mlflow": servers.MLFLOW[0].partition("==")[2], "clave": version("clave-registry")}
    table = markdown(found)
    sys.stdout.write(table)
    if not arguments.print:
        kept.write_text(json.dumps(found))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "registry.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "registry.md").write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
