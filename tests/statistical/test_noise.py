"""Large samples of the noise against its law. Seeds are fixed, so a pass is a pass for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import chi2

from privet.keys import Stream, derive
from privet.noise import rounded_gaussian

KEY = bytes(range(32))
SIZE = 2_000_000


def chi_square_p(draws: np.ndarray, std: float) -> float:
    """p-value of the draws under round(N(0, std**2)), in cells of at least 20 expected draws."""
    width = max(1, round(std / 8))
    half = math.floor(4.3 * std / width + 0.5)
    edges = (np.arange(-half, half + 2) - 0.5) * width
    if width % 2 == 0:
        edges = edges + 0.5  # edges of the cells must be half-integers
    counts = np.histogram(draws, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    expected = len(draws) * np.diff(ndtr(np.concatenate([[-np.inf], edges, [np.inf]]) / std))
    keep = expected >= 20
    observed = np.append(counts[keep], counts[~keep].sum())
    wanted = np.append(expected[keep], expected[~keep].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    return float(chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


@pytest.mark.parametrize("std", [0.6, 1.0, 4.0, 37.3, 5000.0])
def test_law_of_the_noise(std: float) -> None:
    """Chi-square over all cells and the first four moments; each rejects an honest sampler with probability
    1e-6."""
    draws = rounded_gaussian(std, SIZE, derive(KEY, "law", str(std)))
    assert chi_square_p(draws, std) > 1e-6
    if std < 1:
        return  # the moments below hold for wide Gaussians only
    x = draws.astype(np.float64)
    variance = std**2 + 1 / 12
    assert abs(x.mean()) < 4.9 * math.sqrt(variance / SIZE)
    slack = 2 * std**2 * math.exp(-2 * (math.pi * std) ** 2) * 10
    assert abs((x**2).mean() - variance) < 4.9 * variance * math.sqrt(2 / SIZE) + slack
    assert abs((x**3).mean()) < 4.9 * variance**1.5 * math.sqrt(15 / SIZE)
    assert abs((x**4).mean() / (3 * variance**2) - 1) < 4.9 * math.sqrt(96 / 9 / SIZE) + 0.01 / std**2


@pytest.mark.parametrize("mutant", ["std", "shift", "tail", "truncate"])
def test_the_test_of_the_law_catches_broken_samplers(mutant: str) -> None:
    """Half a percent of the standard deviation, a shift of 1/20, a lighter tail, or rounding towards zero."""
    std = 4.0
    draws = rounded_gaussian(std * (1.005 if mutant == "std" else 1.0), SIZE, derive(KEY, "mutants"))
    if mutant == "shift":
        up = Stream(derive(KEY, "coins")).uniform(SIZE) < 0.05
        draws = draws + up
    elif mutant == "tail":
        draws = np.clip(draws, -15, 15)
    elif mutant == "truncate":
        normal = np.random.Generator(np.random.PCG64(1)).standard_normal(SIZE) * std
        draws = np.trunc(normal).astype(np.int64)
    assert chi_square_p(draws, std) < 1e-6


@pytest.mark.parametrize("floor", [2, 5])
def test_shares_add_up_to_the_whole_noise(floor: int) -> None:
    """Chi-square of the sum of n shares of variance s² against round(N(0, n s²)) plus n - 1 uniforms.

    The uniforms are accounted by their variance, (n - 1) / 12 of the sum's, which a Gaussian matches to far
    less than 2 million draws can resolve at s = 20. Rejects honest shares with probability 1e-6.
    """
    share = 20.0
    total = np.sum([rounded_gaussian(share, SIZE, derive(KEY, "share", i)) for i in range(floor)], axis=0)
    assert chi_square_p(total, math.sqrt(floor * share**2 + (floor - 1) / 12)) > 1e-6
    short = total - rounded_gaussian(share, SIZE, derive(KEY, "share", 0))
    assert chi_square_p(short, math.sqrt(floor * share**2)) < 1e-6  # a missing share is seen


def low_bits_tell(outputs: np.ndarray, value: float) -> float:
    """Share of the outputs near zero that lie on the lattice which float32 sums with ``value`` cannot
    leave."""
    near = outputs[np.abs(outputs) < abs(value) / 100].astype(np.float64)
    lattice = float(np.spacing(np.float32(value))) / 2
    return float(np.mean(np.mod(near, lattice) == 0))


def test_trap_09_float_noise_gives_the_data_away_and_integer_noise_does_not() -> None:
    """The low bits of x + noise: in float32 they tell x = 0 from x = 1, on the integer grid they tell
    nothing.

    A float32 near zero that came from 1 + z is a multiple of 2**-24; one that came from 0 + z hardly ever
    is. On the grid each output is possible from both inputs, with probabilities as close as the Gaussians
    are: the log ratio of the two frequencies at each integer stays below the privacy loss it should have,
    with room for counting error (5 standard errors at each of some 60 integers: false alarm below 1e-4, and
    the seed is fixed).
    """
    normal = np.random.Generator(np.random.PCG64(9)).standard_normal(SIZE).astype(np.float32)
    assert low_bits_tell(normal, 1.0) < 0.1
    assert low_bits_tell(normal + np.float32(1.0), 1.0) > 0.99

    std, signal = 30.0, 10
    zero = rounded_gaussian(std, SIZE, derive(KEY, "from zero"))
    one = signal + rounded_gaussian(std, SIZE, derive(KEY, "from one"))
    assert zero.dtype == one.dtype == np.int64
    for k in range(-30, 31):
        a, b = int((zero == k).sum()), int((one == k).sum())
        loss = ((k - signal) ** 2 - k**2) / (2 * std**2)
        assert abs(math.log(a / b) - loss) < 5 * math.sqrt(1 / a + 1 / b) + 0.002
