"""Rounding is unbiased, and overflow is as rare as the field's width promises."""

from __future__ import annotations

import math

import numpy as np

from privet.fixed_point import Field, Grid, round_units
from privet.keys import derive
from privet.noise import rounded_gaussian

ROOT = bytes(range(32))


def test_rounding_is_unbiased_and_coordinates_are_independent() -> None:
    """Mean of 20,000 roundings at 40 fractions: 5 standard errors at each, false alarm below 3e-5; fixed
    keys.

    The variance of the sum over coordinates shows that coordinates do not share their coins (5 standard
    errors).
    """
    fractions = np.concatenate([np.linspace(0, 0.975, 39) - 5, [-0.999]])
    grid = Grid(step=1.0, bound=100)
    count = 20_000
    keys = [derive(ROOT, i) for i in range(count)]
    rounded = round_units(np.repeat(fractions[None], count, axis=0), grid, keys)
    up = fractions - np.floor(fractions)
    error = rounded.mean(axis=0) - fractions
    assert (np.abs(error) <= 5 * np.sqrt(up * (1 - up) / count) + 1e-9).all()
    variance = (up * (1 - up)).sum()
    assert abs(rounded.sum(axis=1).var() / variance - 1) < 5 * math.sqrt(2 / count)


def test_overflow_scales_as_the_width_was_computed() -> None:
    """With room for z = 3 instead of the 13 of a real field, the overflow rate is 2Φ(-3) as computed.

    2 million values against a binomial, 5 standard errors: false alarm below 1e-6. The real width cannot be
    tested by
    counting: it overflows once in 2**40 rounds.
    """
    parties, std, size = 3, 40.0, 2_000_000
    total = np.sum([rounded_gaussian(std, size, derive(ROOT, "party", i)) for i in range(parties)], axis=0)
    half = 3 * math.sqrt(parties) * std
    expected = math.erfc(half / math.sqrt(2 * (parties * std**2 + parties / 12)))
    rate = float(np.mean(np.abs(total) > half))
    assert abs(rate - expected) < 5 * math.sqrt(expected / size) + 0.02 * expected
    field = Field.for_sum(parties=parties, limit=0, share_std_steps=std, dimension=size)
    assert (field.decode(field.encode(total)) == total).all()
