"""Compares what a caller declares about a version with what its models say of themselves.

The ONNX graph that is served must have exactly the declared inputs, and every declared output. A tree model beside it
(XGBoost) must have as many features as there are columns, and, where it carries their names, the same names in the same
order: a booster fed with columns in another order answers without an error, and wrongly.
"""

from collections.abc import Iterable, Iterator

from clave_common.errors import InvalidArgument
from clave_contracts import registry as contract

from clave_registry.domain.manifest import model_format
from clave_registry.runtime.model_inspector import ModelFacts, TensorFacts

GRAPH = "model.onnx"
_SHOWN = 10
_MATRIX = 2


class SignatureMismatch(InvalidArgument):
    """The declared signature is not the one of the model."""

    code = "signature_mismatch"


def require_declared(declared: contract.Signature, facts: ModelFacts, *, path: str) -> None:
    """Refuse a version whose declared signature is not its model's.

    Args:
        declared: What the caller says.
        facts: What the model says.
        path: The model's artifact path.

    Raises:
        SignatureMismatch: They differ; carries every difference.
    """
    if path == GRAPH:
        faults = [*_graph_faults(declared, facts), *_width_faults(declared, facts), *_score_faults(declared, facts)]
        told = "the graph"
    elif model_format(path) == "xgboost":
        faults, told = list(_tree_faults(declared, facts)), f"'{path}'"
    else:
        return
    if faults:
        raise SignatureMismatch(
            f"The declared signature differs from {told}: {'; '.join(faults)}.", path=path, faults=faults
        )


def completed(declared: contract.Signature, facts: ModelFacts, *, path: str) -> contract.Signature:
    """Take inputs and outputs from the graph where the caller declared neither; the rest stays as declared."""
    if path != GRAPH or declared.inputs or declared.outputs:
        return declared
    return declared.model_copy(update={"inputs": _specs(facts.inputs), "outputs": _specs(facts.outputs)})


def _specs(tensors: Iterable[TensorFacts]) -> list[contract.TensorSpec]:
    return [contract.TensorSpec(name=t.name, datatype=t.datatype, shape=list(t.shape)) for t in tensors]


def _graph_faults(declared: contract.Signature, facts: ModelFacts) -> Iterator[str]:
    given = {tensor.name: tensor for tensor in facts.inputs}
    if {tensor.name for tensor in declared.inputs} != set(given):
        yield f"the graph takes {sorted(given)}"
    for tensor in declared.inputs:
        yield from _differences(tensor, given.get(tensor.name))
    produced = {tensor.name: tensor for tensor in facts.outputs}
    for tensor in declared.outputs:
        if tensor.name not in produced:
            yield f"the graph gives no '{tensor.name}' but {sorted(produced)}"
        yield from _differences(tensor, produced.get(tensor.name))


def _width_faults(declared: contract.Signature, facts: ModelFacts) -> Iterator[str]:
    if not declared.columns or len(facts.inputs) != 1:
        return
    (tensor,) = facts.inputs
    if len(tensor.shape) == _MATRIX and tensor.shape[1] not in {-1, len(declared.columns)}:
        yield f"'{tensor.name}' has {tensor.shape[1]} columns, and {len(declared.columns)} are named"


def _score_faults(declared: contract.Signature, facts: ModelFacts) -> Iterator[str]:
    if declared.positive_output is None:
        return
    name, _, column = declared.positive_output.partition(":")
    found = next((tensor for tensor in facts.outputs if tensor.name == name), None)
    if found is None:
        yield f"the score is said to be '{name}', and the graph gives {sorted(tensor.name for tensor in facts.outputs)}"
    elif column and not column.isdigit():
        yield f"the score is said to be column '{column}' of '{name}', which is no number"
    elif column and len(found.shape) == _MATRIX and 0 <= found.shape[1] <= int(column):
        yield f"the score is said to be column {column} of '{name}', which has {found.shape[1]}"


def _tree_faults(declared: contract.Signature, facts: ModelFacts) -> Iterator[str]:
    features = facts.inputs[0].shape[-1]
    if declared.columns:
        yield from _column_faults(declared.columns, facts.columns, features)
    elif len(declared.inputs) == 1 and declared.inputs[0].shape[-1:] not in ([-1], [features]):
        yield f"the model has {features} features, not the {declared.inputs[0].shape[-1]} of the declared input"


def _column_faults(declared: list[str], named: tuple[str, ...], features: int) -> Iterator[str]:
    if len(declared) != features:
        yield f"the model has {features} features, and {len(declared)} columns are named"
    if not named or tuple(declared) == named:
        return
    unknown = [name for name in declared if name not in named]
    absent = [name for name in named if name not in declared]
    if unknown:
        yield f"the model knows no column {_listed(unknown)}"
    if absent:
        yield f"the model's {_listed(absent)} is not declared"
    if not unknown and not absent and len(declared) == features:
        at = next(n for n, pair in enumerate(zip(declared, named, strict=True)) if pair[0] != pair[1])
        yield f"the columns stand in another order: column {at + 1} is '{named[at]}', not '{declared[at]}'"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def _differences(declared: contract.TensorSpec, found: TensorFacts | None) -> Iterator[str]:
    if found is None:
        return
    if declared.datatype != found.datatype:
        yield f"'{found.name}' is {found.datatype}, not {declared.datatype}"
    if found.shape and not _compatible(declared.shape, found.shape):
        yield f"'{found.name}' has the shape {list(found.shape)}, not {declared.shape}"


def _compatible(declared: list[int], found: tuple[int, ...]) -> bool:
    if len(declared) != len(found):
        return False
    return all(-1 in {ours, theirs} or ours == theirs for ours, theirs in zip(declared, found, strict=True))
