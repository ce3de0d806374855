"""Checks an untrusted ONNX file in a process of its own: ``python -m clave_inference.runtime.model_check FILE``.

The file is parsed, its graph is walked, and the runtime loads and runs it once, all under limits of memory and CPU
time. A file that exhausts them kills this process and nothing else. Exit status 0 and ``ok`` on standard output, or 1
and the reason in one sentence.

Refused: external data (a path into the file system), custom operator domains (native code), functions and subgraphs
beyond a depth, dynamic or absurd shapes, tensors that claim more elements than the file has bytes.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from clave_inference.domain.errors import ModelRejected

FILE_BYTES_MAX: Final = 512 << 20
NODES_MAX: Final = 20_000
SUBGRAPH_DEPTH_MAX: Final = 4
FIXED_SIZE_MAX: Final = 1 << 20
ALLOWED_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
CPU_S_MAX: Final = 30
ADDRESS_SPACE_BYTES_MAX: Final = 4 << 30
WALL_S_MAX: Final = 60.0
_EXTERNAL: Final = 1  # TensorProto.DataLocation.EXTERNAL


def check_in_process(path: Path) -> None:
    """Check a file in a process of its own and wait for the verdict.

    Raises:
        ModelRejected: The file must not be loaded.
    """
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise ModelRejected(f"it has {size} bytes, at most {FILE_BYTES_MAX} are accepted")
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and module; the path is ours
            [sys.executable, "-m", "clave_inference.runtime.model_check", str(path)],
            capture_output=True,
            check=False,
            timeout=WALL_S_MAX,
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ModelRejected(f"checking it took more than {WALL_S_MAX:g} s") from None
    if done.returncode == 0 and done.stdout.strip() == b"ok":
        return
    reason = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode == 1 and reason:
        raise ModelRejected(reason[:500])
    raise ModelRejected(f"the check of it died ({done.returncode}): it needs more memory or time than is allowed")


def limit_this_process() -> None:
    """Bound memory, CPU time, files and core dumps of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S_MAX, CPU_S_MAX))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def check_file(path: Path) -> None:
    """Check a file in this process.

    Raises:
        ModelRejected: It must not be loaded.
    """
    import onnx  # noqa: PLC0415  the serving process never parses untrusted files itself
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except DecodeError:
        raise ModelRejected("it is not an ONNX file") from None
    if not model.HasField("graph") or not model.graph.output:
        raise ModelRejected("it is not an ONNX file, or has no graph")
    domains = {entry.domain for entry in model.opset_import}
    if domains - ALLOWED_DOMAINS:
        raise ModelRejected(f"it asks for the operator domains {sorted(domains - ALLOWED_DOMAINS)}")
    if model.functions:
        raise ModelRejected("it defines functions of its own")
    _check_graphs(model.graph, path.stat().st_size)
    _check_run(path)


def _check_graphs(graph: Any, file_bytes: int) -> None:
    nodes = 0
    for part, depth in _graphs(graph, 0):
        if depth > SUBGRAPH_DEPTH_MAX:
            raise ModelRejected(f"its subgraphs are nested deeper than {SUBGRAPH_DEPTH_MAX}")
        nodes += len(part.node)
        if nodes > NODES_MAX:
            raise ModelRejected(f"it has more than {NODES_MAX} nodes")
        for value in (*part.input, *part.output):
            _check_value(value)
        for tensor in _tensors(part):
            _check_tensor(tensor, file_bytes)
        for node in part.node:
            if node.domain not in ALLOWED_DOMAINS:
                raise ModelRejected(f"it uses the operator domain '{node.domain[:60]}'")


def _graphs(graph: Any, depth: int) -> Iterator[tuple[Any, int]]:
    waiting = [(graph, depth)]
    while waiting:
        current, level = waiting.pop()
        yield current, level
        for node in current.node:
            for attribute in node.attribute:
                found = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                waiting += [(inner, level + 1) for inner in found]


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: Any, file_bytes: int) -> None:
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        raise ModelRejected(f"its tensor '{tensor.name[:60]}' points to a file outside the model")
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise ModelRejected(f"its tensor '{tensor.name[:60]}' has a negative size")
        elements *= size
        if elements > file_bytes * 8:
            raise ModelRejected(f"its tensor '{tensor.name[:60]}' claims more elements than the file can hold")


def _check_value(value: Any) -> None:
    if not value.type.HasField("tensor_type"):
        raise ModelRejected(f"'{value.name[:60]}' is not a tensor (export without ZipMap)")
    for dimension in value.type.tensor_type.shape.dim:
        if dimension.dim_value < 0 or dimension.dim_value > FIXED_SIZE_MAX:
            raise ModelRejected(f"'{value.name[:60]}' has a dimension of {dimension.dim_value}")


def _check_run(path: Path) -> None:
    from clave_inference.domain.signature import Signature  # noqa: PLC0415  loads the runtime
    from clave_inference.runtime.session import ModelSession, RuntimeRefused  # noqa: PLC0415

    try:
        session = ModelSession(path)
        session.warm_up(Signature(session.inputs, session.outputs))
    except (RuntimeRefused, ValueError) as fault:
        raise ModelRejected(f"the runtime refuses it: {str(fault)[:300]}") from None


def main() -> int:
    """Check the file named on the command line."""
    limit_this_process()
    try:
        check_file(Path(sys.argv[1]))
    except ModelRejected as reason:
        sys.stdout.write(f"{reason}\n")
        return 1
    except MemoryError:
        sys.stdout.write("it needs more memory than is allowed\n")
        return 1
    sys.stdout.write("ok\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
