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
    counts = (int(inside.sum()), int((~inside).sum()))
    return slope(scores, inside.astype(np.float64), np.ones(len(scores)), alpha, counts)


def slope(
    seen: NDArray[np.float64],
    shift: NDArray[np.float64],
    offset: NDArray[np.float64],
    alpha: float,
    canaries: tuple[int, int],
) -> MuEstimate:
    """mu from whitened observations: seen = s (mu shift + c offset + noise of variance 1), with s and c unknown.

    Least squares; the bounds are exact for normal noise (Student's non-central t).

    Args:
        seen: float64 [n].
        shift: What the canaries inside add for mu = 1, float64 [n].
        offset: What all canaries together would add, float64 [n]; taken out, so that only coins count.
        alpha: Error probability of each bound.
        canaries: Canaries inside and outside, for the record.
    """
    unit = offset / np.linalg.norm(offset)
    x, y = (v - (v @ unit) * unit for v in (shift, seen))
    degrees, root = len(seen) - 2, float(np.linalg.norm(x))
    along = float(x @ y) / root
    left = float(np.linalg.norm(y - along / root * x)) / math.sqrt(degrees)
    if not abs(along) < LARGEST_MU * root * left:
        return MuEstimate(math.inf, LARGEST_MU if along > 0 else 0.0, math.inf, alpha, canaries)
    t = along / left
    low, high = (_noncentrality(t, degrees, a) / root for a in (alpha, 1 - alpha))
    return MuEstimate(t / root, low, high, alpha, canaries)


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
    root = _root(canaries // 2, canaries - canaries // 2)
    return power_at(shown, claimed, root, canaries - 2, alpha)


def power_at(shown: float, claimed: float, root: float, degrees: int, alpha: float) -> float:
    """The same for observations whose shift has length ``root``."""
    from scipy.stats import nct, norm

    if max(shown, claimed) * root > 100:
        width = math.sqrt(1 + (claimed * root) ** 2 / (2 * degrees))
        return float(norm.sf((claimed - shown) * root / width + norm.isf(alpha)))
    critical = nct.isf(alpha, degrees, claimed * root)
    return float(nct.sf(critical, degrees, shown * root))
