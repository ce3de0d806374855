"""Intervals, AUC, probability scores and gates against brute force and short simulations."""

import numpy as np
import pytest
from clave_trainer.domain import gates
from clave_trainer.domain.discrimination import TooFewOutcomes, auc_interval, compare_auc, midranks, place
from clave_trainer.domain.fairness import (
    FairnessMetric,
    FairnessRule,
    Verdict,
    compare_groups,
    group_figures,
    ratio_verdict,
)
from clave_trainer.domain.gates import ChallengerRule, Direction, Limit, PrimaryMetric
from clave_trainer.domain.intervals import Interval, difference_of_rates, ratio_of_rates, upper_tail, wilson
from clave_trainer.domain.probability import (
    ThresholdRule,
    choose_threshold,
    compare_terms,
    confusion,
    expected_calibration_error,
    log_losses,
)
from hypothesis import given
from hypothesis import strategies as st

RULE = ChallengerRule(rows_min=50)


def sample(n, rng, *, gain=1.0, base=0.2, rho=0.9):
    y = rng.random(n) < base
    common, rest = rho * rng.standard_normal(n), np.sqrt(1 - rho**2)
    champion = y + common + rest * rng.standard_normal(n)
    challenger = y * gain + common + rest * rng.standard_normal(n)
    return y, champion, challenger


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_midranks_are_the_mean_rank_of_ties(values):
    array = np.array(values, dtype=np.float64)
    wanted = [(array < v).sum() + ((array == v).sum() + 1) / 2 for v in array]
    assert midranks(array).tolist() == wanted


def test_auc_equals_the_share_of_ordered_pairs():
    rng = np.random.default_rng(1)
    y, scores, _ = sample(300, rng)
    scores = scores.round(1)
    positive, negative = scores[y][:, None], scores[~y][None, :]
    pairs = ((positive > negative) + 0.5 * (positive == negative)).mean()
    assert place(y, scores).auc == pytest.approx(pairs)
    assert auc_interval(y, scores).lower < pairs < auc_interval(y, scores).upper


def test_auc_refuses_rows_of_one_outcome():
    with pytest.raises(TooFewOutcomes):
        place(np.ones(5, dtype=bool), np.arange(5.0))


def test_the_standard_error_of_a_paired_difference_agrees_with_the_bootstrap():
    rng = np.random.default_rng(2)
    y, champion, challenger = sample(2000, rng, gain=1.1)
    shown = compare_auc(y, champion=champion, challenger=challenger)
    draws = []
    for _ in range(150):
        rows = rng.integers(0, 2000, 2000)
        draws.append(place(y[rows], challenger[rows]).auc - place(y[rows], champion[rows]).auc)
    assert shown.standard_error == pytest.approx(float(np.std(draws)), rel=0.2)


def test_an_equal_challenger_is_seldom_better_and_never_by_identity():
    rng = np.random.default_rng(3)
    wins = sum(
        compare_auc(y, champion=a, challenger=b).p_better < 0.05 for y, a, b in (sample(600, rng) for _ in range(200))
    )
    assert wins / 200 < 0.1
    y, a, _ = sample(600, rng)
    assert compare_auc(y, champion=a, challenger=a).p_better == 0.5


def compared(n, rng, *, gain):
    """Two probability forecasts; a higher gain knows more of the truth."""
    truth = rng.standard_normal(n)
    y = rng.random(n) < 1 / (1 + np.exp(-1.5 * truth))
    champion = 1 / (1 + np.exp(-1.0 * truth + rng.normal(0, 0.5, n)))
    challenger = 1 / (1 + np.exp(-gain * truth + rng.normal(0, 0.5 if gain == 1.0 else 0.1, n)))
    loss = compare_terms(champion=log_losses(y, champion), challenger=log_losses(y, challenger))
    return loss, compare_auc(y, champion=champion, challenger=challenger)


def verdicts(rule, loss, auc):
    return {each.gate: each.verdict for each in gates.challenger_gate(rule, primary=loss, auc=auc)}


def test_a_better_challenger_passes_and_a_worse_one_fails():
    rng = np.random.default_rng(4)
    assert verdicts(RULE, *compared(2000, rng, gain=1.5)) == {
        "champion_challenger": Verdict.PASS,
        "non_inferiority": Verdict.PASS,
    }
    assert verdicts(RULE, *compared(2000, rng, gain=-0.5)) == {
        "champion_challenger": Verdict.FAIL,
        "non_inferiority": Verdict.FAIL,
    }


def test_promotion_is_refused_on_too_few_rows_and_below_the_margin():
    rng = np.random.default_rng(5)
    loss, auc = compared(2000, rng, gain=1.5)
    few = verdicts(ChallengerRule(rows_min=5000), loss, auc)
    assert few["champion_challenger"] is Verdict.FAIL
    wide = verdicts(ChallengerRule(improvement_min=0.5, rows_min=50), loss, auc)
    assert wide["champion_challenger"] is Verdict.FAIL
    by_auc = gates.challenger_gate(ChallengerRule(primary=PrimaryMetric.AUC, rows_min=50), primary=auc, auc=auc)
    assert by_auc[0].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(0.85, 0.8, 0.9), Verdict.PASS),
        (Interval(0.71, 0.6, 0.8), Verdict.PASS),
        (Interval(0.69, 0.6, 0.78), Verdict.REVIEW),
        (Interval(0.6, 0.5, 0.69), Verdict.FAIL),
    ],
)
def test_a_limit_is_judged_on_the_interval(interval, verdict):
    limit = Limit("auc", Direction.AT_LEAST, 0.7)
    assert gates.limit_gate("auc", limit, interval, rows=100).verdict is verdict
    mirrored = Interval(-interval.estimate, -interval.upper, -interval.lower)
    below = Limit("loss", Direction.AT_MOST, -0.7)
    assert gates.limit_gate("loss", below, mirrored, rows=100).verdict is verdict


def test_intervals_of_rates_agree_with_published_examples():
    # Newcombe (1998), table II: 56/70 and 48/80, method 10: .0524 to .3339; 9/10 and 3/10: .1705 to .8090.
    first = difference_of_rates(56, 70, 48, 80)
    assert (first.lower, first.upper) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    second = difference_of_rates(9, 10, 3, 10)
    assert (second.lower, second.upper) == pytest.approx((0.1705, 0.8090), abs=1e-4)
    assert wilson(0, 10).lower == pytest.approx(0.0, abs=1e-12)
    assert upper_tail(1.6448536269514722) == pytest.approx(0.05)


def test_the_interval_of_a_ratio_covers_its_truth():
    rng = np.random.default_rng(6)
    inside = 0
    for _ in range(1000):
        shown = ratio_of_rates(int(rng.binomial(300, 0.46)), 300, int(rng.binomial(300, 0.5)), 300)
        inside += shown.lower <= 0.92 <= shown.upper
    assert 0.93 < inside / 1000 < 0.98
    assert 0 < ratio_of_rates(0, 30, 10, 30).lower < ratio_of_rates(0, 30, 10, 30).upper < 1


def judged(selected_a, selected_b, *, rows=500, minimum=50):
    values = ["a"] * rows + ["b"] * rows
    selected = np.r_[np.arange(rows) < selected_a * rows, np.arange(rows) < selected_b * rows]
    outcomes = np.r_[np.arange(rows) < rows * 0.5, np.arange(rows) < rows * 0.5]
    figures = group_figures(values, outcomes, selected)
    rule = FairnessRule("sex", FairnessMetric.PARITY_RATIO, 0.8, minimum)
    shown = compare_groups(figures, rule.metric, limit=rule.limit, group_rows_min=minimum)
    return gates.fairness_gate(rule, shown)


def test_the_four_fifths_rule_fails_passes_or_asks_for_review_by_its_interval():
    assert judged(0.3, 0.6).verdict is Verdict.FAIL
    assert judged(0.6, 0.3).verdict is Verdict.FAIL
    assert judged(0.6, 0.61).verdict is Verdict.PASS
    assert judged(0.5, 0.6).verdict is Verdict.REVIEW
    assert judged(0.6, 0.61, rows=40).verdict is Verdict.REVIEW
    assert ratio_verdict(Interval(0.33, 0.305, 0.367), 0.8) is Verdict.FAIL


def test_gaps_of_true_positive_rates_are_judged_on_both_sides():
    values = ["a"] * 400 + ["b"] * 400
    outcomes = np.ones(800, dtype=bool)
    selected = np.r_[np.arange(400) < 360, np.arange(400) < 200]
    figures = group_figures(values, outcomes, selected)
    (shown,) = compare_groups(figures, FairnessMetric.TPR_GAP, limit=0.2, group_rows_min=50)
    assert shown.verdict is Verdict.FAIL
    (wide,) = compare_groups(figures, FairnessMetric.TPR_GAP, limit=0.6, group_rows_min=50)
    assert wide.verdict is Verdict.PASS
    (empty,) = compare_groups(figures, FairnessMetric.FPR_GAP, limit=0.2, group_rows_min=50)
    assert empty.verdict is Verdict.REVIEW


def test_the_threshold_serves_its_rule():
    rng = np.random.default_rng(7)
    scores = rng.random(4000)
    outcomes = rng.random(4000) < scores
    assert choose_threshold(outcomes, scores, rule=ThresholdRule.FIXED, fixed=0.37) == pytest.approx(0.37, abs=1e-6)
    cheap = choose_threshold(outcomes, scores, rule=ThresholdRule.COST, false_negative_cost=1)
    dear = choose_threshold(outcomes, scores, rule=ThresholdRule.COST, false_negative_cost=9)
    assert cheap == pytest.approx(0.5, abs=0.08)
    assert dear == pytest.approx(0.1, abs=0.06)
    best = choose_threshold(outcomes, scores, rule=ThresholdRule.F1)
    assert confusion(outcomes, scores, best).f1 >= confusion(outcomes, scores, 0.5).f1
    assert 0.4 < choose_threshold(outcomes, scores, rule=ThresholdRule.YOUDEN) < 0.6


def test_honest_scores_are_calibrated_and_boasting_ones_are_not():
    rng = np.random.default_rng(8)
    scores = rng.random(5000)
    outcomes = rng.random(5000) < scores
    assert expected_calibration_error(outcomes, scores) < 0.03
    assert expected_calibration_error(outcomes, scores**3) > 0.15
