"""The report of an evaluation: which rows judge, what needs a person, what the registry gets."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
import xgboost
from clave_contracts.registry import Evaluation
from clave_contracts.trainer import GatePolicy
from clave_trainer.domain.fairness import Verdict
from clave_trainer.domain.gates import GateResult
from clave_trainer.domain.split import SplitRule, deal
from clave_trainer.runtime.frames import Frame
from clave_trainer.runtime.onnx_export import ExportOptions, export
from clave_trainer.runtime.report import evaluation_report, evaluation_rows, needs_a_person

START = datetime(2026, 1, 1, tzinfo=UTC)
PARAMS = {"robustness_noise": 0.1, "robustness_missing": 0.05, "seed": 7}


def frame(rows=3000, *, seed=1, features=("tenure", "charges")):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, len(features))).astype(np.float32)
    label = (rng.random(rows) < 1 / (1 + np.exp(-2 * values[:, 0] - values[:, 1]))).astype(np.float64)
    values[rng.random(rows) < 0.05, 1] = np.nan
    at = [int((START + timedelta(minutes=row)).timestamp() * 1e6) for row in range(rows)]
    return Frame(
        keys=[f"C{row}" for row in range(rows)],
        at=np.array(at),
        features=list(features),
        rows=values,
        label=label,
        extras={"female": [str(row % 2) for row in range(rows)]},
        levels={},
    )


def write_graph(path, known, *, rounds=30, depth=3):
    matrix = xgboost.DMatrix(known.rows, known.label)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": depth, "eta": 0.2, "nthread": 1, "seed": 1}, matrix, rounds
    )
    path.write_bytes(export(booster.save_raw("json"), ExportOptions(threshold=0.5)).SerializeToString())


def report_of(folder, known, **more):
    dealt = deal(known.keys, SplitRule("s", validation=0.2, test=0.3))
    request = {
        "policy": GatePolicy().model_dump(),
        "params": PARAMS,
        "threshold": 0.5,
        "importance": {"tenure": 1.0},
        **more,
    }
    return evaluation_report(folder, request, known, dealt, lambda _share, _message: None)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path


def test_a_first_version_is_judged_alone_and_gives_the_monitor_its_reference(folder):
    known = frame()
    write_graph(folder / "model.onnx", known)
    result = report_of(folder, known)
    evaluation = Evaluation.model_validate(result["facts"])
    assert "refused" not in result
    assert evaluation.passed
    assert {gate.gate: gate.verdict for gate in evaluation.gates}["champion_challenger"] == "not_applicable"
    assert set(evaluation.metrics) >= {"train", "validation", "test", "serving"}
    reference = pq.read_table(folder / "out" / "reference.parquet")
    assert reference.column_names == ["tenure", "charges", "female", "score", "label"]
    assert reference.num_rows == evaluation.rows
    assert reference.column("charges").null_count > 0
    assert reference.column("label").type == "int8"


def test_a_champion_and_a_worse_challenger_are_judged_on_the_same_rows(folder):
    known = frame()
    write_graph(folder / "champion.onnx", known)
    write_graph(folder / "model.onnx", known, rounds=1, depth=1)
    champion = {"version": 4, "columns": ["charges", "tenure"], "threshold": 0.5}
    reversed_rows = Frame(
        known.keys, known.at, ["charges", "tenure"], known.rows[:, ::-1].copy(), known.label, known.extras, {}
    )
    write_graph(folder / "champion.onnx", reversed_rows)
    result = report_of(folder, known, champion=champion)
    assert {reason.split(" ")[0] for reason in result["refused"]} >= {"log_loss"}
    assert result["facts"]["champion"]["version"] == 4
    assert result["facts"]["champion"]["rows"] == result["facts"]["rows"]
    assert result["facts"]["champion"]["metrics"]["auc"] > result["facts"]["metrics"]["test"]["auc"]


def test_a_champion_that_reads_other_features_is_left_to_a_person(folder):
    known = frame()
    write_graph(folder / "model.onnx", known)
    champion = {"version": 4, "columns": ["tenure", "age"], "threshold": 0.5}
    result = report_of(folder, known, champion=champion)
    gates = {gate["gate"]: gate for gate in result["facts"]["gates"]}
    assert gates["champion_challenger"]["verdict"] == "review"
    assert "age" in gates["champion_challenger"]["detail"]
    assert not result["facts"]["passed"]
    assert "refused" not in result


def test_the_window_judges_where_it_holds_enough_rows():
    test = frame(500)
    after = (START + timedelta(minutes=200)).isoformat()
    rows, told = evaluation_rows(test, after, rows_min=100)
    assert (len(rows.keys), told) == (300, f"test rows since {after}")
    rows, told = evaluation_rows(test, after, rows_min=400)
    assert len(rows.keys) == 500
    assert "holds only 300, 400 are needed" in told
    assert evaluation_rows(test, None, rows_min=1)[1] == "all test rows"


def test_undecided_fairness_holds_nothing_up_unless_the_policy_says_so():
    undecided = GateResult("fairness:female", Verdict.REVIEW, "")
    assert not needs_a_person(undecided, {"parity_blocks": False})
    assert needs_a_person(undecided, {"parity_blocks": True})
    assert needs_a_person(GateResult("auc", Verdict.REVIEW, ""), {"parity_blocks": False})
    assert not needs_a_person(GateResult("auc", Verdict.PASS, ""), {"parity_blocks": True})
