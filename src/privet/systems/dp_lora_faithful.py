"""``dp_lora`` with ``faithful: true``: what arXiv 2312.17493, Algorithm 1, does, and the epsilon that this has.

    each round: every client takes local steps; in each it clips the *mean gradient of a batch*, factor A and factor B
                each to C, and adds noise N(0, (sigma C)^2) to both; it sends the difference, which is averaged.

The paper accounts for this as if records had been clipped. They were not: one record can change all of a batch's
gradient, so the noise covers what it covers for a whole client. Two factors of norm C are one vector of norm sqrt(2) C,
so T steps are Gaussian with mu = sqrt(2 T)/sigma for a client's zero-out (the paper's sigma = 2, T = 50: epsilon 33.1
at delta 1e-5), twice that for replacing a client (91.8). With A frozen there is one factor and mu = sqrt(T)/sigma.
`privacy.noise_multiplier` is the paper's sigma, over the bound of one factor.
"""

from __future__ import annotations

import math

from privet.config import Config, PrivacyConfig
from privet.mechanism import GaussianMechanism
from privet.pipeline import ClipGroups, Pipeline, Round, Share
from privet.systems.base import Facts, System
from privet.systems.parts import encoders, public_rounding
from privet.work import BatchGradient, LocalDpSgd


def dp_lora_faithful(config: Config, facts: Facts, privacy: PrivacyConfig) -> System:
    """Compose the system for a configuration."""
    local = config.schedule.local
    clip = ClipGroups(facts.clip_norm, facts.factors)
    # sigma C on each coordinate, said as a multiple of the bound of the whole vector, sqrt(groups) C.
    multiplier = facts.noise_multiplier / math.sqrt(len(facts.factors))
    mechanism = GaussianMechanism(clip.norm, multiplier, facts.dimension, floor=1)
    step = Pipeline([clip, Round(mechanism.grid, 1.0, mechanism.grid.bound), Share(mechanism)])
    weights = facts.total_weight(config.schedule.weights)
    return System(
        name="dp_lora",
        paper="arXiv 2312.17493, Algorithm 1, as published, with the account that it has",
        work=LocalDpSgd(BatchGradient(local.batch_size), step, local),
        pipeline=Pipeline([*encoders(facts), public_rounding(facts, weights)]),
        optimiser=config.schedule.server,
        release=mechanism.release("local steps on clipped batch gradients", count=local.steps),
        mechanism=mechanism,
    )
