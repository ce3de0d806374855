import numpy as np
from clave_monitor.domain.canary import Arm, CanaryPolicy, Verdict, analyse

NONE = np.zeros(0)


def _arm(rng, requests, *, errors=0, slower=1.0, loss=None, broken=0):
    return Arm(
        requests=requests,
        errors=errors,
        latency_ms=rng.lognormal(1.0, 0.5, requests - errors) * slower,
        scores=rng.random(requests - errors),
        broken_scores=broken,
        losses=NONE if loss is None else (rng.random(requests) < loss).astype(float),
    )


def test_an_equal_challenger_passes():
    rng = np.random.default_rng(0)
    found = analyse(_arm(rng, 900, errors=9), _arm(rng, 100, errors=1), CanaryPolicy())
    assert found.verdict is Verdict.PASS


def test_a_challenger_that_always_fails_is_stopped_after_few_requests():
    rng = np.random.default_rng(1)
    found = analyse(_arm(rng, 90), _arm(rng, 10, errors=10), CanaryPolicy())
    assert found.verdict is Verdict.FAIL


def test_one_early_error_proves_nothing():
    rng = np.random.default_rng(2)
    found = analyse(_arm(rng, 45), _arm(rng, 5, errors=1), CanaryPolicy())
    assert found.verdict is Verdict.INCONCLUSIVE


def test_a_slower_challenger_fails_only_when_the_difference_matters():
    rng = np.random.default_rng(3)
    champion = _arm(rng, 2000)
    assert analyse(champion, _arm(rng, 500, slower=3.0), CanaryPolicy()).verdict is Verdict.FAIL
    assert analyse(champion, _arm(rng, 500, slower=1.2), CanaryPolicy()).verdict is Verdict.PASS


def test_worse_outcomes_and_broken_scores_fail():
    rng = np.random.default_rng(4)
    worse = analyse(_arm(rng, 900, loss=0.2), _arm(rng, 300, loss=0.45), CanaryPolicy())
    assert worse.verdict is Verdict.FAIL
    assert worse.reasons[0].startswith("loss")
    broken = analyse(_arm(rng, 900), _arm(rng, 100, broken=80), CanaryPolicy())
    assert broken.reasons[0].startswith("broken_scores")


def test_labels_may_be_demanded():
    rng = np.random.default_rng(5)
    found = analyse(_arm(rng, 900, loss=0.2), _arm(rng, 100, loss=None), CanaryPolicy(labels_min=30))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("challenger has 0 of 30 labels",)


def test_no_traffic_at_all_is_inconclusive():
    empty = Arm(0, 0, NONE, NONE, 0, NONE)
    assert analyse(empty, empty, CanaryPolicy()).verdict is Verdict.INCONCLUSIVE


def test_looking_often_rolls_back_few_healthy_canaries():
    """20 looks at 1 % errors, 10 % of the traffic: at most 5 % of the rollouts may fail."""
    rng, failed, rollouts = np.random.default_rng(6), 0, 200
    policy = CanaryPolicy()
    for _ in range(rollouts):
        old = rng.binomial(450, 0.01, 20).cumsum()
        new = rng.binomial(50, 0.01, 20).cumsum()
        failed += any(
            analyse(
                Arm(450 * (i + 1), int(old[i]), NONE, NONE, 0, NONE),
                Arm(50 * (i + 1), int(new[i]), NONE, NONE, 0, NONE),
                policy,
            ).verdict
            is Verdict.FAIL
            for i in range(20)
        )
    assert failed <= rollouts * policy.alpha


def test_a_tenfold_error_rate_is_found_soon():
    rng = np.random.default_rng(7)
    found = analyse(_arm(rng, 2700, errors=27), _arm(rng, 300, errors=30), CanaryPolicy())
    assert found.verdict is Verdict.FAIL
