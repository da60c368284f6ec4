"""What several systems share when they compose: the public grid of unnoised values, ranges, and encoders."""

from __future__ import annotations

import math

from privet.fixed_point import Grid
from privet.mechanism import GaussianMechanism
from privet.pipeline import Clip, Encode, Round, Share
from privet.systems.base import Facts

# Updates of an adapter are far below 1 in each coordinate; 2^-20 is finer than the optimiser's own noise.
PUBLIC_GRID = Grid(step=2.0**-20, bound=2**31 - 1)
PUBLIC_LIMIT = 2**24

BATCH_HEADROOM = 4.0
"""Range of one client's sum of records, over the expected batch: a Poisson batch four times as large is unheard of."""


def encoders(facts: Facts) -> list[Encode]:
    """The codec's stage, if the run has a codec."""
    return [Encode(facts.codec)] if facts.codec else []


def public_rounding(denominator: float) -> Round:
    """Rounding for what carries no guarantee of its own: a grid of 2^-20 and a range of ±16."""
    return Round(PUBLIC_GRID, denominator, PUBLIC_LIMIT)


def noised(mechanism: GaussianMechanism, denominator: float, units: float) -> list[Clip | Round | Share]:
    """Clip, rounding and noise share of one mechanism.

    Args:
        mechanism: The object that also makes the release for the ledger.
        denominator: Public constant that turns the sum into a mean.
        units: Public bound on the units in one client's sum, for its range; a larger sum is projected, which costs
            utility and no privacy.
    """
    limit = math.ceil(units) * mechanism.grid.bound
    return [Clip(mechanism.clip_norm), Round(mechanism.grid, denominator, limit), Share(mechanism)]
