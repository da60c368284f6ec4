"""``dr_encoder``: an autoencoder that learns from noisy statistics, and noisy codes of updates made by it.

DR-Encoder: Encode Low-rank Gradients with Random Prior for Large Language Models Differentially Privately,
arXiv 2412.17053; here with a bound and noise on what its first stage sends:

    stage 1, E times: every client sends mean and std of each group of tensors of its update, times the root of the
                group's size, so that the message is as long as the update; clipped to C1, with its share of noise.
                The server half draws synthetic updates from the mean statistics and trains the encoder on them.
    stage 2, each round: every client encodes its update, clips the *code* to C2 and adds its share of noise.
                The sum opens, is decoded, and the server steps along it.

mu^2 = E/sigma1^2 + T/sigma2^2 with every client in every release, whatever the encoder is: docs/two-stage-proof.md.
`system.statistics.share` is stage 1's part of it, and one calibration finds both multipliers. The paper's own
setting, ``faithful: true``, sends exact statistics, which no finite epsilon covers.
With ``unit: record`` the gradients of Poisson-sampled records take the place of clients' updates in both stages.
"""

from __future__ import annotations

import math
from dataclasses import replace

from privet.codecs.prior import StatisticsCode
from privet.config import Config
from privet.mechanism import GaussianMechanism
from privet.pipeline import Encode, Pipeline
from privet.privacy.events import NoGuarantee
from privet.systems.base import Facts, Preparation, System
from privet.systems.parts import encoders, public_rounding, summands

PAPER = "arXiv 2412.17053"
EXACT = "every client's statistics are exact: two neighbours whose statistics differ are told apart with certainty"
PLAIN = "codes are neither clipped nor noised: whoever sees their sum may learn the records"


def dr_encoder(config: Config, facts: Facts) -> System:
    """Compose both stages for a configuration."""
    assert config.system.kind == "dr_encoder"
    asked, rounds = config.system.statistics, config.schedule.rounds
    units = summands(config, facts)
    code = StatisticsCode(facts.tensors, asked.prior, asked.moments, asked.groups)
    first = second = None
    if config.privacy is not None:
        second = GaussianMechanism(facts.clip_norm, facts.noise_multiplier, facts.size, facts.floor)
        # E/sigma1^2 : T/sigma2^2 = share : 1 - share
        sigma = facts.noise_multiplier * math.sqrt(asked.releases * (1 / asked.share - 1) / rounds)
        first = GaussianMechanism(asked.clip_norm or facts.clip_norm, sigma, code.size, facts.floor)
    faithful = config.system.faithful

    def stage(name: str, encode: list[Encode], mechanism: GaussianMechanism | None, reason: str) -> System:
        stages = units.noised(mechanism) if mechanism else [public_rounding(facts, units.denominator)]
        return System(
            name="dr_encoder",
            paper=f"{PAPER}, as published" if faithful else f"{PAPER}, with noise in both stages",
            work=units.work,
            pipeline=Pipeline([*encode, *stages]),
            optimiser=config.schedule.server,
            release=mechanism.release(name, sampling=units.sampling)
            if mechanism
            else NoGuarantee(name, reason),
            mechanism=mechanism,
            shared_noise=mechanism is not None and config.sealing.kind != "none",
        )

    statistics = stage("stage 1 statistics", [Encode(code)], None if faithful else first, EXACT)
    codes = stage("stage 2 codes", encoders(facts), second, PLAIN)
    return replace(codes, preparation=Preparation(asked.releases, statistics, code))
