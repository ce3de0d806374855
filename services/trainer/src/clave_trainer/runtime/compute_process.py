"""Runs the computing half of a step in a process of its own, and ends it whenever its worker must let go."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import orjson
from clave_common.errors import ClaveError, Kind

from clave_trainer.runtime.compute import OUT_FOLDER, REQUEST_FILE, RESULT_FILE

Report = Callable[[float, str], Awaitable[None]]
_TAIL_BYTES = 4000


class ComputationFailed(ClaveError):
    """The computing process refused its input; trying again would not help."""

    kind = Kind.FAILED_PRECONDITION
    code = "computation_failed"


class ComputationDied(ClaveError):
    """The computing process ended without a result (killed, out of memory, a fault)."""

    kind = Kind.INTERNAL
    code = "computation_died"


class Workroom:
    """A folder for one attempt of one step; gone when the attempt is over.

    Args:
        root: Where rooms are made.
        owner: Process id of the worker, part of the room's name, so that rooms of dead workers can be found.
    """

    def __init__(self, root: Path, owner: int) -> None:
        self.path = root / f"{owner}-{uuid4().hex}"

    def __enter__(self) -> Path:
        (self.path / OUT_FOLDER).mkdir(parents=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def clear_rooms_of_the_dead(root: Path) -> int:
    """Remove the rooms that killed workers on this machine left behind; returns their number."""
    removed = 0
    for room in root.glob("*-*"):
        owner = room.name.partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(room, ignore_errors=True)
            removed += 1
    return removed


async def compute(folder: Path, request: dict[str, Any], *, threads: int, report: Report) -> dict[str, Any]:
    """Run one computation to its end.

    Args:
        folder: Holds the input files; receives ``result.json`` and ``out/``.
        request: Its parameters, JSON-able, with the step's name.
        threads: For OpenMP.
        report: Takes progress in [0, 1] and a line for people.

    Returns:
        The result: ``facts``, and ``refused`` with reasons where the run must not go on.

    Raises:
        ComputationFailed: It refused its input.
        ComputationDied: It ended without a result.
    """
    (folder / REQUEST_FILE).write_bytes(orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CLAVE_")},
        "OMP_WAIT_POLICY": "passive",  # spinning threads made training on a busy machine several times slower
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clave_trainer.runtime.compute",
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        _, tail = await asyncio.gather(_follow(process, report), _tail(process))
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _result(folder, code, tail)


async def _follow(process: asyncio.subprocess.Process, report: Report) -> None:
    lines = cast("asyncio.StreamReader", process.stdout)
    async for line in lines:
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        await report(float(told["progress"]), str(told["message"]))


async def _tail(process: asyncio.subprocess.Process) -> str:
    errors = cast("asyncio.StreamReader", process.stderr)
    kept = b""
    while chunk := await errors.read(_TAIL_BYTES):
        kept = (kept + chunk)[-_TAIL_BYTES:]
    return kept.decode(errors="replace")


def _result(folder: Path, code: int, tail: str) -> dict[str, Any]:
    try:
        result: dict[str, Any] = orjson.loads((folder / RESULT_FILE).read_bytes())
    except FileNotFoundError as error:
        last = tail.strip().splitlines()[-1:] or ["no word"]
        raise ComputationDied(
            f"The computing process ended with {code} and left no result ({last[0][:300]}).", exit_code=code
        ) from error
    if "error" in result:
        raise ComputationFailed(result["error"]["detail"], code=result["error"]["code"])
    return result
