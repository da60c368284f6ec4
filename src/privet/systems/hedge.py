"""``hedge``: distributed DP-SGD. Silos share one noise, and only the noisy sum is ever opened.

    each round: every silo Poisson-samples its own records at the public rate q,
                clips each record's gradient to C, rounds it to the grid, and sums;
                adds its share of the noise, N(0, (sigma C)^2 / floor), as integers; seals.
    The sum opens: the sampled records' clipped gradients and N(0, (sigma C)^2), as in central DP-SGD on the pooled
    records (Abadi et al., arXiv 1607.00133). The server steps once along it.

`floor` is the number of honest shares that are surely in the sum: survivors demanded minus colluders assumed.
With ``unit: client`` a client's whole clipped update takes the place of its records' gradients, and all take part.
"""

from __future__ import annotations

from privet.config import Config, PrivacyConfig
from privet.mechanism import GaussianMechanism
from privet.pipeline import Pipeline
from privet.privacy.events import Sampling
from privet.systems.base import Facts, System
from privet.systems.parts import BATCH_HEADROOM, encoders, noised
from privet.work import LocalUpdate, SampledGradients


def hedge(config: Config, facts: Facts, privacy: PrivacyConfig) -> System:
    """Compose the system for a configuration."""
    mechanism = GaussianMechanism(facts.clip_norm, facts.noise_multiplier, facts.size, facts.floor)
    if privacy.unit == "record":
        rate, batch = config.schedule.sampling_rate, config.schedule.expected_batch
        assert rate is not None, "config_rules demands it"
        assert batch is not None, "config_rules demands it"
        work: SampledGradients | LocalUpdate = SampledGradients(rate)
        stages = noised(mechanism, denominator=batch, units=BATCH_HEADROOM * batch)
        release = mechanism.release("sum of sampled records' gradients", sampling=Sampling.poisson(rate))
    else:
        work = LocalUpdate(config.schedule.local)
        stages = noised(mechanism, denominator=facts.parties, units=1)
        release = mechanism.release("sum of clients' updates")
    return System(
        name="hedge",
        paper="privet; central DP-SGD is Abadi et al., arXiv 1607.00133, Algorithm 1",
        work=work,
        pipeline=Pipeline([*encoders(facts), *stages]),
        optimiser=config.schedule.server,
        release=release,
        mechanism=mechanism,
        shared_noise=True,
    )
