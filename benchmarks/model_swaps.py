"""Memory of the inference service over many model swaps: ``python -m benchmarks.model_swaps [swaps]``.

One process takes version after version, each with bytes of its own, through the service's own deployment: fetched,
hashed, loaded, warmed up, switched to, run, and dropped when the next one serves. Only the check in a process of its
own is left out: it has no memory to leave behind here. Prints resident memory along the way as JSON.
"""

import asyncio
import gc
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnx
from clave_common.logs import configure_logs
from clave_contracts.registry import (
    Artifact,
    DesiredEndpoint,
    DesiredState,
    DesiredVersion,
    ObservedState,
    Route,
    Signature,
    TensorSpec,
)
from clave_inference.runtime.session import give_memory_back
from clave_inference.services.deploy import Deployment
from clave_inference.storage.artifact_cache import ArtifactCache
from onnx import TensorProto, helper, numpy_helper

WIDTH, HIDDEN = 45, 6_000
ROWS = (1, 8, 64)
WARM_UP_SWAPS = 50
_PAGES_OF_100 = 10


def model(seed: int) -> bytes:
    """A network of about 1 MB whose weights nobody else has."""
    weights = np.random.default_rng(seed).normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["hidden"]),
            helper.make_node("ReduceMean", ["hidden"], ["score"], axes=[1], keepdims=0),
        ],
        "swap",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(weights, "weights")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


class Versions:
    """A registry that desires one version after the other."""

    def __init__(self) -> None:
        self._number = 0
        self._data = b""

    def next(self) -> None:
        """Desire a new version alone."""
        self._number += 1
        self._data = model(self._number)

    async def desired(self, _etag: str | None) -> tuple[str, DesiredState]:
        """Give the desired state."""
        digest = hashlib.sha256(self._data).hexdigest()
        version = DesiredVersion(
            model="swap",
            version=self._number,
            manifest_digest="0" * 64,
            artifacts=[Artifact(path="model.onnx", digest=digest, size=len(self._data))],
            signature=Signature(
                inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, WIDTH])],
                outputs=[TensorSpec(name="score", datatype="FP32", shape=[-1])],
                columns=[f"f{i}" for i in range(WIDTH)],
            ),
            status="approved",
            tenant="default",
            rate_limit_per_minute=1000.0,
        )
        endpoint = DesiredEndpoint(
            name="swap",
            model="swap",
            namespace="Production",
            tenant="default",
            routes=[Route(version=self._number, arm="live", weight=1.0)],
        )
        return str(self._number), DesiredState(revision=str(self._number), endpoints=[endpoint], versions=[version])

    async def blob(self, _digest: str) -> AsyncIterator[bytes]:
        """Stream the version's bytes."""
        yield self._data

    async def report(self, _instance: str, _state: ObservedState) -> None:
        """Take a report."""


def resident_mb() -> float:
    """Read this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError("VmRSS")


async def swap(swaps: int, folder: Path) -> dict[str, object]:
    """Swap, and measure along the way."""
    registry = Versions()
    deployment = Deployment(registry=registry, cache=ArtifactCache(folder), instance="bench", check=lambda _path: None)
    resident: dict[int, float] = {}
    longest = 0.0
    began = time.monotonic()
    for done in range(1, swaps + 1):
        registry.next()
        at = time.monotonic()
        await deployment.step()
        longest = max(longest, time.monotonic() - at)
        loaded = deployment.table.target("swap", None, None).loaded
        for rows in ROWS:
            loaded.run(loaded.output_names, [np.zeros((rows, WIDTH), np.float32)])
        if done == WARM_UP_SWAPS or done % max(1, swaps // _PAGES_OF_100) == 0:
            give_memory_back()
            resident[done] = round(resident_mb(), 1)
    gc.collect()
    return {
        "swaps": swaps,
        "resident_mb": resident,
        "grown_mb_since_warm_up": round(resident_mb() - resident[min(resident)], 1),
        "seconds": round(time.monotonic() - began, 1),
        "longest_switch_s": round(longest, 3),
        "files_left": len(list((folder / "blobs").iterdir())),
    }


def main() -> None:
    """Run the number of swaps given on the command line, 1,000 by default."""
    configure_logs(service="model_swaps", form="console", level="warning")
    swaps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(asyncio.run(swap(swaps, Path(folder))), indent=2) + "\n")


if __name__ == "__main__":
    main()
