"""What several systems share when they compose: summands, the public grid of unnoised values, ranges, encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privet.config import Config
from privet.fixed_point import MAX_BOUND, Grid
from privet.mechanism import GaussianMechanism
from privet.pipeline import Clip, Encode, Round, Share
from privet.privacy.events import Sampling
from privet.systems.base import Facts
from privet.work import LocalUpdate, SampledGradients, Work

PUBLIC_RANGE = 16.0
"""Largest magnitude of a coordinate that carries no guarantee; updates and codes of them lie far below."""
PUBLIC_SUM_BITS = 24
"""Width of their sum. For up to 95 parties two such sums share a slot of BFV, so an upload takes what float32 takes."""

BATCH_HEADROOM = 4.0
"""Range of one client's sum of records, over the expected batch: a Poisson batch four times as large is unheard of."""


def encoders(facts: Facts) -> list[Encode]:
    """The codec's stage, if the run has a codec."""
    return [Encode(facts.codec)] if facts.codec else []


def public_rounding(facts: Facts, denominator: float) -> Round:
    """Rounding for what carries no guarantee of its own: to 2^-17 within ±16 for three or four parties.

    Twice as many parties take twice the step, so that their sum keeps its width; rounding is unbiased and each party's
    own, so the error of the mean grows by the root of two only (docs/fixed-point.md, docs/adr/0006-public-grid.md).
    """
    steps = 1 << PUBLIC_SUM_BITS - 1 - (facts.parties - 1).bit_length()
    return Round(Grid(PUBLIC_RANGE / steps, MAX_BOUND), denominator, steps - 1)


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


@dataclass(frozen=True)
class Summands:
    """What the opened sum is a sum of, by the privacy unit.

    Attributes:
        work: What a client computes.
        denominator: Public constant that turns the sum into a mean.
        most: Public bound on the units in one client's sum.
        sampling: Which units take part.
    """

    work: Work
    denominator: float
    most: float
    sampling: Sampling

    def noised(self, mechanism: GaussianMechanism) -> list[Clip | Round | Share]:
        """Clip, rounding and noise share for these summands."""
        return noised(mechanism, self.denominator, self.most)


def summands(config: Config, facts: Facts) -> Summands:
    """Gradients of Poisson-sampled records with ``unit: record``, else one whole update of each client."""
    schedule = config.schedule
    if config.privacy is None or config.privacy.unit == "client":
        work = LocalUpdate(schedule.local)
        return Summands(work, facts.total_weight(schedule.weights), 1, Sampling.none())
    assert schedule.sampling_rate is not None, "config_rules demands it"
    assert schedule.expected_batch is not None, "config_rules demands it"
    rate, batch = schedule.sampling_rate, schedule.expected_batch
    return Summands(SampledGradients(rate), batch, BATCH_HEADROOM * batch, Sampling.poisson(rate))
