"""Explanations are XGBoost's own, to rounding, without XGBoost in the serving process."""

import time
from pathlib import Path

import numpy as np
import pytest
import xgboost
from clave_inference.domain.tree_explanation import NotExplainable
from clave_inference.runtime import explain_tables, ubjson

ROWS, COLUMNS = 400, 6


def trained(folder: Path, **changes: object) -> tuple[xgboost.Booster, np.ndarray, Path]:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    label = (np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1] * rows[:, 2]) + rng.normal(size=ROWS) > 0).astype(int)
    parameters = {"objective": "binary:logistic", "max_depth": 5, "eta": 0.3, "nthread": 1, **changes}
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, label), 20)
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


def test_a_thousand_rows_a_second(tmp_path: Path) -> None:
    _booster, rows, path = trained(tmp_path, max_depth=6)
    tables = explain_tables.tables_of(ubjson.read(path.read_bytes()))
    tables.explain(rows[:10])
    began = time.process_time()
    tables.explain(rows)
    assert len(rows) / (time.process_time() - began) > 1_000
