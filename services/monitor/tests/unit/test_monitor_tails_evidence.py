import math

import numpy as np
import pytest
from clave_monitor.domain.evidence import (
    Evidence,
    benjamini_hochberg,
    binned_distance,
    distance_p_value,
    e_value,
    effect_radius,
    levels_p_value,
    population_stability_index,
    rate_p_value,
)
from clave_monitor.domain.tails import chi_square_tail, kolmogorov_tail
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import kolmogorov
from scipy.stats import chi2, chi2_contingency


def test_kolmogorov_tail_agrees_with_scipy():
    x = np.concatenate([np.linspace(0.0, 6.0, 601), [10.0, 18.0]])
    np.testing.assert_allclose(kolmogorov_tail(x), kolmogorov(x), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 63])
def test_chi_square_tail_agrees_with_scipy(degrees):
    for x in (1e-6, 0.3, 1.0, 5.0, 40.0, 400.0):
        assert chi_square_tail(x, degrees) == pytest.approx(chi2.sf(x, degrees), rel=1e-9)


@pytest.mark.parametrize(
    ("p", "e"), [(1.0, 0.5), (0.5, 0.6387), (0.05, 1.783), (0.01, 4.451), (0.001, 20.79), (1e-6, 5239.0)]
)
def test_e_value_has_its_published_values(p, e):
    assert e_value(p) == pytest.approx(e, rel=1e-3)


def test_e_value_has_expectation_one_under_a_uniform_p():
    grid = (np.arange(200_000) + 0.5) / 200_000
    assert np.mean([e_value(float(p)) for p in grid]) == pytest.approx(1.0, abs=0.08)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20), st.lists(st.integers(0, 50), min_size=20, max_size=20))
def test_distance_and_psi_stay_in_their_ranges(reference, current):
    a, b = np.array(reference), np.array(current[: len(reference)])
    if a.sum() and b.sum():
        assert 0.0 <= binned_distance(a, b) <= 1.0
        assert population_stability_index(a, b) >= 0.0
        assert 0.0 <= levels_p_value(a, b) <= 1.0


def test_rate_p_value_is_the_uncorrected_chi_square():
    expected = chi2_contingency([[30, 970], [25, 275]], correction=False).pvalue
    assert rate_p_value(reference=30, reference_rows=1000, current=25, current_rows=300) == pytest.approx(
        expected, rel=1e-9
    )


def test_levels_p_value_is_the_chi_square_of_common_levels():
    reference, current = np.array([400, 300, 300]), np.array([120, 100, 80])
    expected = chi2_contingency([reference, current], correction=False).pvalue
    assert levels_p_value(reference, current) == pytest.approx(expected, rel=1e-9)


def test_levels_that_never_occur_say_nothing():
    assert levels_p_value(np.array([100, 0, 0]), np.array([30, 0, 0])) == 1.0


def test_evidence_latches_what_crossed_and_starts_again():
    state = Evidence().add(5000.0, threshold=1000.0)
    assert state.fired(1000.0)
    assert state.level == 0.0
    assert state.add(0.5, threshold=1000.0).latched == 5000.0


def test_p_value_uses_stephens_correction():
    root = math.sqrt(200 * 1000 / 1200)
    expected = kolmogorov((root + 0.12 + 0.11 / root) * 0.1)
    assert distance_p_value(0.1, current_rows=200, reference_rows=1000) == pytest.approx(expected, rel=1e-9)


def test_known_thresholds_sharpen_the_effect_bound_of_small_samples():
    sizes = {"current_rows": 250, "reference_rows": 1400, "alpha": 1e-5}
    assert effect_radius(**sizes, thresholds=63) < 0.9 * effect_radius(**sizes, thresholds=None)


@pytest.mark.parametrize("thresholds", [63, None])
def test_effect_bound_is_rarely_above_the_true_distance(thresholds):
    rng, alpha, above = np.random.default_rng(3), 0.05, 0
    for _ in range(400):
        reference = np.sort(rng.random(300))
        edges = reference[np.arange(1, 64) * 300 // 64]
        current = rng.random(200)
        counts = [np.bincount(np.searchsorted(edges, x, side="right"), minlength=64) for x in (reference, current)]
        radius = effect_radius(current_rows=200, reference_rows=300, alpha=alpha, thresholds=thresholds)
        above += binned_distance(*counts) > radius
    assert above <= 400 * alpha


def test_benjamini_hochberg_rejects_up_to_the_last_one_that_passes():
    assert benjamini_hochberg(np.array([0.2, 0.001, 0.03, 0.9]), 0.05) == [1]
    assert benjamini_hochberg(np.array([0.02, 0.001, 0.03, 0.9]), 0.05) == [1, 0, 2]
    assert benjamini_hochberg(np.array([]), 0.05) == []
