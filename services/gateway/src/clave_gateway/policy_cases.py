"""Runs worked decisions against a policy: the engine behind `clave policy test`.

A file of cases holds ``data`` (path of its data file, from the cases file), ``cases`` [{id, note, input, expect}], and
``expect`` gives ``allow`` and ``reasons`` exactly, ``mask`` and ``rate_limit`` where they matter.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.errors import ClaveError, Unavailable

from clave_gateway.policy_files import PolicyFilesInvalid, merge_data, read_modules

if TYPE_CHECKING:
    from clave_common.access.opa_engine import OpaEngine

EngineName = Literal["embedded", "opa"]
_OPA_START_S = 10.0


@dataclass(frozen=True, slots=True)
class CaseFailure:
    """A case that came out otherwise."""

    id: str
    note: str
    expected: dict[str, Any]
    found: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What running cases found."""

    engine: str
    cases: int
    failures: list[CaseFailure]

    @property
    def passed(self) -> bool:
        """Whether every case came out as expected, and there was one."""
        return self.cases > 0 and not self.failures


@dataclass(frozen=True, slots=True)
class CaseFile:
    """Cases and the data they are decided by."""

    cases: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]


def read_cases(path: Path, *, data: Path | None = None) -> CaseFile:
    """Read a file of cases.

    Raises:
        PolicyFilesInvalid: It is not JSON of the expected form, or its data file is missing.
    """
    try:
        document = orjson.loads(path.read_bytes())
        cases = document["cases"]
        data_path = data or path.parent / document["data"]
        if not data_path.exists():
            raise PolicyFilesInvalid(f"{path} needs its data file {data_path}; name another with --data.")
        merged = merge_data([data_path])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyFilesInvalid(f"{path} is not a file of cases: {type(error).__name__} {error}.") from error
    return CaseFile(cases=cases, data=merged)


async def run_cases(engine: PolicyEngine, cases: Sequence[Mapping[str, Any]]) -> CaseReport:
    """Decide every case and compare."""
    failures = []
    for case in cases:
        expected = dict(case["expect"])
        try:
            found = _comparable(await engine.decide(case["input"]), expected)
        except ClaveError as error:
            found = {"error": error.code}
        if found != expected:
            failures.append(CaseFailure(str(case["id"]), str(case.get("note", "")), expected, found))
    return CaseReport(engine.name, len(cases), failures)


def _comparable(document: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    obligations = document.get("obligations", {})
    found = {"allow": document.get("allow"), "reasons": document.get("reasons"), **obligations}
    return {name: found.get(name) for name in expected}


async def run_case_file(path: Path, *, policy: Path, engine: EngineName, data: Path | None = None) -> CaseReport:
    """Run a file of cases on one engine, with the modules of a policy folder and the file's own data."""
    cases = read_cases(path, data=data)
    bundle = PolicyBundle(modules=read_modules(policy), data=cases.data)
    async with engine_with(bundle, engine) as loaded:
        return await run_cases(loaded, cases.cases)


@asynccontextmanager
async def engine_with(bundle: PolicyBundle, engine: EngineName, *, opa: str = "opa") -> AsyncIterator[PolicyEngine]:
    """Give an engine loaded with a bundle; ``opa`` starts a real OPA server for as long as it is needed.

    Raises:
        Unavailable: There is no ``opa`` program, or it did not start.
    """
    if engine == "embedded":
        embedded = EmbeddedEngine()
        await embedded.load(bundle)
        yield embedded
        return
    from clave_common.access.opa_engine import OpaEngine  # noqa: PLC0415 - only where it is asked for

    port = _free_port()
    try:
        process = await asyncio.create_subprocess_exec(
            *(opa, "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error", "--skip-version-check"),
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise Unavailable(
            "There is no 'opa' program on PATH; install it or use --engine embedded.", code="opa_missing"
        ) from error
    try:
        async with OpaEngine(f"http://127.0.0.1:{port}", timeout_s=5.0) as server:
            await _published(server, bundle)
            yield server
    finally:
        process.terminate()
        await process.wait()


async def _published(server: "OpaEngine", bundle: PolicyBundle) -> None:
    deadline = asyncio.get_running_loop().time() + _OPA_START_S
    while True:
        try:
            await server.publish(bundle)
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
