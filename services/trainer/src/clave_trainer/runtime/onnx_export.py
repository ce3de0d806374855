"""Export an XGBoost booster to ONNX: every known objective exactly, everything else refused.

One ``TreeEnsembleRegressor`` (or a ``MatMul`` for a linear booster) yields raw margins; the objective's link
function follows as ordinary operators. Binary classifiers get the two outputs that inference serves: ``label``
int64 [rows] by the chosen threshold and ``probabilities`` float32 [rows, 2]. An export is worth nothing without
the parity proof of `clave_trainer.runtime.parity`, which always follows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper

from clave_trainer.domain.arrays import Floats
from clave_trainer.runtime.booster_json import BoosterUnsupported, Learner, read_learner
from clave_trainer.runtime.tree_nodes import tree_attributes

OPSET, OPSET_ML, IR_VERSION = 17, 3, 9  # old enough for ONNX Runtime from 1.15 on

LOGIT_BASE = frozenset({"binary:logistic", "reg:logistic"})
LOG_BASE = frozenset({"count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"})
IDENTITY = frozenset(
    {
        "reg:squarederror",
        "reg:squaredlogerror",
        "reg:pseudohubererror",
        "reg:absoluteerror",
        "reg:quantileerror",
        "rank:ndcg",
        "rank:pairwise",
        "rank:map",
        "binary:logitraw",
    }
)
OWN_LINK = frozenset({"multi:softprob", "multi:softmax", "binary:hinge"})
SUPPORTED = LOGIT_BASE | LOG_BASE | IDENTITY | OWN_LINK


@dataclass(frozen=True)
class ExportOptions:
    """What an export adds to the booster.

    Attributes:
        rounds: Boosting rounds to keep; all when None.
        threshold: Score from which the label of a binary classifier is 1.
        missing: Sentinel that stands for a missing value besides NaN; NaN for none.
        platt: Slope and intercept of Platt scaling on the margin, logistic objectives only.
        feature_names: Kept in the model's metadata, in the order of the input's columns.
        metadata: Further key and value strings of the file.
    """

    rounds: int | None = None
    threshold: float = 0.5
    missing: float = math.nan
    platt: tuple[float, float] | None = None
    feature_names: Sequence[str] = ()
    metadata: dict[str, str] = field(default_factory=dict)


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: list[float], shape: list[int] | None = None) -> str:
        self.constants.append(helper.make_tensor(name, TensorProto.FLOAT, shape or [len(values)], values))
        return name


def export(document: bytes | bytearray, options: ExportOptions | None = None) -> ModelProto:
    """Export a booster.

    Args:
        document: `Booster.save_raw("json")`.
        options: What to add; defaults keep all rounds and label from .5 on.

    Returns:
        A checked model with input ``input`` float32 [rows, features]. ``binary:logistic`` has the outputs
        ``label`` int64 [rows] and ``probabilities`` float32 [rows, 2]; the other objectives have one float32
        output [rows, outputs] equal to XGBoost's ``predict``.

    Raises:
        BoosterUnsupported: The objective is not in `SUPPORTED`, or an option does not fit it.
    """
    options = options or ExportOptions()
    learner = read_learner(document, rounds=options.rounds)
    if learner.objective not in SUPPORTED:
        detail = f"objective {learner.objective!r} has no known link; it is refused rather than guessed"
        raise BoosterUnsupported(detail, objective=learner.objective, supported=sorted(SUPPORTED))
    if options.platt and learner.objective not in LOGIT_BASE:
        raise BoosterUnsupported("Platt scaling is for logistic objectives", objective=learner.objective)
    graph = _Graph()
    margin = _margin(graph, learner, _clean_input(graph, options.missing))
    outputs = _link(graph, learner.objective, margin, options)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "xgboost",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", learner.features])],
            outputs,
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)],
        producer_name="clave",
    )
    proto.ir_version = IR_VERSION
    facts = {"objective": learner.objective, "features": ",".join(options.feature_names), **options.metadata}
    helper.set_model_props(proto, facts)
    checker.check_model(proto)
    return proto


def _clean_input(graph: _Graph, missing: float) -> str:
    if math.isnan(missing):
        return "input"
    hit = graph.op("Equal", ["input", graph.constant("sentinel", [missing])], "is_sentinel")
    return graph.op("Where", [hit, graph.constant("nan", [math.nan]), "input"], "clean")


def _base_margins(learner: Learner) -> Floats:
    base = np.repeat(learner.base_score, learner.outputs) if learner.base_score.size == 1 else learner.base_score
    if learner.objective in LOGIT_BASE:
        return np.log(base / (1 - base))
    if learner.objective in LOG_BASE:
        return np.log(base)
    return base


def _margin(graph: _Graph, learner: Learner, source: str) -> str:
    base = _base_margins(learner)
    if learner.linear is None:
        return graph.op(
            "TreeEnsembleRegressor",
            [source],
            "margin",
            domain="ai.onnx.ml",
            n_targets=learner.outputs,
            base_values=[float(value) for value in base.astype(np.float32)],
            aggregate_function="SUM",
            post_transform="NONE",
            **tree_attributes(learner),
        )
    missing = graph.op("IsNaN", [source], "is_missing")  # a linear booster counts a missing value as zero
    filled = graph.op("Where", [missing, graph.constant("zero", [0.0]), source], "filled")
    shape = [learner.features, learner.outputs]
    weights = graph.constant("weights", learner.linear[:-1].ravel().tolist(), shape)
    product = graph.op("MatMul", [filled, weights], "product")
    return graph.op("Add", [product, graph.constant("bias", (learner.linear[-1] + base).tolist())], "margin")


def _float_output(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", None])


def _link(graph: _Graph, objective: str, margin: str, options: ExportOptions) -> list[Any]:
    if objective in LOGIT_BASE:
        return _logistic(graph, objective, margin, options)
    if objective == "multi:softprob":
        return [_float_output(graph.op("Softmax", [margin], "probabilities", axis=1))]
    if objective == "multi:softmax":
        index = graph.op("ArgMax", [margin], "index", axis=1, keepdims=1)
        return [_float_output(graph.op("Cast", [index], "prediction", to=TensorProto.FLOAT))]
    if objective in LOG_BASE:
        return [_float_output(graph.op("Exp", [margin], "prediction"))]
    if objective == "binary:hinge":
        over = graph.op("Greater", [margin, graph.constant("zero_margin", [0.0])], "over")
        return [_float_output(graph.op("Cast", [over], "prediction", to=TensorProto.FLOAT))]
    return [_float_output(graph.op("Identity", [margin], "prediction"))]


def _logistic(graph: _Graph, objective: str, margin: str, options: ExportOptions) -> list[Any]:
    if options.platt:
        slope, intercept = options.platt
        scaled = graph.op("Mul", [margin, graph.constant("platt_slope", [slope])], "scaled")
        margin = graph.op("Add", [scaled, graph.constant("platt_intercept", [intercept])], "calibrated")
    if objective == "reg:logistic":
        return [_float_output(graph.op("Sigmoid", [margin], "prediction"))]
    positive = graph.op("Sigmoid", [margin], "positive")
    negative = graph.op("Sub", [graph.constant("one", [1.0]), positive], "negative")
    graph.op("Concat", [negative, positive], "probabilities", axis=1)
    reached = graph.op("GreaterOrEqual", [positive, graph.constant("threshold", [options.threshold])], "reached")
    flat = graph.op("Reshape", [reached, _minus_one(graph)], "reached_flat")
    graph.op("Cast", [flat], "label", to=TensorProto.INT64)
    return [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 2]),
    ]


def _minus_one(graph: _Graph) -> str:
    graph.constants.append(helper.make_tensor("minus_one", TensorProto.INT64, [1], [-1]))
    return "minus_one"
