"""Explanations are XGBoost's own, to rounding, without XGBoost in the serving process."""

from pathlib import Path

import numpy as np
import pytest
import xgboost
from clave_inference.domain.tree_explanation import NotExplainable
from clave_inference.runtime import explain_tables, ubjson
from hypothesis import given, settings
from hypothesis import strategies as st

ROWS, COLUMNS = 400, 6


def trained(folder: Path, **changes: object) -> tuple[xgboost.Booster, np.ndarray, Path]:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    label = (np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1] * rows[:, 2]) + rng.normal(size=ROWS) > 0).astype(int)
    parameters = {"objective": "binary:logistic", "max_depth": 5, "eta": 0.3, "nthread": 1, **changes}
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, label), 20)
    folder.mkdir(exist_ok=True)
    path = folder / "model.ubj"
    booster.save_model(path)
    return booster, rows, path


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "count:poisson"])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_contributions_are_those_of_xgboost(tmp_path: Path, objective: str, depth: int) -> None:
    booster, rows, path = trained(tmp_path, objective=objective, max_depth=depth)
    tables = explain_tables.tables_of(ubjson.read(path.read_bytes()))
    matrix = xgboost.DMatrix(rows)
    theirs = booster.predict(matrix, pred_contribs=True)
    ours = tables.explain(rows)
    np.testing.assert_allclose(ours, theirs[:, :-1], atol=2e-5)
    assert tables.base_value == pytest.approx(float(theirs[0, -1]), abs=2e-5)
    margin = booster.predict(matrix, output_margin=True)
    np.testing.assert_allclose(ours.sum(axis=1) + tables.base_value, margin, atol=5e-5)


def test_tables_are_made_in_a_process_of_their_own(tmp_path: Path) -> None:
    _booster, rows, path = trained(tmp_path)
    target = tmp_path / "tables.npz"
    explain_tables.make_in_process(path, target)
    stored = explain_tables.load(target)
    fresh = explain_tables.tables_of(ubjson.read(path.read_bytes()))
    np.testing.assert_array_equal(stored.explain(rows[:5]), fresh.explain(rows[:5]))


def test_what_cannot_be_explained_says_why(tmp_path: Path) -> None:
    _booster, _rows, path = trained(tmp_path, objective="binary:hinge")
    with pytest.raises(NotExplainable, match="hinge"):
        explain_tables.make_in_process(path, tmp_path / "t.npz")
    (tmp_path / "junk.ubj").write_bytes(b"{" * 500)
    with pytest.raises(NotExplainable):
        explain_tables.make_in_process(tmp_path / "junk.ubj", tmp_path / "t.npz")


def test_a_stump_a_constant_and_rows_on_thresholds_are_explained(tmp_path: Path) -> None:
    booster, rows, path = trained(tmp_path, max_depth=1, min_child_weight=50)
    constant, _, other = trained(tmp_path / "c", gamma=1e9)
    tables = explain_tables.tables_of(ubjson.read(path.read_bytes()))
    rows[:, 0] = np.resize(tables.node_threshold, len(rows))  # a value on a threshold goes right
    theirs = booster.predict(xgboost.DMatrix(rows), pred_contribs=True)
    np.testing.assert_allclose(tables.explain(rows), theirs[:, :-1], atol=2e-5)
    nothing = explain_tables.tables_of(ubjson.read(other.read_bytes()))
    theirs = constant.predict(xgboost.DMatrix(rows), pred_contribs=True)
    np.testing.assert_array_equal(nothing.explain(rows), np.zeros(rows.shape))
    assert nothing.base_value == pytest.approx(float(theirs[0, -1]), abs=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    depth=st.integers(2, 8),
    columns=st.integers(1, 12),
    policy=st.sampled_from(["depthwise", "lossguide"]),
)
def test_any_trees_on_any_rows_agree_with_xgboost(seed: int, depth: int, columns: int, policy: str) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, columns)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    label = (np.nan_to_num(rows).sum(axis=1) + rng.normal(size=len(rows)) > 0).astype(int)
    parameters = {"objective": "binary:logistic", "max_depth": depth, "grow_policy": policy, "nthread": 1, "eta": 1.0}
    booster = xgboost.train({**parameters, "min_child_weight": 0}, xgboost.DMatrix(rows, label), 4)
    tables = explain_tables.tables_of(ubjson.read(bytes(booster.save_raw("ubj"))))
    theirs = booster.predict(xgboost.DMatrix(rows), pred_contribs=True)
    np.testing.assert_allclose(tables.explain(rows), theirs[:, :-1], atol=5e-5)
