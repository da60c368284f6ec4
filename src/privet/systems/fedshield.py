"""``fedshield``: LoRA, magnitude pruning and encryption of the updates.

Li, Zhang, Zhang et al.: FedShield-LLM, arXiv 2506.05640, Algorithm 1; the sound default corrects what it gets wrong:

    each round: every client trains the adapter on its records and takes the difference (the paper: the weights);
                coordinates outside *one public mask*, the largest of the last released update, are dropped before
                quantising and packing (the paper: each client its own mask, zeros encrypted with the rest);
                what is left is sealed; only the sum opens, at the clients (the paper: the aggregator has the key).

The share pruned follows the published schedule with a cap. Encryption hides single updates and gives no epsilon: the
opened sum still tells about records. With a privacy section every client adds a share of one noise inside its sealed
values, and the epsilon of that stands (unit: client).
"""

from __future__ import annotations

from privet.codecs.prune import pruned_share
from privet.config import Config
from privet.mechanism import GaussianMechanism
from privet.pipeline import Clip, Pipeline, Round, Share
from privet.privacy.events import NoGuarantee, Release
from privet.systems.base import Facts, System
from privet.systems.parts import encoders, noised, public_rounding
from privet.work import LocalUpdate

REASON = (
    "encryption and pruning hide single updates, not what their opened sum says about records; "
    "add a privacy section for noise inside the sealed values"
)


def fedshield(config: Config, facts: Facts) -> System:
    """Compose the system for a configuration."""
    assert config.system.kind == "fedshield"
    faithful, mask, rounds = config.system.faithful, config.system.own_mask, config.schedule.rounds

    def own_mask(number: int) -> float:
        return pruned_share(number, rounds, start_round=mask.start_round, start=mask.start, end=mask.end)

    denominator = facts.total_weight(config.schedule.weights)
    mechanism: GaussianMechanism | None = None
    stages: list[Clip | Round | Share] = [public_rounding(facts, denominator)]
    release: Release | NoGuarantee = NoGuarantee("opened sums of updates", REASON)
    if config.privacy is not None:
        mechanism = GaussianMechanism(facts.clip_norm, facts.noise_multiplier, facts.size, facts.floor)
        stages = noised(mechanism, denominator=denominator, units=1)
        release = mechanism.release("sum of clients' updates")
    return System(
        name="fedshield",
        paper="arXiv 2506.05640, Algorithm 1"
        + ("" if faithful else ", with one public mask and keys at the clients"),
        work=LocalUpdate(config.schedule.local, own_mask if faithful else None),
        pipeline=Pipeline([*encoders(facts), *stages]),
        optimiser=config.schedule.server,
        release=release,
        mechanism=mechanism,
        shared_noise=mechanism is not None,
    )
