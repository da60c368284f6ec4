"""How visible planted records are: the GDP parameter mu estimated from their scores, and the power of that test.

A canary is a record in a direction of its own, in or out by a fair coin. Its score is the opened sums' component along
it. Under Gaussian noise the scores of canaries inside and outside are normal with equal variance, mu standard
deviations apart, so many canaries in *one* run give an estimate of mu (the idea is that of Andrew et al., ICLR 2024,
arXiv 2302.03098; here the interval is the exact one of Student's non-central t). It is parametric: it believes in
normal scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import nct


@dataclass(frozen=True)
class MuEstimate:
    """An estimate of mu.

    Attributes:
        value: Point estimate.
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
    root = _root(len(one), len(other))
    value = float((one.mean() - other.mean()) / pooled)
    low, high = (_noncentrality(value * root, degrees, a) / root for a in (alpha, 1 - alpha))
    return MuEstimate(value, low, high, alpha, (len(one), len(other)))


def _root(inside: int, outside: int) -> float:
    return math.sqrt(inside * outside / (inside + outside))


def _noncentrality(t: float, degrees: int, tail: float) -> float:
    """The non-centrality under which a statistic above ``t`` has probability ``tail``."""
    reach = 4 + 8 * math.sqrt(1 + t**2 / (2 * degrees))
    return float(brentq(lambda nc: nct.sf(t, degrees, nc) - tail, t - reach, t + reach, xtol=1e-9))


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta(eps) = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2) (Balle and Wang, ICML 2018, Theorem 8)."""
    upper, lower = log_ndtr(-epsilon / mu + mu / 2), epsilon + log_ndtr(-epsilon / mu - mu / 2)
    return float(math.exp(upper) - math.exp(lower))


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at ``delta`` is ``epsilon``."""
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 1e-3, 100.0))


def visible_mu(rate: float, sigma: float, rounds: int) -> float:
    """What scores show at Poisson rate q and noise multiplier sigma: q sqrt(T) / sqrt(sigma^2 + q (1 - q))."""
    return rate * math.sqrt(rounds) / math.sqrt(sigma**2 + rate * (1 - rate))


def power(shown: float, claimed: float, canaries: int, alpha: float = 0.025) -> float:
    """Probability that the lower bound exceeds a claimed mu when the scores show ``shown``; half of them are inside."""
    root, degrees = _root(canaries // 2, canaries - canaries // 2), canaries - 2
    critical = nct.isf(alpha, degrees, claimed * root)
    return float(nct.sf(critical, degrees, shown * root))
