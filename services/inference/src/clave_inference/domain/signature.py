"""What a model takes and gives, and whether a request fits.

Requests are checked before they join a batch: a request that does not fit never reaches the runtime, so its neighbours
cannot be harmed by it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import RequestedOutput, Tensor

FREE = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives; -1 marks a free dimension.

    Attributes:
        is_batched: Whether the first dimension counts rows.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_batched: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_batched", bool(self.shape) and self.shape[0] == FREE)


@dataclass(frozen=True)
class Signature:
    """The tensors of a model version.

    Attributes:
        feature_names: Names of the columns of the single input, in order; empty where the model has no table input.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for noun, specs in (("input", self.inputs), ("output", self.outputs)):
            if not specs:
                raise ValueError(f"a signature needs at least one {noun}")
            if len({spec.name for spec in specs}) != len(specs):
                raise ValueError(f"two {noun}s share a name")

    @property
    def joins_rows(self) -> bool:
        """Whether requests may share a run: every input's first dimension counts rows, and every output's too."""
        return all(spec.is_batched for spec in (*self.inputs, *self.outputs))

    def feeds(self, tensors: Sequence[Tensor], *, rows_max: int) -> tuple[tuple[NDArray[Any], ...], int]:
        """Check a request's tensors and put them into the model's order.

        Args:
            tensors: Decoded inputs of the request.
            rows_max: Largest number of rows in one request.

        Returns:
            One array per input of the model, and the number of rows (1 where rows are not counted).

        Raises:
            InvalidInferRequest: A tensor is missing, unknown, of another datatype or shape, or there are too many rows.
        """
        specs = self.inputs
        if len(specs) == 1 and len(tensors) == 1:  # nearly every tabular model
            spec, tensor = specs[0], tensors[0]
            shape = tensor.data.shape
            if tensor.name != spec.name or tensor.datatype != spec.datatype or len(shape) != len(spec.shape):
                self._explain(tensors)
            if shape[1:] != spec.shape[1:] or not spec.is_batched:
                _check_shape(tensor, spec, 0)
            rows = shape[0] if spec.is_batched else 1
            if not 0 < rows <= rows_max:
                _check_rows(rows, rows_max)
            return (tensor.data,), rows
        self._explain(tensors)
        by_name = {tensor.name: tensor for tensor in tensors}
        counts = {by_name[spec.name].data.shape[0] for spec in specs if spec.is_batched}
        if len(counts) > 1:
            raise InvalidInferRequest("inputs", f"differ in their number of rows ({sorted(counts)}).")
        rows = counts.pop() if counts else 1
        _check_rows(rows, rows_max)
        return tuple(by_name[spec.name].data for spec in specs), rows

    def _explain(self, tensors: Sequence[Tensor]) -> None:
        """Check names, datatypes and shapes in the order that makes the clearest message."""
        specs = {spec.name: spec for spec in self.inputs}
        seen: set[str] = set()
        for index, tensor in enumerate(tensors):
            spec = specs.get(tensor.name)
            if spec is None:
                raise InvalidInferRequest(
                    f"inputs[{index}].name",
                    f"'{tensor.name[:100]}' is not an input of this model.",
                    f"It takes {_names(specs)}.",
                )
            if tensor.name in seen:
                raise InvalidInferRequest(f"inputs[{index}].name", f"'{tensor.name}' stands twice.")
            seen.add(tensor.name)
            if tensor.datatype != spec.datatype:
                raise InvalidInferRequest(
                    f"inputs[{index}].datatype",
                    f"is {tensor.datatype} where the model takes {spec.datatype}.",
                    "Convert the data before sending.",
                )
            _check_shape(tensor, spec, index)
        missing = [name for name in specs if name not in seen]
        if missing:
            raise InvalidInferRequest("inputs", f"lack {_names(missing)}.", f"The model takes {_names(specs)}.")

    def output_indexes(self, wanted: Sequence[RequestedOutput] | None) -> tuple[int, ...]:
        """Give the positions of the outputs that a request asks for, in its order.

        Raises:
            InvalidInferRequest: An output is unknown or asked for twice.
        """
        if not wanted:
            return tuple(range(len(self.outputs)))
        positions = {spec.name: index for index, spec in enumerate(self.outputs)}
        chosen: list[int] = []
        for index, output in enumerate(wanted):
            position = positions.get(output.name)
            if position is None or position in chosen:
                fault = "is asked for twice" if position is not None else "is not an output of this model"
                raise InvalidInferRequest(
                    f"outputs[{index}].name", f"'{output.name[:100]}' {fault}.", f"It gives {_names(positions)}."
                )
            chosen.append(position)
        return tuple(chosen)


def _check_shape(tensor: Tensor, spec: TensorSpec, index: int) -> None:
    shape = tensor.data.shape
    fits = len(shape) == len(spec.shape) and all(
        wanted in (FREE, size) for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidInferRequest(
            f"inputs[{index}].shape",
            f"is {list(shape)} where the model takes {list(spec.shape)}.",
            "-1 stands for any size.",
            expected=list(spec.shape),
        )


def _check_rows(rows: int, rows_max: int) -> None:
    if rows > rows_max:
        raise InvalidInferRequest(
            "inputs", f"hold {rows} rows, at most {rows_max} go into one request.", "Split them.", limit=rows_max
        )
    if rows < 1:
        raise InvalidInferRequest("inputs", "hold no rows.", "Send at least one.")


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
