"""How long a contribution by the rules is at most: a server that sees contributions refuses longer ones.

Honest values are a clipped sum plus Gaussian noise of known size, so their norm has a bound that is public:
`longest` is exceeded with probability `FALSE_REFUSAL` at most. A client that sends more is left out of the round.
That bounds what it can do to the adapter and protects nobody's privacy, since clip and noise are every client's own.
A contribution within the bound may still be made up. Where nothing is clipped, nothing bounds an honest
contribution, and none is refused for its length. A norm over many values is mostly noise: what a client can hide in
it is about the square root of what the noise's own norm varies by.
"""

from __future__ import annotations

import math

from privet.pipeline import Clip, Pipeline, Share
from privet.systems.base import System
from privet.work import LocalDpSgd

FALSE_REFUSAL = 1e-9
"""Probability that an honest contribution is refused in a round, at most, if batches stay within the public range."""


def longest(system: System, parties: int = 1) -> float:
    """Norm in grid steps that an honest sum exceeds with probability `FALSE_REFUSAL` at most; infinite if unbounded.

    Args:
        system: What runs, with the round's codec.
        parties: Contributions in the sum.
    """
    if _clips(system.pipeline):
        return _norm(system.pipeline, parties, 1)
    work = system.work
    if not isinstance(work, LocalDpSgd) or not _clips(work.step) or not work.step.has_share:
        return math.inf
    step, rounding = work.step.rounding, system.pipeline.rounding
    moved = _norm(work.step, 1, work.local.steps) * step.grid.step * work.local.learning_rate
    # A coordinate of an update is rounded up or down once more, by less than a step.
    own = moved / step.denominator / rounding.grid.step + math.sqrt(_size(work.step))
    return parties * own


def _clips(pipeline: Pipeline) -> bool:
    return any(isinstance(stage, Clip) for stage in pipeline.stages)


def _size(pipeline: Pipeline) -> int:
    return next((stage.mechanism.dimension for stage in pipeline.stages if isinstance(stage, Share)), 0)


def _norm(pipeline: Pipeline, parties: int, steps: int) -> float:
    """The bound for a sum over parties and steps.

    With one step the clipped sum does not depend on the noise, and the norm follows a noncentral chi-square:
    P(X >= D + v + 2 sqrt((D + 2v) x) + 2x) <= exp(-x) for D degrees and noncentrality v (Birgé 2001, "An alternative
    point of view on Lepski's method", Lemma 8.1). With more steps later ones depend on earlier noise, and norms add.
    """
    most = float(pipeline.rounding.limit) * parties * steps
    share = next((stage for stage in pipeline.stages if isinstance(stage, Share)), None)
    if share is None:
        return most
    dimension, x = share.mechanism.dimension, math.log(1 / FALSE_REFUSAL)
    deviation = share.mechanism.share_std_steps * math.sqrt(parties * steps)
    rounded = 0.5 * math.sqrt(dimension) * parties * steps  # a share is a Gaussian rounded to the grid
    off = (most / deviation) ** 2 if steps == 1 else 0.0
    noise = deviation * math.sqrt(dimension + off + 2 * math.sqrt((dimension + 2 * off) * x) + 2 * x)
    return noise + rounded + (0.0 if steps == 1 else most)
