"""Paired measurement: every server visited in turn, pinned to one core, the load generator on another.

The figure to trust is CPU microseconds per request: user and system time of the server's whole process tree over
completed requests. Throughput and latency only mean something where `others` (the share of the server's core that
other processes used) is small.
"""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import psutil

from benchmarks.inference.contestants import Contestant

HERE = Path(__file__).parent
SERVER_CPU, LOAD_CPU = os.environ.get("SERVER_CPU", "0"), os.environ.get("LOAD_CPU", "1")


def tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_s(pid: int) -> float:
    total = 0.0
    for process in tree(pid):
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


def start(server: Contestant, work: Path) -> tuple[subprocess.Popen[bytes], float] | None:
    """Start a server and wait for its first right answer; None when there is none."""
    log = (work / f"{re.sub('[^a-z0-9]+', '-', server.name.lower())}.log").open("wb")
    began = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", SERVER_CPU, *server.command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **server.variables},
        cwd=server.folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    body = first_body(work / f"{server.bodies}.bodies")
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{server.path}", body, server.headers)
    while process.poll() is None and time.monotonic() - began < server.start_s_max:
        try:
            answer = urllib.request.urlopen(request, timeout=5).read()
        except OSError:
            time.sleep(0.1)
            continue
        print(f"{server.name}: {answer[:120]!r}")
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


def visit(server: Contestant, pid: int, work: Path, *, connections: int, seconds: int) -> dict[str, float]:
    """Load one server once."""
    variables = {
        **os.environ,
        "TARGET_PATH": server.path,
        "BODIES": str(work / f"{server.bodies}.bodies"),
        "HEADERS": "\n".join(f"{name}: {value}" for name, value in server.headers.items()),
    }
    command = ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "load/post.lua"), f"http://127.0.0.1:{server.port}{server.path}"]
    before, (busy_before, all_before), began = cpu_s(pid), core_ticks(), time.monotonic()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + 60, check=False)
    used, wall, (busy, ticks) = cpu_s(pid) - before, time.monotonic() - began, core_ticks()
    found = re.search(r"JSON (.*)", done.stdout)
    got = json.loads(found[1]) if found else {"n": 0, "us": 1, "p50": 0, "p99": 0, "errors": 1}
    requests = max(1, got["n"])
    return {
        "per_s": requests / (got["us"] / 1e6),
        "p50_us": got["p50"],
        "p99_us": got["p99"],
        "cpu_us": used / requests * 1e6,
        "errors": got["errors"],
        "others": max(0.0, (busy - busy_before) / max(1, ticks - all_before) - used / wall),
    }
