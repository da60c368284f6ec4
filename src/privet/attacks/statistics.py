"""Intervals for what attacks measure. Every bound names its level; none believes in a law unless it says parametric.

- Shares of independent trials: Clopper and Pearson (1934), exact.
- Area under the ROC curve: DeLong, DeLong and Clarke-Pearson (Biometrics 1988), on the logit scale; asymptotic.
  Where the curve is perfect its variance is zero, so the ends are those of an exact bound on one misranked
  record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate between two ends that together miss the truth with probability at most ``1 - level``."""

    value: float
    low: float
    high: float
    level: float


def share(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Share of ``successes`` among independent ``trials``, with the exact interval of Clopper and Pearson."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return Interval(successes / trials if trials else math.nan, low, high, level)


def mean(values: Scores, level: float = 0.95) -> Interval:
    """Mean of values in [0, 1] that belong to different records, with Hoeffding's interval: no law is believed in."""
    value = float(np.mean(values))
    half = math.sqrt(math.log(2 / (1 - level)) / (2 * len(values)))
    return Interval(value, max(0.0, value - half), min(1.0, value + half), level)


def area(members: Scores, others: Scores, level: float = 0.95) -> Interval:
    """Area under the ROC curve: the probability that a member scores above another, ties counting half."""
    from scipy.stats import norm, rankdata

    m, n = len(members), len(others)
    both = rankdata(np.concatenate([members, others]))
    value = float((both[:m].sum() - m * (m + 1) / 2) / (m * n))
    if value in (0.0, 1.0):
        # No pair is misranked: below, the exact bound for a share of min(m, n) independent pairs.
        bound = share(int(value) * min(m, n), min(m, n), level)
        return Interval(value, bound.low, bound.high, level)
    placed = (both[:m] - rankdata(members)) / n
    beaten = 1 - (both[m:] - rankdata(others)) / m
    error = math.sqrt(placed.var(ddof=1) / m + beaten.var(ddof=1) / n) if min(m, n) > 1 else math.inf
    logit, half = math.log(value / (1 - value)), norm.ppf((1 + level) / 2) * error / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-x)) for x in (logit - min(half, 700), logit + min(half, 700)))
    return Interval(value, low, high, level)


def above_all(members: Scores, others: Scores, level: float = 0.95) -> Interval:
    """Share of members above all n others: TPR at the threshold that the others' largest score sets.

    Of that threshold nothing is known but that a further non-member exceeds it with probability 1/(n + 1). It is not
    the one that 1 % exceed: for an interval of TPR there, whatever the law, one of the others must surely lie above
    it, and 0.99**n is below 1.25 %, half of what the lower end may err by, from n = 437 on. No suite has so many.
    """
    return share(int((members > others.max()).sum()), len(members), level)


def stands_out(values: Sequence[float], decoys: Sequence[Sequence[float]], draws: int = 20_000) -> float:
    """p value that in each trial the value is one among its decoys as any other: exact for any number of draws.

    Args:
        values: The value of each trial.
        decoys: Its exchangeable companions.
        draws: Random choices of one out of each trial that the sum of the values is ranked among.
    """
    generator = np.random.default_rng(0)
    drawn = np.zeros(draws)
    for value, others in zip(values, decoys, strict=True):
        drawn += np.array([value, *others])[generator.integers(len(others) + 1, size=draws)]
    return float((1 + (drawn >= sum(values) - 1e-12).sum()) / (draws + 1))
