"""Candidates for membership in a first stage: real updates of blocks of records, or gradients of single ones, in or out
by coin.

A candidate is one unit: a client whose update is a step along the mean gradient of a few records, or a record. Each has
a party of its own, which holds nothing where the coin says out, so a coin is between two neighbours: its candidate and
zero. Coins are fair and independent; were a fixed number in, a coin would swap one candidate with another, and a swap
moves a sum by twice what is charged. The attacker knows all candidates' updates and the number of parties."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.attacks.planting import Canary, CanaryTrainer, with_canaries
from privet.attacks.rehearsal import (
    Rehearsed,
    Stage,
    everybody_in,
    plain_schedule,
    rehearse,
    with_schedule,
)
from privet.clip import clip_rows
from privet.codec_schedule import CodecSchedule
from privet.config import Config
from privet.material import Material, layout_of
from privet.pipeline import Clip, Encode, Floats
from privet.systems.base import Preparation


@dataclass(frozen=True)
class Cohort:
    """A run over the candidates whose coins say in.

    Attributes:
        updates: All candidates' updates, float32 [m, D].
        inside: The coins, bool [m].
        schedule: What makes the codec of what the first stage gave.
        rehearsed: The run.
    """

    updates: Floats
    inside: NDArray[np.bool_]
    schedule: CodecSchedule
    rehearsed: Rehearsed

    @property
    def preparation(self) -> Preparation:
        """The first stage."""
        preparation = self.rehearsed.resolved.system.preparation
        assert preparation is not None, "systems without a first stage have no such candidates"
        return preparation

    def messages(self) -> Floats:
        """What each candidate sends in the first stage, before rounding and noise, float32 [m, k]."""
        values = self.updates
        for stage in self.preparation.system.pipeline.stages:
            if isinstance(stage, Encode):
                values = stage.codec.encode(values)
            if isinstance(stage, Clip):
                values = clip_rows(values, stage.norm)[0]
        return values


def candidate_updates(material: Material, count: int, batch: int, seed: int) -> Floats:
    """Downhill mean gradients of blocks of training records at the start, float32 [n, D].

    Blocks share no record, so n is ``count`` at most.
    """
    trainer = material.trainer
    trainer.set_flat(trainer.backbone.initial_flat())
    records = [e for own in material.silos.values() for e in own]
    order = np.random.default_rng([seed, 5]).permutation(len(records))
    blocks = order[: len(order) // batch * batch].reshape(-1, batch)[:count]
    rows = [-trainer.mean_gradient([records[i] for i in block]) for block in blocks]
    return np.stack(rows) if rows else np.zeros((0, trainer.dimension), np.float32)


def without_noise(config: Config) -> Config:
    """The positive control: the configuration with exact statistics, as ``dr_encoder`` was published."""
    update: dict[str, Any] = {"privacy": None}
    if config.system.kind == "dr_encoder":
        update["system"] = config.system.model_copy(update={"faithful": True})
    return config.model_copy(update=update)


def coins(count: int, seed: int) -> NDArray[np.bool_]:
    """Who is in, bool [count]: a fair coin for each, so that also all or none may be."""
    return np.random.default_rng([seed, 6]).random(count) < 0.5


def subsets(count: int) -> NDArray[np.bool_]:
    """All that the coins may say, bool [2^count, count]."""
    return np.array(list(product([False, True], repeat=count)))


def cohort(config: Config, material: Material, updates: Floats, seed: int) -> Cohort:
    """Run the first stage of a configuration, and a round after it, over the candidates whose coins say in.

    Nobody colludes here and nobody is missing, so the opened sum holds just the noise that the ledger charges.

    Args:
        config: What runs.
        material: For the layout of the adapter.
        updates: The candidates, float32 [m, D].
        seed: Draws the coins.
    """
    dimension = updates.shape[1]
    inside = coins(len(updates), seed)
    everywhere = np.arange(dimension)
    records = {
        f"client{i}": [Canary(f"client{i}", dimension, everywhere, updates[i])] if coin else []
        for i, coin in enumerate(inside)
    }
    config = with_schedule(everybody_in(config, len(updates) / 2), min_survivors=None, weights=None)
    if config.privacy is not None:
        trust = config.privacy.trust.model_copy(update={"colluders": 0})
        config = config.model_copy(update={"privacy": config.privacy.model_copy(update={"trust": trust})})
    schedule = plain_schedule(config, layout_of(material), config.schedule.rounds)
    initial = material.trainer.backbone.initial_flat()
    stage = Stage(config, CanaryTrainer(dimension), initial, schedule)
    rehearsed = rehearse(stage, records, rounds=1, change=with_canaries)
    return Cohort(updates, inside, schedule, rehearsed)
