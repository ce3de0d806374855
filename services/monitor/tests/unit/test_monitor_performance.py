import numpy as np
import pytest
from clave_monitor.domain.calibration import calibrate, isotonic
from clave_monitor.domain.fairness import FairnessVerdict, attribute_fairness, wilson
from clave_monitor.domain.performance import (
    Harm,
    PerformancePolicy,
    baseline,
    estimate,
)
from clave_monitor.domain.scores import LOSSES, Scored, losses, metrics
from clave_monitor.services.looks import attribute_figures


def _scored(rng, rows, *, harm=0.0, bend=1.0, mean=-1.0):
    chance = 1 / (1 + np.exp(-rng.normal(mean, 1.5, rows)))
    outcome = (rng.random(rows) < np.clip(chance + harm, 0, 1)).astype(float)
    return Scored(chance**bend, outcome)


def _harm_after(reference, scored, *, threshold=10_000.0):
    policy = PerformancePolicy(loss_tolerance=0.03)
    return Harm().add(losses(scored), reference.accepted(policy), threshold=threshold)


def test_harm_is_proven_when_the_loss_rises_beyond_the_tolerance():
    rng = np.random.default_rng(0)
    reference = baseline(_scored(rng, 1500))
    assert _harm_after(reference, _scored(rng, 600, harm=0.3)).proven(10_000.0)


def test_harm_is_not_proven_by_unchanged_outcomes():
    rng = np.random.default_rng(1)
    reference = baseline(_scored(rng, 20_000))
    assert not _harm_after(reference, _scored(rng, 20_000)).proven(10_000.0)


def test_harm_does_not_depend_on_how_labels_are_batched():
    rng = np.random.default_rng(2)
    reference = baseline(_scored(rng, 1500))
    accepted, seen = reference.accepted(PerformancePolicy()), losses(_scored(rng, 300, harm=0.1))
    whole = Harm().add(seen, accepted, threshold=1e5)
    parts = Harm()
    for start in range(0, 300, 70):
        parts = parts.add({k: v[start : start + 70] for k, v in seen.items()}, accepted, threshold=1e5)
    assert parts.levels == pytest.approx(whole.levels)
    assert parts.labels == 300


def test_false_alarms_of_harm_stay_rare_at_the_tolerance_itself():
    rng, alarms = np.random.default_rng(3), 0
    accepted = {"error": 0.2, "brier": 0.15}
    for _ in range(20):
        seen = {
            "error": (rng.random(2000) < 0.2).astype(float),
            "brier": rng.beta(1.5, 8.5, 2000),
        }
        alarms += Harm().add(seen, accepted, threshold=10_000.0).proven(10_000.0)
    assert alarms <= 4  # 40,000 labels at an average run length of at least 10,000


def test_the_estimate_of_a_calibrated_model_meets_the_realised_metrics():
    rng = np.random.default_rng(4)
    reference, current = baseline(_scored(rng, 20_000)), _scored(rng, 20_000, mean=0.5)
    guess, found = estimate(reference, current.score, PerformancePolicy()), metrics(current)
    for name in ("accuracy", "auc", "f1", "brier", "log_loss"):
        assert guess.metrics[name] == pytest.approx(found[name], abs=0.012), name


def test_an_uncalibrated_score_is_calibrated_before_the_estimate():
    rng = np.random.default_rng(5)
    reference, current = baseline(_scored(rng, 20_000, bend=3.0)), _scored(rng, 20_000, bend=3.0)
    assert not reference.calibration.identity
    guess = estimate(reference, current.score, PerformancePolicy())
    assert guess.metrics["accuracy"] == pytest.approx(metrics(current)["accuracy"], abs=0.01)
    assert guess.dropped == ()


def test_a_harder_mix_of_customers_is_an_estimated_drop():
    rng = np.random.default_rng(6)
    reference = baseline(_scored(rng, 5000, mean=-3.0))
    guess = estimate(reference, _scored(rng, 2000, mean=0.0).score, PerformancePolicy())
    assert set(guess.dropped) == set(LOSSES)


def test_no_estimate_below_the_least_number_of_rows():
    rng = np.random.default_rng(7)
    reference = baseline(_scored(rng, 500))
    assert estimate(reference, np.full(50, 0.5), PerformancePolicy()) is None
    assert estimate(reference, np.full(500, np.nan), PerformancePolicy()) is None


@pytest.mark.parametrize("outcome", [np.zeros(100), np.ones(100), np.full(100, np.nan), np.arange(100.0)])
def test_a_reference_without_two_classes_has_no_baseline(outcome):
    assert baseline(Scored(np.linspace(0, 1, 100), outcome)) is None


def test_isotonic_never_decreases_and_keeps_the_mean():
    rng = np.random.default_rng(8)
    score = rng.random(400)
    outcome = (rng.random(400) < score).astype(float)
    fitted = isotonic(score, outcome)
    assert np.all(np.diff(fitted.chances) >= 0)
    assert fitted.apply(score).mean() == pytest.approx(outcome.mean())
    assert calibrate(score[:20], outcome[:20]).identity


def test_wilson_contains_the_share_and_stays_inside_zero_and_one():
    rate = wilson(0, 10)
    assert (rate.value, rate.lower) == (0.0, 0.0)
    assert 0.2 < rate.upper < 0.35
    assert wilson(0, 0) is None


def test_parity_fails_when_the_whole_interval_lies_below_the_limit():
    predicted = np.array([1.0] * 300 + [0.0] * 700 + [1.0] * 600 + [0.0] * 400)
    groups = np.array(["a"] * 1000 + ["b"] * 1000)
    rows = Scored(predicted, np.zeros(2000))
    found = attribute_fairness("sex", groups, rows, group_rows_min=100)
    assert found.verdict is FairnessVerdict.FAIL
    assert found.parity_ratio.value == pytest.approx(0.5)
    assert found.gaps["selection_rate"] == pytest.approx(0.3)
    assert attribute_figures("sex", groups, rows)["verdict"] == "fail"


def test_small_groups_are_shown_and_not_compared():
    rows = Scored(np.array([1.0] * 50 + [0.0] * 500), np.zeros(550))
    groups = np.array(["few"] * 50 + ["many"] * 500)
    found = attribute_fairness("a", groups, rows, group_rows_min=100)
    assert [g.name for g in found.groups] == ["few", "many"]
    assert found.verdict is FairnessVerdict.NO_DATA
