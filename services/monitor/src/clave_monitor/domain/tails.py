"""Upper tails of the two distributions the drift tests need, without scipy.

scipy costs about 40 MB of resident memory for what these few lines do; the tests hold both
functions against it.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SWITCH = 1.0
"""Below this lambda the alternating series converges slowly and the theta series quickly."""


def kolmogorov_tail(x: Floats) -> Floats:
    """Return P(K > x) of the Kolmogorov distribution.

    Args:
        x: Scaled distances, any shape, at least 0.

    Returns:
        Probabilities in [0, 1], same shape.

    Source: Marsaglia, Tsang, Wang (2003), Journal of Statistical Software 8(18).
    """
    x = np.asarray(x, dtype=np.float64)
    k = np.arange(1, 21, dtype=np.float64)
    safe = np.maximum(x, 1e-3)[..., None]
    large = 2 * np.sum(np.where(k % 2 == 1, 1.0, -1.0) * np.exp(-2 * (k * safe) ** 2), axis=-1)
    odd = (2 * k - 1) * math.pi
    small = 1 - math.sqrt(2 * math.pi) / safe[..., 0] * np.sum(np.exp(-(odd**2) / (8 * safe**2)), axis=-1)
    tail: Floats = np.clip(np.where(x > _SWITCH, large, small), 0.0, 1.0)
    return tail


def chi_square_tail(x: float, degrees: int) -> float:
    """Return P(X > x) of a chi-square variable.

    Args:
        x: The statistic, at least 0.
        degrees: Degrees of freedom, at least 1.

    Returns:
        A probability in [0, 1].

    The regularised upper gamma function grows by Q(a + 1, z) = Q(a, z) + z^a e^-z / Gamma(a + 1);
    every term is positive, so nothing cancels. Source: NIST DLMF 8.8.6.
    """
    if x <= 0:
        return 1.0
    z, odd = x / 2, degrees % 2 == 1
    shape = 0.5 if odd else 1.0
    tail = math.erfc(math.sqrt(z)) if odd else math.exp(-z)
    while shape < degrees / 2:
        tail += math.exp(shape * math.log(z) - z - math.lgamma(shape + 1))
        shape += 1.0
    return min(1.0, tail)
