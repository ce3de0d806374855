"""Every objective is exported exactly or refused; nothing is silently wrong."""

from typing import Any

import numpy as np
import pytest
import xgboost
from clave_trainer.runtime.booster_json import BoosterUnsupported
from clave_trainer.runtime.onnx_export import IDENTITY, LOG_BASE, SUPPORTED, ExportOptions, export
from clave_trainer.runtime.parity import prove, session_of

ROWS, FEATURES = 600, 6
RNG = np.random.default_rng(5)
X = RNG.standard_normal((ROWS, FEATURES)).astype(np.float32)
SIGNAL = np.nan_to_num(X[:, 0] - X[:, 1] * X[:, 2])
X[RNG.random(X.shape) < 0.1] = np.nan
BINARY = (SIGNAL + RNG.normal(0, 0.5, ROWS) > 0.3).astype(np.float32)
CLASSES = np.digitize(SIGNAL, [-0.5, 0.5]).astype(np.float32)
POSITIVE = np.exp(SIGNAL * 0.5).astype(np.float32)
TARGETS = np.c_[SIGNAL * 10 + 100, SIGNAL, SIGNAL**2].astype(np.float32)


def label_for(objective: str) -> np.ndarray:
    if objective.startswith(("binary:", "reg:logistic")) or objective == "rank:map":
        return BINARY
    return CLASSES if objective.startswith(("multi:", "rank:")) else POSITIVE


def train(objective: str, label: np.ndarray | None = None, rounds: int = 12, **params: Any) -> xgboost.Booster:
    matrix = xgboost.DMatrix(X, label_for(objective) if label is None else label)
    if objective.startswith("rank:"):
        matrix.set_group([20] * (ROWS // 20))
    if objective == "survival:aft":
        matrix.set_float_info("label_lower_bound", POSITIVE)
        matrix.set_float_info("label_upper_bound", POSITIVE)
    if objective.startswith("multi:"):
        params["num_class"] = 3
    return xgboost.train({"objective": objective, "max_depth": 4, "nthread": 1, "seed": 1, **params}, matrix, rounds)


def relative_difference(booster: xgboost.Booster, options: ExportOptions | None = None, rows: Any = X) -> float:
    model = export(booster.save_raw("json"), options).SerializeToString()
    *_, got = session_of(model).run(None, {"input": rows})
    rounds = options.rounds if options else None
    wanted = booster.predict(xgboost.DMatrix(rows), iteration_range=(0, rounds or 0))
    if got.size == 2 * wanted.size:
        got = got[:, 1]
    return float(np.abs(got.reshape(wanted.shape) - wanted).max() / max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("objective", sorted(SUPPORTED))
def test_export_answers_as_the_booster_for_every_objective(objective: str) -> None:
    extra = {"quantile_alpha": [0.1, 0.5, 0.9]} if objective == "reg:quantileerror" else {}
    assert relative_difference(train(objective, **extra)) < 2e-6


@pytest.mark.parametrize(
    ("label", "params"),
    [
        (BINARY, {"objective": "binary:logistic", "base_score": 0.2, "scale_pos_weight": 3.0}),
        (BINARY, {"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.3}),
        (BINARY, {"objective": "binary:logistic", "num_parallel_tree": 3, "subsample": 0.5}),
        (BINARY, {"objective": "binary:logistic", "booster": "gblinear"}),
        (CLASSES, {"objective": "multi:softprob", "booster": "gblinear"}),
        (TARGETS, {"objective": "reg:squarederror"}),
        (TARGETS, {"objective": "reg:squarederror", "multi_strategy": "multi_output_tree"}),
    ],
    ids=["base-score", "dart", "parallel-trees", "linear", "linear-classes", "targets", "vector-leaves"],
)
def test_export_answers_as_the_booster_for_every_kind_of_booster(label: np.ndarray, params: dict[str, Any]) -> None:
    assert relative_difference(train(label=label, **params)) < 2e-6


def test_export_keeps_the_best_rounds_only_after_early_stopping() -> None:
    fit, valid = xgboost.DMatrix(X[:400], BINARY[:400]), xgboost.DMatrix(X[400:], BINARY[400:])
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 5, "eta": 0.6, "nthread": 1},
        fit,
        100,
        evals=[(valid, "v")],
        early_stopping_rounds=5,
        verbose_eval=False,
    )
    best = booster.best_iteration + 1
    assert booster.num_boosted_rounds() > best
    assert relative_difference(booster, ExportOptions(rounds=best)) < 2e-6


@pytest.mark.parametrize("onehot", [1, 100], ids=["partition", "one-hot"])
def test_export_repeats_categorical_splits(onehot: int) -> None:
    codes = RNG.integers(-1, 12, ROWS)
    rows = np.c_[X, np.where(codes < 0, np.nan, codes)].astype(np.float32)
    label = (SIGNAL + 1.5 * np.isin(codes, [1, 3, 4, 9, 11]) > 0.6).astype(np.float32)
    kinds = ["q"] * FEATURES + ["c"]
    matrix = xgboost.DMatrix(rows, label, feature_types=kinds, enable_categorical=True)
    params = {"objective": "binary:logistic", "max_cat_to_onehot": onehot, "nthread": 1}
    booster = xgboost.train(params, matrix, 15)
    wanted = booster.predict(matrix)
    _, got = session_of(export(booster.save_raw("json")).SerializeToString()).run(None, {"input": rows})
    assert np.abs(got[:, 1] - wanted).max() < 2e-6


def test_export_treats_the_sentinel_as_missing() -> None:
    rows = np.nan_to_num(X, nan=-999.0)
    matrix = xgboost.DMatrix(rows, BINARY, missing=-999.0)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, matrix, 10)
    model = export(booster.save_raw("json"), ExportOptions(missing=-999.0)).SerializeToString()
    _, got = session_of(model).run(None, {"input": rows})
    assert np.abs(got[:, 1] - booster.predict(matrix)).max() < 2e-6


def test_export_scales_the_margin_where_calibration_is_asked_for() -> None:
    booster = train("binary:logistic")
    margin = booster.predict(xgboost.DMatrix(X), output_margin=True)
    model = export(booster.save_raw("json"), ExportOptions(platt=(0.8, 0.1))).SerializeToString()
    _, got = session_of(model).run(None, {"input": X})
    assert np.abs(got[:, 1] - 1 / (1 + np.exp(-(0.8 * margin + 0.1)))).max() < 2e-6


def test_binary_export_has_the_outputs_that_inference_serves() -> None:
    booster = train("binary:logistic")
    names = tuple(f"feature {i}" for i in range(FEATURES))
    proto = export(booster.save_raw("json"), ExportOptions(threshold=0.3, feature_names=names))
    session = session_of(proto.SerializeToString())
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("label", "tensor(int64)", ["rows"]),
        ("probabilities", "tensor(float)", ["rows", 2]),
    ]
    assert session.get_inputs()[0].shape == ["rows", FEATURES]
    label, probabilities = session.run(None, {"input": X})
    assert (label == (probabilities[:, 1] >= np.float32(0.3))).all()
    assert session.get_modelmeta().custom_metadata_map["features"] == ",".join(names)
    label, probabilities = session.run(None, {"input": X[:0]})
    assert label.shape == (0,)


def test_export_refuses_what_it_does_not_know() -> None:
    with pytest.raises(BoosterUnsupported, match="refused rather than guessed"):
        export(train("rank:ndcg").save_raw("json").replace(b"rank:ndcg", b"rank:mine"))
    with pytest.raises(BoosterUnsupported, match="Platt"):
        export(train("reg:gamma").save_raw("json"), ExportOptions(platt=(1.0, 0.0)))
    with pytest.raises(BoosterUnsupported, match="version 3"):
        export(b'{"version": [1, 7, 0], "learner": {}}')


def test_parity_holds_for_an_honest_export_on_real_and_made_rows() -> None:
    booster = train("binary:logistic", rounds=40)
    model = export(booster.save_raw("json"), ExportOptions(threshold=0.5)).SerializeToString()
    proof = prove(booster, model, X, threshold=0.5)
    assert proof.holds
    assert proof.rows_real + proof.rows_made >= 10_000
    assert proof.rows_with_missing > 3_000
    assert proof.difference_relative < 2e-6


def test_parity_refuses_a_graph_of_another_booster() -> None:
    booster, other = train("binary:logistic", rounds=40), train("binary:logistic", rounds=39)
    model = export(other.save_raw("json")).SerializeToString()
    assert not prove(booster, model, X, threshold=0.5).holds


def test_parity_refuses_a_graph_that_sends_missing_values_the_other_way() -> None:
    booster = train("binary:logistic")
    proto = export(booster.save_raw("json"))
    tracks = next(a for a in proto.graph.node[0].attribute if a.name == "nodes_missing_value_tracks_true")
    tracks.ints[:] = [1 - value for value in tracks.ints]
    assert not prove(booster, proto.SerializeToString(), X, threshold=0.5).holds


def test_parity_refuses_a_graph_with_another_threshold() -> None:
    booster = train("binary:logistic")
    model = export(booster.save_raw("json"), ExportOptions(threshold=0.4)).SerializeToString()
    assert prove(booster, model, X, threshold=0.5).labels_different > 0


def test_objectives_are_sorted_into_one_link_each() -> None:
    assert not LOG_BASE & IDENTITY
    assert len(SUPPORTED) == 19
