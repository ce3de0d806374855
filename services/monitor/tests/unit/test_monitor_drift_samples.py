"""The monitor's statistics against what scipy and others answer on stored samples (`drift_samples/`).

Another pair of files of the same format is judged with ``CLAVE_DRIFT_SAMPLES=<folder>``.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from clave_monitor.domain.canary import score_distance
from clave_monitor.domain.counters import LEVELS_MAX, Scope, finite_bins, missing, sketch
from clave_monitor.domain.drift import DriftPolicy, DriftState, look
from clave_monitor.domain.evidence import (
    Evidence,
    binned_distance,
    levels_p_value,
    population_stability_index,
    rate_p_value,
)

FOLDER = Path(os.environ.get("CLAVE_DRIFT_SAMPLES", Path(__file__).parent / "drift_samples"))
PAIRS = {pair["id"]: pair for pair in json.loads((FOLDER / "drift_reference.json").read_text())["pairs"]}
NUMERIC = [name for name, pair in PAIRS.items() if pair["kind"] == "numeric"]
CATEGORICAL = [name for name, pair in PAIRS.items() if pair["kind"] == "categorical"]


@pytest.fixture(scope="module")
def samples():
    return np.load(FOLDER / "ref_data.npz")


def columns(samples, name):
    """Give both samples as floats; levels become their place among all levels, missing ones NaN."""
    reference, current = samples[f"{name}__ref"], samples[f"{name}__cur"]
    if reference.dtype.kind == "f":
        return reference, current
    levels = [level for level in np.unique(np.concatenate([reference, current])) if level not in ("__NULL__", "nan")]
    codes = {level: float(place) for place, level in enumerate(levels)}
    return tuple(np.array([codes.get(value, np.nan) for value in sample]) for sample in (reference, current))


def counted(samples, name):
    reference, current = columns(samples, name)
    known = sketch({"x": reference}, None)
    return known, known.count({"x": current}, rows=len(current))


@pytest.mark.parametrize("name", list(PAIRS))
def test_every_pair_is_judged_without_an_error(samples, name):
    reference, window = counted(samples, name)
    found = look(reference, [window], scope=Scope.INPUT, evidence=Evidence(), policy=DriftPolicy())
    if "all_nan" in name:
        assert found.state is DriftState.NO_DATA
    if "null" in PAIRS[name]["tags"]:
        assert found.state is DriftState.STABLE


@pytest.mark.parametrize("name", NUMERIC)
def test_distances_agree_with_scipy(samples, name):
    expected = PAIRS[name]["stats"].get("ks_stat")
    if expected is None:
        return
    reference, current = (sample[np.isfinite(sample)] for sample in columns(samples, name))
    assert score_distance(reference, current) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    known, window = counted(samples, name)
    binned = binned_distance(finite_bins(known.counts[0]), finite_bins(window[0]))
    exact = len(np.unique(reference)) <= LEVELS_MAX
    assert binned <= expected + 1e-12
    assert binned == pytest.approx(expected, abs=1e-12 if exact else 2 / 64 + 0.02)


@pytest.mark.parametrize("name", NUMERIC)
def test_psi_is_close_to_that_of_ten_quantile_bins(samples, name):
    expected = PAIRS[name]["stats"].get("q10_psi_eps1e-4")
    if expected is None or len(samples[f"{name}__ref"]) < 1000 or "ties" in PAIRS[name]["tags"]:
        return
    known, window = counted(samples, name)
    found = population_stability_index(finite_bins(known.counts[0]), finite_bins(window[0]))
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", list(PAIRS))
def test_null_rates_agree_with_scipy(samples, name):
    expected = PAIRS[name]["stats"].get("null_rate_chi2")
    if expected is None:
        return
    known, window = counted(samples, name)
    found = rate_p_value(
        reference=int(missing(known.counts[0])),
        reference_rows=known.rows,
        current=int(missing(window[0])),
        current_rows=int(window[0].sum()),
    )
    assert found == pytest.approx(expected[1], rel=1e-6, abs=1e-300)


@pytest.mark.parametrize("name", CATEGORICAL)
def test_levels_agree_with_scipy_where_none_is_rare_or_missing(samples, name):
    stats, tags = PAIRS[name]["stats"], PAIRS[name]["tags"]
    known, window = counted(samples, name)
    found = levels_p_value(finite_bins(known.counts[0]), finite_bins(window[0]))
    expected = stats["chi2_2sample"][1]
    if "unseen" in tags:
        assert found < 1e-6
    elif "binary" in tags:
        assert expected <= found <= 2 * expected  # Yates' correction
    elif "nan" not in tags and "high_cardinality" not in tags:
        assert found == pytest.approx(expected, rel=1e-6)
