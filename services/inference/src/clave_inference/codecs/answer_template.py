"""JSON answers of ordinary requests, put together from prepared pieces.

Everything constant in an answer (model, version, arm, names, datatypes, shapes) is encoded once per target; only the
numbers, the caller's id and the prediction id are written per request. Requests that ran together have their numbers
printed together: one pass of the JSON writer, cut into rows. The bytes mean the same as those of `rest_json.encode`,
which a property test checks.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from numpy.typing import NDArray

from clave_inference.domain.signature import TensorSpec


class AnswerTemplate:
    """The answers of one version on one endpoint's arm, to requests of one row that want every output as JSON."""

    def __init__(self, *, model_name: str, model_version: str, arm: str, outputs: Sequence[TensorSpec]) -> None:
        head = b'{"model_name":%b,"model_version":%b' % (orjson.dumps(model_name), orjson.dumps(model_version))
        tail = b'","arm":%b},"outputs":[' % orjson.dumps(arm)
        places = b",".join(
            b'{"name":%b,"datatype":%b,"shape":%b,"data":['
            % (orjson.dumps(spec.name), orjson.dumps(spec.datatype), orjson.dumps([1, *spec.shape[1:]]))
            + b"\0]}"
            for spec in outputs
        )
        whole = head + b'\0,"parameters":{"prediction_id":"\0' + tail + places + b"]}"
        self._form = whole.replace(b"%", b"%%").replace(b"\0", b"%b")

    def render(self, prediction_id: str, request_id: str | None, row: tuple[bytes, ...]) -> bytes:
        """Write an answer.

        Args:
            prediction_id: Plain ASCII, needs no escaping.
            request_id: The caller's id, any text.
            row: The row's numbers, per output, as `rows` gives them.
        """
        named = b"" if request_id is None else b',"id":' + orjson.dumps(request_id)
        return self._form % (named, prediction_id.encode(), *row)

    def rows(self, outputs: Iterable[NDArray[Any]]) -> Iterable[tuple[bytes, ...]]:
        """Print the numbers of every row, per output, as JSON without brackets; NaN becomes null.

        Args:
            outputs: Arrays of shape (rows,) or (rows, columns), the same number of rows, at least one.
        """
        printed = []
        for output in outputs:
            text = orjson.dumps(output, option=orjson.OPT_SERIALIZE_NUMPY)
            printed.append(text[1:-1].split(b",") if output.ndim == 1 else text[2:-2].split(b"],["))
        return zip(*printed, strict=True)
