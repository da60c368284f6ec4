"""``audit.one_run``: lower bounds on epsilon from one run of canaries, without believing in any law of the scores.

Guess the canaries with the highest scores in. If the run were (eps, delta)-DP, few guesses could be right.

- `epsilon_lower_bound`: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023,
  arXiv 2305.08846, Theorem 5.2: each canary is in or out by a fair coin of its own.
- `epsilon_lower_bound_fdp`: Mahloujifar, Melis and Chaudhuri, "Auditing f-Differential Privacy in One Run",
  arXiv 2410.22235, Algorithm 3, with the trade-off curves of Gaussian mechanisms: it refutes only that the run
  is mu-GDP with the mu of (eps, delta), so it is a bound on epsilon for mechanisms whose curve lies on or above
  that one's.

The number of guesses is fixed before the scores are seen. Both bounds are weak: halved noise was missed by them
where the parametric estimate of `audit_canary.py` found it. A low bound here shows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GUESSED = 0.25
"""Share of all canaries that are guessed in: those with the highest scores."""


@dataclass(frozen=True)
class Guesses:
    """How guessing went.

    Attributes:
        canaries: Canaries m, each in or out by a fair coin.
        guesses: Canaries guessed in.
        right: Those of them that were in.
    """

    canaries: int
    guesses: int
    right: int


def guess(scores: NDArray[np.float64], inside: NDArray[np.bool_], share: float = GUESSED) -> Guesses:
    """Guess the canaries with the highest scores in; ties are broken by position, which coins know nothing of."""
    count = max(1, round(share * len(scores)))
    chosen = np.argsort(-scores, kind="stable")[:count]
    return Guesses(len(scores), count, int(inside[chosen].sum()))


def p_value(g: Guesses, epsilon: float, delta: float) -> float:
    """Largest probability of so many right guesses under (eps, delta)-DP (arXiv 2305.08846, Theorem 5.2)."""
    from scipy.special import expit
    from scipy.stats import binom

    rate = float(expit(epsilon))
    tail = float(binom.sf(g.right - 1, g.guesses, rate))
    if delta == 0 or g.right == 0:
        return tail
    steps = np.arange(1, g.right + 1)
    slack = float(np.max((binom.sf(g.right - steps - 1, g.guesses, rate) - tail) / steps, initial=0.0))
    return min(1.0, tail + 2 * g.canaries * delta * slack)


def epsilon_lower_bound(g: Guesses, delta: float, level: float = 0.95) -> float:
    """Largest epsilon that is refuted at ``level``; 0 if none is."""
    return _largest(lambda epsilon: p_value(g, epsilon, delta) <= 1 - level)


def epsilon_lower_bound_fdp(g: Guesses, delta: float, level: float = 0.95) -> float:
    """Largest epsilon whose Gaussian trade-off curve is refuted at ``level``; 0 if none is."""
    from privet.attacks.gdp import mu_of_epsilon

    def refuted(epsilon: float) -> bool:
        return _curve_is_refuted(g, mu_of_epsilon(epsilon, delta), 1 - level)

    return _largest(refuted)


def _curve_is_refuted(g: Guesses, mu: float, alpha: float) -> bool:
    """Whether so many right guesses contradict mu-GDP: ``audit_rh`` of arXiv 2410.22235, for a fair coin."""
    from scipy.special import ndtr, ndtri

    r, h = alpha * g.right / g.canaries, alpha * (g.guesses - g.right) / g.canaries
    for i in range(g.right - 1, -1, -1):
        grown = max(h, float(ndtr(ndtri(r) - mu)))
        if grown == h:
            break
        h, r = grown, min(1.0, r + i / (g.guesses - i) * (grown - h))
    return r + h > g.guesses / g.canaries


def _largest(refuted: Callable[[float], bool]) -> float:
    if not refuted(1e-6):
        return 0.0
    low, high = 1e-6, 1.0
    while refuted(high):
        low, high = high, 2 * high
        if high > 1e3:
            return math.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
