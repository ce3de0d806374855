"""What is declared about columns must be what the booster and the graph say."""

import pytest
from clave_contracts.registry import Signature, TensorSpec
from clave_registry.runtime.model_inspector import ModelFacts, TensorFacts
from clave_registry.services.declared_signature import SignatureMismatch, completed, require_declared

OUTPUT = TensorSpec(name="score", datatype="FP32", shape=[-1, 1])


def declared(columns: list[str], *, width: int = 3) -> Signature:
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, width])], outputs=[OUTPUT], columns=columns
    )


def booster(*names: str, features: int = 3) -> ModelFacts:
    matrix = TensorFacts("input", "FP32", (-1, features))
    score = TensorFacts("score", "FP32", (-1,))
    return ModelFacts((matrix,), (score,), {"xgboost": 3}, ("gbtree", "binary:logistic"), names)


@pytest.mark.parametrize("path", ["model.ubj", "model.json", "trees/booster.xgb.json"])
@pytest.mark.parametrize("names", [(), ("a", "b", "c")])
def test_a_booster_with_the_declared_columns_is_taken(path: str, names: tuple[str, ...]) -> None:
    require_declared(declared(["a", "b", "c"]), booster(*names), path=path)
    require_declared(declared([]), booster(*names), path=path)
    require_declared(declared([], width=-1), booster(*names), path=path)


@pytest.mark.parametrize(
    ("columns", "names", "told"),
    [
        (["a", "b"], (), "the model has 3 features, and 2 columns are named"),
        (["a", "b", "x"], ("a", "b", "c"), "knows no column 'x'; the model's 'c' is not declared"),
        (["a", "c", "b"], ("a", "b", "c"), "another order: column 2 is 'b', not 'c'"),
        (["a", "b", "c", "d"], ("a", "b", "c"), "3 features, and 4 columns are named; the model knows no column 'd'"),
        ([f"x{n}" for n in range(30)], ("a", "b", "c"), "and 20 more"),
    ],
)
def test_a_booster_with_other_columns_is_refused_in_clear_words(
    columns: list[str], names: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SignatureMismatch, match=r"differs from 'model\.ubj'") as refused:
        require_declared(declared(columns), booster(*names), path="model.ubj")
    assert told in refused.value.detail
    assert refused.value.facts["path"] == "model.ubj"


def test_without_columns_the_width_of_the_declared_input_counts() -> None:
    with pytest.raises(SignatureMismatch, match="3 features, not the 4 of the declared input"):
        require_declared(declared([], width=4), booster(), path="model.json")


def test_a_graph_is_as_wide_as_the_declared_columns() -> None:
    graph = ModelFacts(
        (TensorFacts("input", "FP32", (-1, 3)),), (TensorFacts("score", "FP32", (-1, 1)),), {"": 17}, ("MatMul",)
    )
    require_declared(declared(["a", "b", "c"]), graph, path="model.onnx")
    with pytest.raises(SignatureMismatch, match="has 3 columns, and 2 are named"):
        require_declared(declared(["a", "b"]), graph, path="model.onnx")


GRAPH_FACTS = ModelFacts(
    (TensorFacts("input", "FP32", (-1, 3)),), (TensorFacts("score", "FP32", (-1, 1)),), {"": 17}, ("MatMul",)
)


def test_inputs_and_outputs_left_out_are_the_graphs_and_the_rest_stays() -> None:
    told = Signature(columns=["a", "b", "c"], positive_output="score:0", threshold=0.4)
    found = completed(told, GRAPH_FACTS, path="model.onnx")
    assert found == declared(["a", "b", "c"]).model_copy(update={"positive_output": "score:0", "threshold": 0.4})
    assert completed(declared(["a"]), GRAPH_FACTS, path="model.onnx") == declared(["a"])
    assert completed(told, booster(), path="model.ubj") == told


@pytest.mark.parametrize(
    ("score", "told"),
    [
        ("chance:0", r"said to be 'chance', and the graph gives \['score'\]"),
        ("score:1", "column 1 of 'score', which has 1"),
        ("score:x", "no number"),
    ],
)
def test_a_score_that_the_graph_does_not_give_is_refused(score: str, told: str) -> None:
    with pytest.raises(SignatureMismatch, match=told):
        wrong = declared([]).model_copy(update={"positive_output": score})
        require_declared(wrong, GRAPH_FACTS, path="model.onnx")


def test_files_of_other_formats_declare_nothing() -> None:
    require_declared(declared(["a"]), booster("w", "b"), path="weights.safetensors")
