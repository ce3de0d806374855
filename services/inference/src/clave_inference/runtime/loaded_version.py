"""A model version in memory: its session, what it takes and gives, and what its rows cost."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.datatypes import NUMPY_DTYPES, PRINTED_DIRECTLY
from clave_inference.domain.errors import ModelRejected
from clave_inference.domain.signature import Signature
from clave_inference.runtime.session import ModelSession, RuntimeRefused

_US_PER_ROW_AT_FIRST = 30.0


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """Where a prediction's score stands: an output, and a column of it (None for a single column)."""

    output: int
    column: int | None


@dataclass(frozen=True, slots=True)
class RowShape:
    """What an ordinary request brings: one row for the only input, a table of one floating point datatype.

    Attributes:
        shape: The tensor's shape on the wire.
        output_shapes: Shape of one row of every output.
    """

    name: str
    datatype: str
    shape: list[int]
    width: int
    dtype: np.dtype[Any]
    output_shapes: tuple[tuple[int, ...], ...]
    _form: struct.Struct = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_form", struct.Struct(f"={self.width}{self.dtype.char}"))

    def packed(self, values: list[float | None]) -> bytes | None:
        """Give a row's numbers as the model takes them, missing ones as NaN; None where one does not fit.

        `struct` takes a quarter of the time that numpy needs for an array of one row.
        """
        try:
            return self._form.pack(*values)
        except OverflowError:
            return None
        except struct.error:
            try:
                with np.errstate(over="raise"):
                    return np.array(values, self.dtype).tobytes()
            except FloatingPointError:
                return None

    def gives(self, outputs: Sequence[NDArray[Any]], rows: int) -> bool:
        """Whether a run of some rows gave what the signature declares."""
        for output, shape in zip(outputs, self.output_shapes, strict=True):  # noqa: SIM110  a generator costs 1 us
            if output.shape != (rows, *shape):
                return False
        return True


def row_shape(signature: Signature) -> RowShape | None:
    """Describe the ordinary request of a model; None where the model takes or gives anything but plain tables."""
    spec = signature.inputs[0]
    if len(signature.inputs) > 1 or not signature.joins_rows or len(spec.shape) != 2 or spec.shape[1] < 1:  # noqa: PLR2004
        return None
    if spec.datatype not in {"FP32", "FP64"} or not all(
        output.datatype in PRINTED_DIRECTLY and len(output.shape) <= 2 and min(output.shape[1:], default=1) > 0  # noqa: PLR2004
        for output in signature.outputs
    ):
        return None
    width = spec.shape[1]
    outputs = tuple(output.shape[1:] for output in signature.outputs)
    return RowShape(spec.name, spec.datatype, [1, width], width, NUMPY_DTYPES[spec.datatype], outputs)


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """What answers requests.

    Attributes:
        digest: sha256 of the ONNX bytes.
        score_column: What the prediction log calls the score.
        label_output: Position of the output that holds the predicted class, where there is one.
        us_per_row: Smoothed cost of a row, microseconds.
        runs: Joint runs so far.
        joins_rows: Whether requests may share a run.
        row: What ordinary requests bring, where the model takes them.
    """

    model: str
    version: int
    digest: str
    signature: Signature
    session: ModelSession
    score_column: ScoreColumn | None = None
    label_output: int | None = None
    us_per_row: float = _US_PER_ROW_AT_FIRST
    runs: int = 0
    output_names: tuple[str, ...] = field(default=())
    joins_rows: bool = True
    every_output: tuple[int, ...] = ()
    row: RowShape | None = None

    def run(self, output_names: Sequence[str], feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute outputs; see `ModelSession.run`."""
        return self.session.run(output_names, feeds)

    def scores(self, outputs: Sequence[NDArray[Any]], names: Sequence[str]) -> NDArray[Any] | None:
        """Pick the scores of some rows out of a run's outputs, shape (rows,); None when they were not computed."""
        where = self.score_column
        if where is None:
            return None
        name = self.output_names[where.output]
        if name not in names:
            return None
        output = outputs[names.index(name)]
        return output.ravel() if where.column is None else np.ascontiguousarray(output[:, where.column])

    def labels(self, outputs: Sequence[NDArray[Any]], names: Sequence[str]) -> NDArray[Any] | None:
        """Pick the predicted classes, shape (rows,); None when they were not computed."""
        if self.label_output is None:
            return None
        name = self.output_names[self.label_output]
        return outputs[names.index(name)].ravel() if name in names else None


def load_version(
    *,
    model: str,
    version: int,
    digest: str,
    path: Path,
    signature: Signature,
    positive_output: str | None,
) -> LoadedVersion:
    """Load and warm up a model whose bytes were checked.

    Args:
        model: Registered model.
        version: Its version.
        digest: sha256 of the file.
        path: The ONNX file.
        signature: What the registry says the model takes and gives.
        positive_output: ``<output>`` or ``<output>:<column>`` that holds the score.

    Raises:
        ModelRejected: The runtime refuses the file, or the file and the signature differ.
    """
    try:
        session = ModelSession(path)
        _require_agreement(signature, session)
        session.warm_up(signature)
    except RuntimeRefused as fault:
        raise ModelRejected(f"the runtime refused it: {str(fault)[:300]}") from fault
    names = tuple(spec.name for spec in signature.outputs)
    label = [i for i, spec in enumerate(signature.outputs) if spec.datatype == "INT64" and spec.name.endswith("label")]
    return LoadedVersion(
        model=model,
        version=version,
        digest=digest,
        signature=signature,
        session=session,
        score_column=_score_column(positive_output, signature),
        label_output=label[0] if label else None,
        output_names=names,
        joins_rows=signature.joins_rows,
        every_output=tuple(range(len(names))),
        row=row_shape(signature),
    )


def _require_agreement(signature: Signature, session: ModelSession) -> None:
    for noun, declared, found in (
        ("input", signature.inputs, session.inputs),
        ("output", signature.outputs, session.outputs),
    ):
        actual = {spec.name: spec for spec in found}
        for spec in declared:
            file_spec = actual.get(spec.name)
            if file_spec is None:
                raise ModelRejected(f"its signature names {noun} '{spec.name}', which the file does not have")
            if file_spec.datatype != spec.datatype:
                raise ModelRejected(
                    f"{noun} '{spec.name}' is {file_spec.datatype} in the file, {spec.datatype} in the signature"
                )
    if [spec.name for spec in signature.inputs] != [spec.name for spec in session.inputs]:
        raise ModelRejected("the signature does not list the file's inputs in their order")


def _score_column(positive_output: str | None, signature: Signature) -> ScoreColumn | None:
    names = [spec.name for spec in signature.outputs]
    if positive_output is None:
        floats = [i for i, spec in enumerate(signature.outputs) if spec.datatype.startswith("FP")]
        return ScoreColumn(floats[0], None) if floats and len(signature.outputs[floats[0]].shape) == 1 else None
    name, _, column = positive_output.partition(":")
    if name not in names or (column and not column.isdigit()):
        raise ModelRejected(f"its signature says the score is '{positive_output}', which is no output")
    output = names.index(name)
    if not column:
        return ScoreColumn(output, None)
    shape = signature.outputs[output].shape
    if len(shape) != 2 or (shape[1] >= 0 and int(column) >= shape[1]):  # noqa: PLR2004  rows and columns
        raise ModelRejected(f"its signature says the score is '{positive_output}', but the output is {list(shape)}")
    return ScoreColumn(output, int(column))
