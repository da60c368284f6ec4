"""The control of codecs that follow public records: the adapter that training on those records alone would give.

A subspace of public gradients keeps what the public records know, so a run in it looks good wherever they are enough by
themselves. The control has the run's own schedule: as many rounds of the same server optimiser, each along one batch
of public records as large as the expected batch of the federation, or one client's local training. No private record is
touched, and nothing is noised.
"""

from __future__ import annotations

import hashlib

import numpy as np

from privet.codec_config import PublicSubspaceCodec, RowPcaCodec
from privet.config import Config
from privet.material import Material
from privet.optimiser import Optimiser
from privet.pipeline import Floats

NAME = "public alone"
"""In ``metrics.jsonl``, where other rows say ``before`` and ``after``."""


def wants_control(config: Config) -> bool:
    """Whether the run's codec follows public records or self-written sentences."""
    return isinstance(config.codec, RowPcaCodec | PublicSubspaceCodec)


def train_on_public_alone(config: Config, material: Material) -> Floats:
    """The trained values, float32 [D], from the records that the codec may follow: all of them, with their labels."""
    records, schedule = material.written or material.public, config.schedule
    trainer = material.trainer
    flat = trainer.backbone.initial_flat()
    optimiser = Optimiser.fresh(schedule.server, len(flat), schedule.rounds)
    whole = config.privacy is None or config.privacy.unit == "client"
    for number in range(schedule.rounds):
        seed = hashlib.sha256(f"{NAME}/{config.seed}/{number}".encode()).digest()
        if whole or schedule.expected_batch is None:
            direction = trainer.train_locally(flat, records, schedule.local, seed) - flat
        else:
            draw = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "big")))
            chosen = draw.permutation(len(records))[: max(1, round(schedule.expected_batch))]
            trainer.set_flat(flat)
            direction = -trainer.mean_gradient([records[i] for i in sorted(chosen)])
        flat = optimiser.step(flat, direction)
    return flat
