"""JSON answers of ordinary requests, put together from prepared pieces.

Everything constant in an answer (model, version, arm, names, datatypes, shapes) is encoded once per combination; only
the numbers, the caller's id and the prediction id are written per request. The bytes mean the same as those of
`rest_json.encode`, which a property test checks.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from clave_inference.domain.datatypes import BYTES
from clave_inference.domain.signature import TensorSpec

_TEMPLATES_MAX: Final = 1_000
_WRITE: Final = orjson.OPT_SERIALIZE_NUMPY
_DIRECT: Final = frozenset({"FP32", "FP64", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"})


class AnswerTemplates:
    """Prepared pieces of one model version's answers."""

    def __init__(self, model_name: str, model_version: str, outputs: Sequence[TensorSpec]) -> None:
        self._names = b'{"model_name":%b,"model_version":%b' % (orjson.dumps(model_name), orjson.dumps(model_version))
        self._outputs = outputs
        self._pieces: dict[tuple[Any, ...], list[bytes]] = {}

    @property
    def usable(self) -> bool:
        """Whether every output has a datatype that is written straight from its array."""
        return all(spec.datatype in _DIRECT and spec.datatype != BYTES for spec in self._outputs)

    def render(
        self,
        *,
        arm: str,
        prediction_id: bytes,
        request_id: str | None,
        chosen: tuple[int, ...],
        outputs: Sequence[NDArray[Any]],
    ) -> bytes:
        """Write an answer.

        Args:
            arm: Which arm answered.
            prediction_id: Plain ASCII, needs no escaping.
            request_id: The caller's id, any text.
            chosen: Positions of the outputs in the signature.
            outputs: Their arrays, C-contiguous.
        """
        key = (arm, chosen, *[output.shape for output in outputs])
        pieces = self._pieces.get(key)
        if pieces is None:
            if len(self._pieces) >= _TEMPLATES_MAX:
                self._pieces.clear()
            pieces = self._pieces[key] = self._prepare(arm, chosen, outputs)
        parts = [self._names]
        if request_id is not None:
            parts += (b',"id":', orjson.dumps(request_id))
        parts += (b',"parameters":{"prediction_id":"', prediction_id)
        for piece, output in zip(pieces, outputs, strict=True):
            parts += (piece, orjson.dumps(output.ravel(), option=_WRITE))
        parts.append(b"}]}")
        return b"".join(parts)

    def _prepare(self, arm: str, chosen: tuple[int, ...], outputs: Sequence[NDArray[np.generic]]) -> list[bytes]:
        pieces: list[bytes] = []
        for index, (position, output) in enumerate(zip(chosen, outputs, strict=True)):
            spec = self._outputs[position]
            opening = b'","arm":%b},"outputs":[{' % orjson.dumps(arm) if index == 0 else b"},{"
            pieces.append(
                opening
                + b'"name":%b,"datatype":%b,"shape":%b,"data":'
                % (orjson.dumps(spec.name), orjson.dumps(spec.datatype), orjson.dumps(list(output.shape)))
            )
        return pieces
