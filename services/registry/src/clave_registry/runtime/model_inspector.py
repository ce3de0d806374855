"""Runs the inspection of a model in its sandbox and judges its answer.

The sandbox is a fresh interpreter in isolated mode with an empty environment and an empty working folder, limited in
memory, CPU seconds, wall seconds and files; a model that breaks it is refused, never retried.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from clave_common.errors import InvalidArgument, Unavailable
from clave_common.logs import get_logger

from clave_registry.domain.manifest import model_format

_log = get_logger(__name__)
_MODULE = "clave_registry.runtime.sandbox"
# A sandbox may start no thread: a numerical library that tries to ends its process.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_KNOWN_MAX = 256
_REPORT_BYTES_MAX = 4 * 1024 * 1024


class UnsafeModel(InvalidArgument):
    """A model that must not be served."""

    code = "unsafe_model"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the inspection of one model may use.

    Attributes:
        model_bytes: Largest model file.
        memory_bytes: Address space of the inspecting process.
        cpu_s: CPU seconds.
        wall_s: Seconds until the answer.
        at_once: Inspections that may run at the same time.
    """

    model_bytes: int = 512 * 1024 * 1024
    memory_bytes: int = 3 * 1024 * 1024 * 1024
    cpu_s: int = 60
    wall_s: float = 120.0
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output as the graph declares it: name, datatype of the Open Inference Protocol, shape (-1 = free)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a safe model consists of.

    Attributes:
        operators: Of an ONNX graph; booster and objective of an XGBoost model; element types of safetensors.
        columns: Names of an XGBoost model's features, or of the tensors of a safetensors file.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    opsets: dict[str, int]
    operators: tuple[str, ...]
    columns: tuple[str, ...] = ()


class ModelInspector:
    """Looks into models without trusting them."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._turn = asyncio.Semaphore(self._limits.at_once)
        self._known: dict[tuple[str, str], ModelFacts] = {}

    async def inspect(
        self, chunks: AsyncIterator[bytes], *, path: str, digest: str | None = None, tenant: str = ""
    ) -> ModelFacts:
        """Describe a model; one that was found safe before is not looked into again.

        Args:
            chunks: Its bytes.
            path: Its artifact path, for messages.
            digest: Their sha256, where the store vouches for it.
            tenant: Whose model; that others registered the same bytes must not show in how long it takes.

        Raises:
            UnsafeModel: It must not be served; carries every fault.
            Unavailable: The sandbox could not be started.
        """
        if digest is not None and (tenant, digest) in self._known:
            return self._known[tenant, digest]
        async with self._turn:
            report = await self._run(chunks, path)
        faults = report.get("faults", ["the inspection gave no answer"])
        if faults:
            raise UnsafeModel(f"'{path}' cannot be registered: {'; '.join(faults)}.", path=path, faults=faults)
        facts = ModelFacts(
            inputs=tuple(_tensor(raw) for raw in report["inputs"]),
            outputs=tuple(_tensor(raw) for raw in report["outputs"]),
            opsets=dict(report["opsets"]),
            operators=tuple(report["operators"]),
            columns=tuple(report.get("columns", ())),
        )
        if digest is not None:
            self._remember((tenant, digest), facts)
        return facts

    def _remember(self, model: tuple[str, str], facts: ModelFacts) -> None:
        while len(self._known) >= _KNOWN_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[model] = facts

    async def _run(self, chunks: AsyncIterator[bytes], path: str) -> dict[str, Any]:
        limits = {
            "format": model_format(path) or "onnx",
            "model_bytes": self._limits.model_bytes,
            "memory_bytes": self._limits.memory_bytes,
            "cpu_s": self._limits.cpu_s,
        }
        with tempfile.TemporaryDirectory(prefix="clave-inspect-") as folder:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-I",
                    "-m",
                    _MODULE,
                    orjson.dumps(limits).decode(),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=folder,
                    env=_ENVIRONMENT,
                )
            except OSError as error:
                raise Unavailable("The model sandbox cannot be started.", code="sandbox_unavailable") from error
            return await self._answer(process, chunks, path)

    async def _answer(
        self, process: asyncio.subprocess.Process, chunks: AsyncIterator[bytes], path: str
    ) -> dict[str, Any]:
        try:
            output, errors = await asyncio.wait_for(_talk(process, chunks), self._limits.wall_s)
        except TimeoutError as error:
            raise UnsafeModel(
                f"'{path}' cannot be registered: looking into it took longer than {self._limits.wall_s:g} s.", path=path
            ) from error
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if not output or len(output) > _REPORT_BYTES_MAX:
            _log.warning(
                "model_inspection_died", code=process.returncode, stderr=errors[-400:].decode(errors="replace")
            )
            raise UnsafeModel(f"'{path}' cannot be registered: looking into it broke the sandbox's limits.", path=path)
        report: dict[str, Any] = orjson.loads(output)
        return report


async def _talk(process: asyncio.subprocess.Process, chunks: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:  # all three were asked for as pipes
        return b"", b""

    async def feed() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            async for chunk in chunks:
                stdin.write(chunk)
                await stdin.drain()
            stdin.close()

    _, output, errors = await asyncio.gather(feed(), stdout.read(), stderr.read())
    await process.wait()
    return output, errors


def _tensor(raw: dict[str, Any]) -> TensorFacts:
    return TensorFacts(raw["name"], raw["datatype"], tuple(raw["shape"]))
