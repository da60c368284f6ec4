"""Candidate clients for membership in a first stage: real updates of blocks of records, in or out by coin.

A candidate is one client whose update is a step along the mean gradient of a few records. Those that are in take
part as parties of their own; the attacker knows all candidates' updates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.attacks.planting import Canary, CanaryTrainer, with_canaries
from privet.attacks.rehearsal import Rehearsed, Stage, plain_schedule, rehearse
from privet.config import Config
from privet.material import Material, layout_of
from privet.pipeline import Floats


@dataclass(frozen=True)
class Cohort:
    """A run over a random half of the candidates.

    Attributes:
        updates: All candidates' updates, float32 [m, D].
        inside: The coins, bool [m].
        rehearsed: The run.
    """

    updates: Floats
    inside: NDArray[np.bool_]
    rehearsed: Rehearsed


def candidate_updates(material: Material, count: int, batch: int, seed: int) -> Floats:
    """Downhill mean gradients of blocks of training records at the start, float32 [count, D]."""
    trainer = material.trainer
    trainer.set_flat(trainer.backbone.initial_flat())
    records = [e for own in material.silos.values() for e in own]
    order = np.random.default_rng([seed, 5]).permutation(len(records))
    blocks = np.resize(order, (count, batch))
    return np.stack([-trainer.mean_gradient([records[i] for i in block]) for block in blocks])


def cohort(config: Config, material: Material, updates: Floats, seed: int, *, train: bool = False) -> Cohort:
    """Run the first stage of a configuration, and a round after it, over half of the candidates.

    Args:
        config: What runs; unit client.
        material: For the layout of the adapter.
        updates: The candidates, float32 [m, D].
        seed: Draws the coins.
        train: Whether the codec is trained in full, or hardly.
    """
    dimension = updates.shape[1]
    half = np.arange(len(updates)) % 2 == 0
    inside = np.random.default_rng([seed, 6]).permutation(half)
    everywhere = np.arange(dimension)
    records = {
        f"client{i}": [Canary(f"client{i}", dimension, everywhere, updates[i])]
        for i in np.flatnonzero(inside)
    }
    schedule = plain_schedule(config, layout_of(material), 1, train=train)
    initial = material.trainer.backbone.initial_flat()
    stage = Stage(config, CanaryTrainer(dimension), initial, schedule)
    rehearsed = rehearse(stage, records, rounds=1, change=with_canaries)
    return Cohort(updates, inside, rehearsed)
