"""gRPC answers of ordinary requests, put together from prepared pieces.

As `answer_template` does for JSON: what is constant in a `ModelInferResponse` is encoded once per target, and rows that
ran together are cut out of the run's own bytes. The messages mean the same as those of `grpc_message.encode`, which a
property test checks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from numpy.typing import NDArray

from clave_inference.domain.datatypes import NUMPY_DTYPES
from clave_inference.domain.signature import TensorSpec


class MessageTemplate:
    """The answers of one version on one endpoint's arm, to requests of one row that want every output, raw."""

    def __init__(self, *, model_name: str, model_version: str, arm: str, outputs: Sequence[TensorSpec]) -> None:
        head = pb.ModelInferResponse(model_name=model_name, model_version=model_version)
        head.parameters["arm"].string_param = arm
        tail = pb.ModelInferResponse()
        for spec in outputs:
            tail.outputs.add(name=spec.name, datatype=spec.datatype, shape=[1, *spec.shape[1:]])
        self._head: bytes = head.SerializeToString()
        self._tail: bytes = tail.SerializeToString()
        self._ids: dict[int, bytes] = {}
        self._dtypes = [NUMPY_DTYPES[spec.datatype] for spec in outputs]

    def render(self, prediction_id: str, request_id: str | None, row: bytes) -> bytes:
        """Write an answer.

        Args:
            prediction_id: Plain ASCII.
            request_id: The caller's id, any text.
            row: As `rows` gives it.
        """
        identified = prediction_id.encode()
        before = self._ids.get(len(identified))
        if before is None:
            before = self._before_id(len(identified))
        if not request_id:
            return b"%b%b%b%b%b" % (self._head, before, identified, self._tail, row)
        named = pb.ModelInferResponse(id=request_id).SerializeToString()
        return b"%b%b%b%b%b%b" % (self._head, named, before, identified, self._tail, row)

    def rows(self, outputs: Iterable[NDArray[Any]]) -> list[bytes]:
        """Encode `raw_output_contents` of every row.

        Args:
            outputs: Arrays of shape (rows,) or (rows, columns), the same number of rows, at least one.
        """
        columns = []
        for output, dtype in zip(outputs, self._dtypes, strict=True):
            data = np.ascontiguousarray(output, dtype).tobytes()
            size = len(data) // len(output)
            before = pb.ModelInferResponse(raw_output_contents=[bytes(size)]).SerializeToString()[:-size]
            columns.append([before + data[at : at + size] for at in range(0, len(data), size)])
        return [b"".join(parts) for parts in zip(*columns, strict=True)]

    def _before_id(self, size: int) -> bytes:
        """Encode the parameter `prediction_id` up to its value, which ends the field."""
        message = pb.ModelInferResponse()
        message.parameters["prediction_id"].string_param = "x" * size
        before: bytes = message.SerializeToString()[:-size]
        self._ids[size] = before
        return before
