"""Normal quantiles and the intervals of proportions that the gates decide on."""

import math
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and what the data allow around it."""

    estimate: float
    lower: float
    upper: float

    def as_facts(self) -> dict[str, float]:
        """Render for a report."""
        return {"estimate": self.estimate, "lower": self.lower, "upper": self.upper}


def upper_tail(z: float) -> float:
    """Return the probability that a standard normal exceeds ``z``."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def z_of(confidence: float) -> float:
    """Return the two-sided normal quantile, such as 1.96 for .95."""
    return _NORMAL.inv_cdf(0.5 + confidence / 2)


def z_one_sided(alpha: float) -> float:
    """Return the quantile exceeded with probability ``alpha``, such as 1.645 for .05."""
    return _NORMAL.inv_cdf(1 - alpha)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Bound a proportion.

    Args:
        successes: Count of hits, 0 to ``n``.
        n: Count of trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        The share and its score interval, within [0, 1].

    Source: Wilson (1927), J. Am. Stat. Assoc. 22:209.
    """
    z = z_of(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def difference_of_rates(hits_a: int, n_a: int, hits_b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """Bound the difference ``a - b`` of two independent proportions.

    Returns:
        The difference and Newcombe's hybrid score interval, within [-1, 1].

    Source: Newcombe (1998), Stat. Med. 17:873, method 10.
    """
    a, b = wilson(hits_a, n_a, confidence), wilson(hits_b, n_b, confidence)
    difference = a.estimate - b.estimate
    below = math.hypot(a.estimate - a.lower, b.upper - b.estimate)
    above = math.hypot(a.upper - a.estimate, b.estimate - b.lower)
    return Interval(difference, difference - below, difference + above)


def ratio_of_rates(hits_a: int, n_a: int, hits_b: int, n_b: int, confidence: float = 0.95) -> Interval:
    """Bound the ratio ``a / b`` of two independent proportions.

    With an empty or a full cell half a hit is added to both counts and one row to both sizes.

    Returns:
        The ratio and its log interval, above 0.

    Source: Katz et al. (1978), Biometrics 34:469; correction after Bailey (1987), Biometrics 43:201.
    """
    a, size_a, b, size_b = float(hits_a), float(n_a), float(hits_b), float(n_b)
    if min(hits_a, hits_b, n_a - hits_a, n_b - hits_b) == 0:
        a, size_a, b, size_b = a + 0.5, size_a + 1, b + 0.5, size_b + 1
    ratio = (a / size_a) / (b / size_b)
    error = math.sqrt((1 - a / size_a) / a + (1 - b / size_b) / b)
    spread = math.exp(z_of(confidence) * error)
    return Interval(ratio, ratio / spread, ratio * spread)
