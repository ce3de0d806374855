"""Canary analysis: champion against challenger on live traffic, sound however often it is read.

Rules:
* Every guardrail is a mixture sequential probability ratio test of "the challenger is no worse": its evidence may
  be read after each request, the false-rollback rate over the whole rollout stays below `alpha`, which the
  guardrails share.
* `fail`: the evidence of one guardrail passed its limit in the bad direction. A latency must also be
  relevantly slower (median ratio), because any difference becomes provable in time.
* `pass`: no guardrail failed and both arms have the rows asked for. It is the absence of proven harm, not a
  proof of equality: the upper ends of the differences are reported for people.
* `inconclusive`: too few rows yet; the reason says how many are missing.
* A different score distribution is shown and never fails a challenger: it was trained to differ.

Sources: Robbins (1970), Ann. Math. Stat. 41, 1397-1409; Johari, Pekelis, Walsh, arXiv 1512.04922; Mann, Whitney
(1947), Ann. Math. Stat. 18, 50-60.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from clave_monitor.domain.scores import midranks

Floats = NDArray[np.float64]

_EFFECTS = (0.01, 0.03, 0.1, 0.3)
"""Sizes of difference the mixture looks for; averaging over them keeps the guarantee."""

_EXPONENT_MAX = 600.0
_ROWS_MIN = 2


class Verdict(StrEnum):
    """What the analysis says about the challenger."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class CanaryPolicy:
    """What a challenger has to stand.

    Attributes:
        rows_min: Requests each arm must have answered before a pass.
        labels_min: Labels each arm must have before a pass; 0 when outcomes come too late for a rollout.
        alpha: False-rollback rate over the whole rollout, all guardrails together, in (0, 1).
        latency_ratio_max: Median latency of the challenger over the champion's that is accepted.
    """

    rows_min: int = 50
    labels_min: int = 0
    alpha: float = 0.05
    latency_ratio_max: float = 1.5


@dataclass(frozen=True)
class Arm:
    """What one version did since the rollout step began.

    Attributes:
        requests: Answered requests, failed ones included.
        errors: Failed ones.
        latency_ms: Latencies of successful requests, milliseconds, shape (n,).
        scores: Finite scores, shape (rows,).
        broken_scores: Rows whose score was missing or not finite.
        losses: Loss per labelled row, shape (labels,), in [0, 1].
    """

    requests: int
    errors: int
    latency_ms: Floats
    scores: Floats
    broken_scores: int
    losses: Floats


@dataclass(frozen=True)
class Guardrail:
    """One comparison.

    Attributes:
        champion: The champion's figure, None without data.
        challenger: The challenger's figure, None without data.
        evidence: Mixture likelihood ratio of "worse" over "no worse", at least 0.
        limit: Evidence at which the guardrail fails.
        rows: Rows of each arm (champion, challenger).
        failed: The challenger is proven to be worse.
    """

    name: str
    champion: float | None
    challenger: float | None
    evidence: float
    limit: float
    rows: tuple[int, int]
    failed: bool


@dataclass(frozen=True)
class Analysis:
    """The verdict with everything it stands on.

    Attributes:
        score_distance: KS distance between the arms' scores, in [0, 1]; for information.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    guardrails: tuple[Guardrail, ...]
    score_distance: float | None


def analyse(champion: Arm, challenger: Arm, policy: CanaryPolicy) -> Analysis:
    """Judge a challenger by what both arms did.

    Args:
        champion: The live version's arm.
        challenger: The canary's arm.
        policy: What the challenger has to stand.
    """
    guardrails = _guardrails(champion, challenger, policy)
    distance = score_distance(champion.scores, challenger.scores)
    failures = tuple(_failure(guardrail) for guardrail in guardrails if guardrail.failed)
    if failures:
        return Analysis(Verdict.FAIL, failures, guardrails, distance)
    missing = _missing_rows(champion, challenger, policy)
    if missing:
        return Analysis(Verdict.INCONCLUSIVE, missing, guardrails, distance)
    reason = f"no guardrail failed on {champion.requests} and {challenger.requests} requests"
    return Analysis(Verdict.PASS, (reason,), guardrails, distance)


def _guardrails(champion: Arm, challenger: Arm, policy: CanaryPolicy) -> tuple[Guardrail, ...]:
    limit = 4 / (2 * policy.alpha)  # four guardrails share alpha; one-sided, so each ratio is held to half of it
    return (
        _rate("error_rate", (champion.errors, champion.requests), (challenger.errors, challenger.requests), limit),
        _rate("broken_scores", _broken(champion), _broken(challenger), limit),
        _mean("loss", champion.losses, challenger.losses, limit),
        _slower(champion.latency_ms, challenger.latency_ms, limit, ratio_max=policy.latency_ratio_max),
    )


def _broken(arm: Arm) -> tuple[int, int]:
    return arm.broken_scores, arm.broken_scores + len(arm.scores)


def mixture_ratio(difference: float, variance: float) -> float:
    """Return the evidence that a mean difference is not 0, averaged over the effect sizes looked for.

    Args:
        difference: Observed difference, approximately normal around the true one.
        variance: Its variance, above 0.
    """
    total = 0.0
    for effect in _EFFECTS:
        spread = effect**2
        exponent = difference**2 * spread / (2 * variance * (variance + spread))
        total += math.sqrt(variance / (variance + spread)) * math.exp(min(exponent, _EXPONENT_MAX))
    return total / len(_EFFECTS)


def _rate(name: str, champion: tuple[int, int], challenger: tuple[int, int], limit: float) -> Guardrail:
    (a, n), (b, m) = champion, challenger
    if n == 0 or m == 0:
        return Guardrail(name, a / n if n else None, b / m if m else None, 0.0, limit, (n, m), failed=False)
    pooled = (a + b + 1) / (n + m + 2)  # one error and one success are added: a lone early error proves nothing
    variance = pooled * (1 - pooled) * (1 / n + 1 / m)
    difference = b / m - a / n
    evidence = mixture_ratio(difference, variance) if difference > 0 else 0.0
    return Guardrail(name, a / n, b / m, evidence, limit, (n, m), failed=evidence > limit)


def _mean(name: str, champion: Floats, challenger: Floats, limit: float) -> Guardrail:
    n, m = len(champion), len(challenger)
    if min(n, m) < _ROWS_MIN:
        return Guardrail(name, _average(champion), _average(challenger), 0.0, limit, (n, m), failed=False)
    variance = max(_shrunk_variance(champion) / n + _shrunk_variance(challenger) / m, 1e-12)
    difference = float(challenger.mean() - champion.mean())
    evidence = mixture_ratio(difference, variance) if difference > 0 else 0.0
    means = float(champion.mean()), float(challenger.mean())
    return Guardrail(name, *means, evidence, limit, (n, m), failed=evidence > limit)


def _shrunk_variance(losses: Floats) -> float:
    """Return the variance with the worst case of two rows (0 and 1) added, so that few rows prove little."""
    padded = np.concatenate([losses, [0.0, 1.0]])
    return float(padded.var(ddof=1))


def _average(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _slower(champion: Floats, challenger: Floats, limit: float, *, ratio_max: float) -> Guardrail:
    n, m = len(champion), len(challenger)
    if min(n, m) < _ROWS_MIN:
        return Guardrail("latency_ms_p50", _middle(champion), _middle(challenger), 0.0, limit, (n, m), failed=False)
    ranks = midranks(np.concatenate([champion, challenger]))
    superiority = float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m)) - 0.5
    variance = (n + m + 1) / (12 * n * m)
    evidence = mixture_ratio(superiority, variance) if superiority > 0 else 0.0
    medians = float(np.median(champion)), float(np.median(challenger))
    relevant = medians[1] > ratio_max * medians[0]
    return Guardrail("latency_ms_p50", *medians, evidence, limit, (n, m), failed=relevant and evidence > limit)


def _middle(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) else None


def score_distance(champion: Floats, challenger: Floats) -> float | None:
    """Return the KS distance between two samples of scores, in [0, 1], or None without data."""
    if not len(champion) or not len(challenger):
        return None
    values = np.sort(np.concatenate([champion, challenger]))
    left = np.searchsorted(np.sort(champion), values, side="right") / len(champion)
    right = np.searchsorted(np.sort(challenger), values, side="right") / len(challenger)
    return float(np.abs(left - right).max())


def _failure(guardrail: Guardrail) -> str:
    return (
        f"{guardrail.name} {_figure(guardrail.champion)} -> {_figure(guardrail.challenger)} "
        f"(evidence {guardrail.evidence:.3g} over {guardrail.limit:.3g}, n {guardrail.rows[0]} and {guardrail.rows[1]})"
    )


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _missing_rows(champion: Arm, challenger: Arm, policy: CanaryPolicy) -> tuple[str, ...]:
    wanted = (
        ("champion", "requests", champion.requests, policy.rows_min),
        ("challenger", "requests", challenger.requests, policy.rows_min),
        ("champion", "labels", len(champion.losses), policy.labels_min),
        ("challenger", "labels", len(challenger.losses), policy.labels_min),
    )
    return tuple(f"{arm} has {n} of {least} {what}" for arm, what, n, least in wanted if n < least)
