"""``dp_lora``: LoRA with local DP-SGD at every silo, and averaging.

Liu, Shi, Dai, Wang, Ding, Wang: Differentially Private Low-Rank Adaptation of Large Language Model Using Federated
Learning, arXiv 2312.17493, Algorithm 1; here with what the paper leaves out made sound:

    each round: every silo takes local steps; in each it Poisson-samples its records at rate q, clips each record's
                gradient over all trained factors jointly, adds its *own full* noise to the sum, and steps;
                it sends the difference, which is averaged with public weights.

Every silo is protected by its own noise, against everybody alike; another silo's noise is not counted, because the
steps between are not linear. With ``unit: client`` the whole update is clipped and noised once.
The paper's own setting, ``faithful: true``, clips the gradient of the batch, factor by factor, so that one client is
the unit that its noise could cover; see `dp_lora_faithful.py`.
"""

from __future__ import annotations

from privet.config import Config, PrivacyConfig
from privet.mechanism import GaussianMechanism
from privet.pipeline import Pipeline
from privet.privacy.events import Sampling
from privet.systems.base import Facts, System
from privet.systems.parts import BATCH_HEADROOM, encoders, noised, public_rounding
from privet.work import LocalDpSgd, LocalUpdate, SampledGradients


def dp_lora(config: Config, facts: Facts, privacy: PrivacyConfig) -> System:
    """Compose the system for a configuration."""
    local = config.schedule.local
    weights = facts.total_weight(config.schedule.weights)
    if privacy.unit == "record":
        rate, batch = config.schedule.sampling_rate, config.schedule.expected_batch
        assert rate is not None, "config_rules demands it"
        assert batch is not None, "config_rules demands it"
        mechanism = GaussianMechanism(facts.clip_norm, facts.noise_multiplier, facts.dimension, floor=1)
        step = Pipeline(noised(mechanism, denominator=batch, units=BATCH_HEADROOM * batch))
        work: LocalDpSgd | LocalUpdate = LocalDpSgd(SampledGradients(rate), step, local)
        pipeline = Pipeline([*encoders(facts), public_rounding(facts, weights)])
        release = mechanism.release("local steps", count=local.steps, sampling=Sampling.poisson(rate))
    else:
        mechanism = GaussianMechanism(facts.clip_norm, facts.noise_multiplier, facts.size, floor=1)
        work = LocalUpdate(local)
        pipeline = Pipeline([*encoders(facts), *noised(mechanism, denominator=weights, units=1)])
        release = mechanism.release("clients' updates")
    return System(
        name="dp_lora",
        paper="arXiv 2312.17493, Algorithm 1, with per-record clipping and an exact account",
        work=work,
        pipeline=pipeline,
        optimiser=config.schedule.server,
        release=release,
        mechanism=mechanism,
    )
