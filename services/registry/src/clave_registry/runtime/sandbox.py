"""Confines this process, looks into one model, answers.

Run as ``python -I -m clave_registry.runtime.sandbox`` with the model on standard input and the limits as the only
argument; answers one JSON object on standard output. It never runs a model, never follows a reference out of the file,
writes no file, and dies at its memory and CPU limits. Only this process parses foreign models; the service never does.
"""

import json
import resource
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

FORMATS = {
    "onnx": "clave_registry.runtime.onnx_inspection",
    "xgboost": "clave_registry.runtime.tree_inspection",
    "safetensors": "clave_registry.runtime.tensor_inspection",
}


def confine(*, memory_bytes: int, cpu_s: int) -> None:
    """Limit address space, CPU seconds, written bytes, core files and further processes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def main() -> None:
    """Read the limits and the model, answer."""
    limits = json.loads(sys.argv[1])
    inspect: Callable[[bytes], dict[str, Any]] = import_module(FORMATS[limits["format"]]).inspect
    confine(memory_bytes=limits["memory_bytes"], cpu_s=limits["cpu_s"])
    data = sys.stdin.buffer.read(limits["model_bytes"] + 1)
    try:
        if len(data) > limits["model_bytes"]:
            report: dict[str, Any] = {"faults": [f"it has more than {limits['model_bytes']} bytes"]}
        else:
            report = inspect(data)
    except (MemoryError, RecursionError) as error:
        report = {"faults": [f"looking into it took too much ({type(error).__name__})"]}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
