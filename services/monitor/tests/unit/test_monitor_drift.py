import numpy as np
import pytest
from clave_monitor.domain.counters import SLOTS, Binning, Scope, sketch, unseen
from clave_monitor.domain.drift import DriftPolicy, DriftState, look
from clave_monitor.domain.evidence import Evidence
from clave_monitor.domain.quality import Check, QualityPolicy, violations
from clave_monitor.domain.scores import auc

NAN = float("nan")


def _features(rng, rows, *, shift=0.0, share=0.5, count=4):
    table = {f"n{i}": rng.normal(size=rows) for i in range(count)}
    table["n0"] = table["n0"] + shift
    return table | {"flag": (rng.random(rows) < share).astype(float)}


def _run(reference, windows, policy=None):
    evidence, seen, result = Evidence(), [], None
    for window in windows:
        rows = len(next(iter(window.values())))
        seen.append(reference.count(window, rows=rows))
        result = look(reference, seen, scope=Scope.INPUT, evidence=evidence, policy=policy or DriftPolicy())
        evidence = result.evidence
    return result


def test_no_drift_raises_no_alarm():
    rng = np.random.default_rng(0)
    reference = sketch(_features(rng, 1400), None)
    result = _run(reference, [_features(rng, 250) for _ in range(60)])
    assert result.state is DriftState.STABLE


def test_a_large_shift_is_gated_within_few_windows_and_named():
    rng = np.random.default_rng(1)
    reference = sketch(_features(rng, 1400), None)
    result = _run(reference, [_features(rng, 250, shift=1.0, share=0.9) for _ in range(3)])
    assert result.gated
    assert set(result.named) == {"n0", "flag"}


def test_a_trivial_shift_is_watched_and_never_gated():
    rng = np.random.default_rng(2)
    reference = sketch({"x": rng.normal(size=200_000)}, None)
    result = _run(reference, [{"x": rng.normal(loc=0.05, size=100_000)} for _ in range(3)])
    assert result.state is DriftState.WATCH


def test_the_latch_holds_after_the_traffic_came_back():
    rng = np.random.default_rng(3)
    reference = sketch(_features(rng, 1400), None)
    windows = [_features(rng, 250, shift=1.5) for _ in range(3)] + [_features(rng, 250) for _ in range(5)]
    assert _run(reference, windows).evidence.fired(1000.0)


@pytest.mark.parametrize("window", [{"x": np.zeros(0)}, {"x": np.full(50, NAN)}, {}, {"x": np.full(50, np.inf)}])
def test_a_window_without_finite_values_is_no_data(window):
    rng = np.random.default_rng(4)
    reference = sketch({"x": rng.normal(size=500)}, None)
    counts = reference.count(window, rows=len(window.get("x", np.zeros(50))))
    result = look(reference, [counts], scope=Scope.INPUT, evidence=Evidence(), policy=DriftPolicy())
    assert result.state is DriftState.NO_DATA
    assert result.columns[0].distance is None


@pytest.mark.parametrize("values", [np.full(300, 2.0), np.zeros(0), np.full(20, NAN), np.array([1.0])])
def test_odd_references_are_ordinary(values):
    reference = sketch({"x": values}, values)
    counts = reference.count({"x": np.array([1.0, 2.0, NAN]), "score": np.array([1.0, 2.0, NAN])}, rows=3)
    assert counts.shape == (2, SLOTS)
    for scope in Scope:
        look(reference, [counts], scope=scope, evidence=Evidence(), policy=DriftPolicy())


def test_a_constant_that_changes_is_seen():
    reference = sketch({"x": np.full(1000, 2.0)}, None)
    result = _run(reference, [{"x": np.full(250, 2.5)}])
    assert result.gated
    assert unseen(reference.count({"x": np.full(250, 2.5)}, rows=250)[0], reference.columns[0]) == 250


def test_counters_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(5)
    reference = sketch({"x": rng.normal(size=900), "k": rng.integers(0, 5, 900).astype(float)}, None)
    x, k = rng.normal(size=400), rng.integers(0, 7, 400).astype(float)
    x[:20] = [NAN, np.inf, -np.inf, 1e9] * 5
    whole = reference.count({"x": x, "k": k}, rows=400)
    parts = [reference.count({"x": x[i : i + 100], "k": k[i : i + 100]}, rows=100) for i in range(0, 400, 100)]
    np.testing.assert_array_equal(whole, sum(parts))
    assert whole.sum() == 800


def test_binning_follows_the_reference():
    rng = np.random.default_rng(6)
    columns = sketch(
        {
            "levels": rng.integers(0, 3, 500).astype(float),
            "ties": np.round(rng.normal(size=500), 1),
            "real": rng.normal(size=500),
        },
        None,
    ).columns
    assert [c.binning for c in columns] == [Binning.LEVELS, Binning.TIED_QUANTILES, Binning.QUANTILES]


def test_missing_values_are_data_quality_and_not_drift():
    rng = np.random.default_rng(7)
    reference = sketch({"x": rng.normal(size=1000)}, None)
    x = rng.normal(size=250)
    x[:60] = NAN
    counts = reference.count({"x": x}, rows=250)
    found = violations(reference, counts, QualityPolicy())
    assert [(v.column, v.check) for v in found] == [("x", Check.MISSING)]
    assert _run(reference, [{"x": x}]).state is DriftState.STABLE


def test_an_unseen_level_is_a_violation():
    reference = sketch({"k": np.array([0.0, 1.0] * 500)}, None)
    counts = reference.count({"k": np.array([0.0] * 100 + [1.0] * 100 + [7.0] * 50)}, rows=250)
    assert [v.check for v in violations(reference, counts, QualityPolicy())] == [Check.UNSEEN]


def test_false_alarms_stay_rare_at_the_scale_of_a_small_model():
    """17 features, a reference of 1,400 rows, windows of 250: evidence at most once in 500 windows here."""
    rng, alarms = np.random.default_rng(8), 0
    for _ in range(5):
        reference = sketch(
            _features(rng, 1400, count=8) | {f"b{i}": (rng.random(1400) < 0.1 * (i + 1)) * 1.0 for i in range(8)}, None
        )
        evidence = Evidence()
        for _ in range(100):
            window = _features(rng, 250, count=8) | {f"b{i}": (rng.random(250) < 0.1 * (i + 1)) * 1.0 for i in range(8)}
            result = look(
                reference,
                [reference.count(window, rows=250)],
                scope=Scope.INPUT,
                evidence=evidence,
                policy=DriftPolicy(horizons=(1,)),
            )
            evidence = Evidence(result.evidence.level)
            alarms += result.evidence.fired(1000.0)
            assert not result.gated
    assert alarms <= 1


def test_auc_needs_both_classes():
    assert auc(np.array([0.1, 0.9]), np.array([1.0, 1.0])) is None
    assert auc(np.array([0.1, 0.9, 0.9]), np.array([0.0, 1.0, 0.0])) == pytest.approx(0.75)
