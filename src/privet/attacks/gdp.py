"""How visible canaries are: the GDP parameter mu from their scores, its bounds, and the power of the test.

Under Gaussian noise the scores of canaries inside and outside are normal with equal variance, mu standard
deviations apart, so many canaries in *one* run give an estimate of mu (the idea is that of Andrew et al., ICLR
2024, arXiv 2302.03098; here the interval is the exact one of Student's non-central t). It is parametric: it
believes in normal scores of one variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST_MU = 1e4
"""Above this nothing is hidden and the quantiles of the non-central t are not computed any more."""


@dataclass(frozen=True)
class MuEstimate:
    """An estimate of mu.

    Attributes:
        value: Point estimate; infinite if scores inside or outside do not vary.
        low: One-sided lower bound: above the true mu with probability ``alpha`` at most.
        high: One-sided upper bound, likewise.
        alpha: Error probability of each bound.
        canaries: Canaries inside and outside.
    """

    value: float
    low: float
    high: float
    alpha: float
    canaries: tuple[int, int]


def estimate_mu(scores: NDArray[np.float64], inside: NDArray[np.bool_], alpha: float = 0.025) -> MuEstimate:
    """Distance of the means of canaries inside and outside, in their pooled standard deviation.

    Args:
        scores: One score a canary, float64 [m].
        inside: Whether each canary's coin put it in, bool [m].
        alpha: Error probability of each bound.
    """
    one, other = scores[inside], scores[~inside]
    degrees = len(scores) - 2
    pooled = math.sqrt((one.var() * len(one) + other.var() * len(other)) / degrees)
    distance = float(one.mean() - other.mean())
    counts = (len(one), len(other))
    if not distance < LARGEST_MU * pooled:
        return MuEstimate(math.inf, LARGEST_MU if distance > 0 else 0.0, math.inf, alpha, counts)
    root = _root(*counts)
    value = distance / pooled
    low, high = (_noncentrality(value * root, degrees, a) / root for a in (alpha, 1 - alpha))
    return MuEstimate(value, low, high, alpha, counts)


def _root(inside: int, outside: int) -> float:
    return math.sqrt(inside * outside / (inside + outside))


def _noncentrality(t: float, degrees: int, tail: float) -> float:
    """The non-centrality under which a statistic above ``t`` has probability ``tail``."""
    from scipy.optimize import brentq
    from scipy.stats import nct, norm

    reach = 4 + 8 * math.sqrt(1 + t**2 / (2 * degrees))
    if abs(t) > 100:
        # The non-central t's own series fails out there; its normal approximation (Johnson and Welch 1940) does not.
        width = math.sqrt(1 + t**2 / (2 * degrees))
        return float(t * (1 - 1 / (4 * degrees)) - norm.isf(tail) * width)
    return float(brentq(lambda nc: nct.sf(t, degrees, nc) - tail, t - reach, t + reach, xtol=1e-9))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Epsilon at ``delta`` of a mu-GDP mechanism; 0 for mu <= 0."""
    from scipy.optimize import brentq

    from privet.privacy.two_stage import gaussian_delta

    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    if not math.isfinite(mu):
        return math.inf
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    return float(brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, high, xtol=1e-9))


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at ``delta`` is ``epsilon``."""
    from scipy.optimize import brentq

    from privet.privacy.two_stage import gaussian_delta

    high = 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 1e-6, high))


def visible_mu(rate: float, sigma: float, rounds: int) -> float:
    """What summed scores show at Poisson rate q and noise multiplier sigma: q sqrt(T) / sqrt(sigma^2 + q (1 - q))."""
    return rate * math.sqrt(rounds) / math.sqrt(sigma**2 + rate * (1 - rate))


def power(shown: float, claimed: float, canaries: int, alpha: float = 0.025) -> float:
    """Probability that the lower bound exceeds a claimed mu when the scores show ``shown``; half of them are inside."""
    from scipy.stats import nct, norm

    root, degrees = _root(canaries // 2, canaries - canaries // 2), canaries - 2
    if max(shown, claimed) * root > 100:
        width = math.sqrt(1 + (claimed * root) ** 2 / (2 * degrees))
        return float(norm.sf((claimed - shown) * root / width + norm.isf(alpha)))
    critical = nct.isf(alpha, degrees, claimed * root)
    return float(nct.sf(critical, degrees, shown * root))
