"""The report of an evaluation: which rows judge, what needs a person, what the registry gets."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
import xgboost
from clave_contracts.registry import Evaluation
from clave_contracts.trainer import GatePolicy
from clave_trainer.domain.fairness import Verdict
from clave_trainer.domain.gates import GateResult
from clave_trainer.domain.intersections import GROUPS_MAX, PAIRS_MAX, crossings, family_confidence
from clave_trainer.domain.split import SplitRule, deal
from clave_trainer.runtime.fairness_report import fairness_report
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


def with_senior(known):
    senior = [str(int(row % 5 == 0)) for row in range(len(known.keys))]
    rare = ["rare" if row % 100 == 3 else "usual" for row in range(len(known.keys))]
    extras = {"female": known.extras["female"], "senior": senior, "rare": rare}
    return replace(known, extras=extras)


def test_pairs_of_protected_attributes_are_judged_with_intervals_and_reach_the_card(folder):
    known = with_senior(frame())
    write_graph(folder / "model.onnx", known)
    result = report_of(folder, known)
    evaluation = Evaluation.model_validate(result["facts"])
    gates = {gate.gate: gate for gate in evaluation.gates}
    pair = gates["fairness:female x senior"]
    assert pair.low < pair.estimate < pair.high
    assert 0 < pair.n < evaluation.rows
    assert "hold together over" in pair.detail
    assert "too small and left out: 1" in gates["fairness:female x rare"].detail
    crossed = [one for one in evaluation.slices if "groups" in one]
    levels = {tuple(one["groups"].items()) for one in crossed}
    assert {(("female", a), ("senior", b)) for a in "01" for b in "01"} <= levels
    assert sum(one["rows"] for one in crossed if set(one["groups"]) == {"female", "senior"}) == evaluation.rows
    assert set(evaluation.fairness) == {
        "female", "senior", "rare", "female x senior", "female x rare", "senior x rare"
    }  # fmt: skip


def test_a_model_that_is_fair_to_each_attribute_and_not_where_they_meet_is_told_so():
    female, senior = np.tile([0, 0, 1, 1], 500), np.tile([0, 1, 0, 1], 500)
    odd = female ^ senior
    selected = (np.arange(2000) // 4 % 10 < np.where(odd == 1, 8, 3)).astype(bool)
    extras = {"female": [str(v) for v in female], "senior": [str(v) for v in senior]}
    known = Frame([], np.arange(2000), [], np.zeros((2000, 0), np.float32), selected.astype(float), extras, {})
    found = fairness_report(GatePolicy(parity_blocks=True).model_dump(), known, selected)
    assert [(gate.gate, str(gate.verdict)) for gate in found.gates] == [
        ("fairness:female", "pass"),
        ("fairness:senior", "pass"),
        ("fairness:female x senior", "fail"),
    ]
    (_, _, gate) = fairness_report(GatePolicy().model_dump(), known, selected).gates
    assert gate.verdict is Verdict.REVIEW


def test_attributes_with_many_levels_stay_bounded():
    rng = np.random.default_rng(3)
    extras = {f"a{n}": [str(v) for v in rng.integers(0, 30, 5000)] for n in range(7)}
    chosen = rng.random(5000) < 0.4
    found = crossings(extras, chosen, chosen, rows_min=1)
    assert [len(each.figures) for each in found] == [GROUPS_MAX] * PAIRS_MAX
    assert all(each.figures[0].rows >= each.figures[-1].rows for each in found)
    assert family_confidence(found) == pytest.approx(1 - 0.05 / (PAIRS_MAX * (GROUPS_MAX - 1)))
    assert crossings({"a": ["x"] * 3}, chosen[:3], chosen[:3], rows_min=1) == []


@pytest.mark.parametrize(
    ("gaps", "metric", "limit"),
    [
        ({}, "statistical_parity_ratio", 0.8),
        ({"senior": 0.3}, "true_positive_rate_gap", 0.3),
        ({"senior": 0.3, "female": 0.2}, "true_positive_rate_gap", 0.2),
        ({"senior": 0.3, "female x senior": 0.4}, "true_positive_rate_gap", 0.4),
    ],
)
def test_a_pair_is_judged_as_its_attributes_are(gaps, metric, limit):
    known = with_senior(frame(600))
    policy = GatePolicy(true_positive_rate_gap_max=gaps).model_dump()
    found = fairness_report(policy, known, known.outcomes).figures["female x senior"]
    assert (found["judged_by"], found["limit"]) == (metric, limit)
