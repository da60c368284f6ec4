"""What somebody gains who chooses by what was told: ``python -m experiments.stopping.run`` (some seconds).

Two questions of docs/privacy-ledger.md, by dynamic programming over the privacy loss L, on a grid, for the direction in
which a unit is removed. Whoever plays sees L grow by one release after another and wants E max(0, 1 - exp(eps - L)),
the delta at eps, to be large.

- When to stop a run of Gaussians, if the epsilon that is printed is that of the releases up to there.
- How often to have stage 1 tried again, if the budget allows every pair of counts whose composed epsilon fits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.stats import norm

from privet.privacy.accountants import headline
from privet.privacy.calibration import calibrate
from privet.privacy.events import AnyRelease, Release, Sampling

DELTA, STEP, LOW, HIGH = 1e-5, 0.004, -20.0, 40.0
LOSSES = np.arange(LOW, HIGH, STEP)
Values = NDArray[np.float64]
Increments = tuple[NDArray[np.float64], int]
"""Probabilities of a release's loss on the grid, and the place of the first of them, in steps from zero."""


def won(epsilon: float) -> Values:
    """What stopping at each loss is worth."""
    return np.maximum(0.0, -np.expm1(np.minimum(epsilon - LOSSES, 50.0)))


def before(values: Values, increments: Increments) -> Values:
    """What each loss is worth one release earlier. Beyond the grid losses are worth nothing below, all above."""
    chances, first = increments
    reach = len(chances) + abs(first)
    padded = np.concatenate([np.zeros(reach), values, np.ones(reach)])
    summed = fftconvolve(padded, chances[::-1], mode="full")
    at = np.arange(len(values)) + reach + first + len(chances) - 1
    return np.clip(summed[at], 0.0, 1.0)


def gaussian(mu: float) -> Increments:
    """Loss of a Gaussian release on all units whose sensitivity is mu of its noise."""
    at = np.arange(-4000, 4001)
    edges = np.append(at - 0.5, at[-1] + 0.5) * STEP
    return np.diff(norm.cdf(edges, mu**2 / 2, mu)), -4000


def sampled(sigma: float, rate: float) -> Increments:
    """Loss of a Poisson-sampled Gaussian release, to a remove-one neighbour, where the unit is in the data."""
    x = np.linspace(-12 * sigma, 1 + 12 * sigma, 400_001)
    chances = ((1 - rate) * norm.pdf(x, 0, sigma) + rate * norm.pdf(x, 1, sigma)) * (x[1] - x[0])
    losses = np.log1p(rate * np.expm1((2 * x - 1) / (2 * sigma**2)))
    at = np.rint(losses / STEP).astype(np.int64)
    return np.bincount(at - at.min(), weights=chances), int(at.min())


def at_start(values: Values) -> float:
    """The value before anything was released."""
    return float(values[round(-LOW / STEP)])


def calibrated(rounds: int, epsilon: float) -> float:
    """Noise multiplier at which so many Gaussian releases on all units are worth epsilon."""
    return calibrate(lambda s: [Release("round", s, rounds)], epsilon, DELTA, tolerance=1e-6)


def stopped(rounds: int, epsilon: float) -> float:
    """Delta of the best moment to stop, where each moment has the epsilon printed that its releases have."""
    sigma = calibrated(rounds, epsilon)
    printed = [headline([Release("round", sigma, k)], DELTA) for k in range(1, rounds + 1)]
    values, one = won(printed[-1]), gaussian(1 / sigma)
    for at in reversed(printed[:-1]):
        values = np.maximum(won(at), before(values, one))
    return at_start(before(values, one))


def chosen(first: Release, second: Release, least: int, epsilon: float) -> tuple[dict[int, int], float]:
    """Counts of the second kind that fit beside so many of the first, and delta of the best choice among them."""

    def fits(a: int, b: int) -> bool:
        releases: list[AnyRelease] = [r.times(n) for r, n in ((first, a), (second, b)) if n]
        return headline(releases, DELTA, "add-remove") <= epsilon

    most: dict[int, int] = {}
    while fits(len(most), 1):
        low, high = 1, 1024
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(len(most), middle) else (low, middle)
        most[len(most)] = low
    one, other = (sampled(r.noise_multiplier, r.sampling.rate) for r in (first, second))
    after = [won(epsilon)]
    while len(after) <= max(most.values()):
        after.append(before(after[-1], other))
    values = after[most[len(most) - 1]]
    for count in range(len(most) - 2, -1, -1):
        values = before(values, one)
        if count >= least:
            values = np.maximum(after[most[count]], values)
    return most, at_start(values)


def main() -> None:
    """Print both answers."""
    for rounds, epsilon in ((40, 8.0), (100, 2.0)):
        print(
            f"stopping {rounds} rounds worth {epsilon:g}: delta {stopped(rounds, epsilon):.2e}, printed {DELTA:g}"
        )
    q = Sampling.poisson(0.02)
    first, second = Release("stage 1", 0.411, 1, q), Release("stage 2", 0.559, 1, q)
    for least in (3, 0):
        most, delta = chosen(first, second, least, 8.0)
        pairs = ", ".join(str(pair) for pair in most.items() if pair[0] >= least)
        print(f"at least {least} of stage 1, pairs that fit {pairs}: delta {delta:.2e}, each pair {DELTA:g}")


if __name__ == "__main__":
    main()
