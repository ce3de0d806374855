"""One ONNX Runtime session per model version, with the settings measured best for one core.

One thread, sequential, no spinning: several versions and several processes share a machine, and spinning threads cost
twice the CPU at one row (docs/services/inference.md has the figures). Only the outputs asked for are computed.
"""

import ctypes
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from clave_inference.domain.datatypes import BYTES, NUMPY_DTYPES
from clave_inference.domain.signature import FREE, Signature, TensorSpec

_WARM_UP_ROWS = (1, 8, 64)
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}


class RuntimeRefused(Exception):
    """ONNX Runtime could not load or run something; the text is for the log, not for callers."""


class ModelSession:
    """A loaded model.

    Args:
        path: The ONNX file; its bytes were checked against the version's digest before.
    """

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False  # 30 swaps with it kept 9 MB, none without; no cost was measurable
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions share no public parent
            raise RuntimeRefused(str(error)) from error
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self._input_names = [spec.name for spec in self.inputs]
        self._bytes_inputs = {spec.name for spec in self.inputs if spec.datatype == BYTES}
        self._only_input = self._input_names[0] if len(self._input_names) == 1 and not self._bytes_inputs else None
        self._run = _direct_run(self._session)

    def run(self, output_names: Sequence[str], feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the model.

        Args:
            output_names: What to compute.
            feeds: One array per input, in the model's order.

        Raises:
            RuntimeRefused: The runtime could not compute these rows.
        """
        if self._only_input is not None:
            feed = {self._only_input: feeds[0]}
        else:
            feed = dict(zip(self._input_names, feeds, strict=True))
            for name in self._bytes_inputs:
                feed[name] = _text(feed[name])
        try:
            result: list[NDArray[Any]] = self._run(output_names, feed, None)
        except Exception as error:  # see above
            raise RuntimeRefused(str(error)) from error
        return result

    def warm_up(self, signature: Signature) -> None:
        """Run the sizes that traffic will bring, so that no caller pays for first allocations.

        Raises:
            RuntimeRefused: The model cannot run rows of its own signature.
        """
        names = [spec.name for spec in signature.outputs]
        for rows in _WARM_UP_ROWS:
            self.run(names, [_zeros(spec, rows) for spec in self.inputs])


def _direct_run(session: ort.InferenceSession) -> Callable[..., list[NDArray[Any]]]:
    """Find what the session's own `run` calls; its checks of names cost 3 us, and names are checked here at loading."""
    direct = getattr(session, "_sess", None)
    return session.run if direct is None else direct.run  # type: ignore[no-any-return]  # untyped library


def _spec(value: Any) -> TensorSpec:
    datatype = _DATATYPES.get(value.type)
    if datatype is None:
        raise RuntimeRefused(f"'{value.name}' is a {value.type}; only tensors are served")
    shape = tuple(size if isinstance(size, int) and size >= 0 else FREE for size in value.shape)
    return TensorSpec(value.name, datatype, shape)


def _zeros(spec: TensorSpec, rows: int) -> NDArray[Any]:
    shape = [
        rows if index == 0 and size == FREE else (1 if size == FREE else size) for index, size in enumerate(spec.shape)
    ]
    if spec.datatype == BYTES:
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, NUMPY_DTYPES[spec.datatype])


def _text(array: NDArray[Any]) -> NDArray[Any]:
    text = np.empty(array.shape, dtype=np.object_)
    text.ravel()[:] = [
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in array.ravel()
    ]
    return text


def give_memory_back() -> None:
    """Return freed memory to the system after a session was dropped; glibc keeps it otherwise."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # another C library has nothing to trim
        return
