"""Paired measurement: every server visited in turn, pinned to one core, the load generator on another.

The figure to trust is CPU microseconds per request: user and system time of the server's whole process tree over
completed requests. Throughput and latency only mean something where `others` (the share of the server's core that
other processes used) is small.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
from clave_contracts.inference_grpc import open_inference_pb2 as pb

from benchmarks.inference.contestants import Contestant

HERE = Path(__file__).parent
SERVER_CPU, LOAD_CPU = os.environ.get("SERVER_CPU", "0"), os.environ.get("LOAD_CPU", "1")
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_s(pids: list[int]) -> float:
    total = 0.0
    for process in (one for pid in pids for one in tree(pid)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def memory_mb(pid: int) -> float:
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def core_ticks() -> tuple[int, int]:
    line = next(row for row in Path("/proc/stat").read_text().splitlines() if row.startswith(f"cpu{SERVER_CPU} "))
    values = [int(text) for text in line.split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def first_body(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int(file.readline()))


def log_of(server: Contestant, work: Path) -> Path:
    return work / f"{re.sub('[^a-z0-9]+', '-', server.name.lower())}.log"


def ask(server: Contestant, work: Path, *, timeout_s: float = 5.0) -> bytes:
    """Ask once; raises OSError or RpcError where there is no answer."""
    body = first_body(work / f"{server.bodies}.bodies")
    if not server.grpc:
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}{server.path}", body, server.headers)
        answer: bytes = urllib.request.urlopen(request, timeout=timeout_s).read()
        return answer
    metadata = [(name, value) for name, value in server.headers.items() if name != "content-type"]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        infer = channel.unary_unary(METHOD, None, pb.ModelInferResponse.FromString)
        reply = infer(first_body(work / "grpc.bodies"), timeout=timeout_s, metadata=metadata)
    raw = reply.raw_output_contents
    found = np.frombuffer(raw[0], np.float32) if raw else np.array(reply.outputs[0].contents.fp32_contents)
    return str(found).encode()


def start(server: Contestant, work: Path) -> tuple[subprocess.Popen[bytes], float] | None:
    """Start a server and wait for its first right answer; None when there is none."""
    log = log_of(server, work).open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CPU, *server.command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **server.variables},
        cwd=server.folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    while process.poll() is None and time.monotonic() - began < server.start_s_max:
        try:
            answer = ask(server, work)
        except (OSError, grpc.RpcError):
            time.sleep(0.2)
            continue
        print(f"{server.name}: {answer[:120]!r}", flush=True)
        return process, time.monotonic() - began
    stop(process)
    return None


def stop(process: subprocess.Popen[bytes]) -> None:
    doomed = list(reversed(tree(process.pid)))
    for how in ("terminate", "kill"):
        for one in doomed:
            try:
                getattr(one, how)()
            except psutil.Error:
                continue
        psutil.wait_procs(doomed, timeout=3)


def visit(
    server: Contestant, pids: list[int], work: Path, *, connections: int, seconds: int, pause_ms: float = 0.0
) -> dict[str, float]:
    """Load one server once; the CPU of all `pids` and their children counts."""
    before, (busy_before, all_before), began = cpu_s(pids), core_ticks(), time.monotonic()
    if server.grpc:
        got = run_h2load(server, work, connections=connections, seconds=seconds)
    else:
        got = run_wrk(server, work, connections=connections, seconds=seconds, pause_ms=pause_ms)
    used, wall, (busy, ticks) = cpu_s(pids) - before, time.monotonic() - began, core_ticks()
    requests = max(1.0, got["n"])
    return {
        "per_s": requests / (got["us"] / 1e6),
        "p50_us": got["p50"],
        "p99_us": got["p99"],
        "cpu_us": used / requests * 1e6,
        "errors": got["errors"],
        "others": max(0.0, (busy - busy_before) / max(1, ticks - all_before) - used / wall),
    }


def raw_row_us(work: Path, *, seconds: int) -> float:
    """Measure the CPU that the model alone takes for a row of a batch of 32, on the servers' core."""
    command = ["taskset", "-c", SERVER_CPU, sys.executable, str(HERE / "raw_run.py")]
    command += [str(work / "model.onnx"), str(work / "rows.npy"), str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_wrk(server: Contestant, work: Path, *, connections: int, seconds: int, pause_ms: float) -> dict[str, float]:
    """Load over HTTP/1.1 with rotating bodies."""
    variables = {
        **os.environ,
        "TARGET_PATH": server.path,
        "BODIES": str(work / f"{server.bodies}.bodies"),
        "HEADERS": "\n".join(f"{name}: {value}" for name, value in server.headers.items()),
        "PAUSE_MS": str(pause_ms),
    }
    command = ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "load/post.lua"), f"http://127.0.0.1:{server.port}{server.path}"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + 60, check=False)
    found = re.search(r"JSON (.*)", done.stdout)
    nothing = {"n": 0, "us": seconds * 1e6, "p50": 0, "p99": 0, "errors": 1}
    return json.loads(found[1]) if found else nothing  # type: ignore[no-any-return]  # what post.lua prints


def run_h2load(server: Contestant, work: Path, *, connections: int, seconds: int) -> dict[str, float]:
    """Load over gRPC with one constant body: h2load cannot rotate them."""
    body, log = work / "grpc.framed", work / "h2load.log"
    message = first_body(work / "grpc.bodies")
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    log.unlink(missing_ok=True)
    command = ["taskset", "-c", LOAD_CPU, "h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", "-d", str(body)]
    for name, value in {**server.headers, "content-type": "application/grpc", "te": "trailers"}.items():
        command += ["-H", f"{name}: {value}"]
    command += [f"--log-file={log}", f"http://127.0.0.1:{server.port}{METHOD}"]
    subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    took = sorted(int(row[2]) for row in rows if len(row) > 2 and row[1] == "200")
    if not took:
        return {"n": 0, "us": seconds * 1e6, "p50": 0, "p99": 0, "errors": max(1, len(rows))}
    return {
        "n": len(took),
        "us": seconds * 1e6,
        "p50": took[len(took) // 2],
        "p99": took[min(len(took) - 1, int(len(took) * 0.99))],
        "errors": len(rows) - len(took),
    }
