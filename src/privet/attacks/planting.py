"""Canaries: units whose contribution the auditor chooses, planted where a system asks for gradients or updates.

Everything after that is the run's own: sampling, encoder, clip, rounding, noise, seal and sum. A canary's vector
is far longer than any clip norm, so that what is summed has the full length that the ledger accounts for.

Where one unit is a record, a canary is a record of a silo, and the silo samples it as any other. Where one unit
is a client, a silo stands for several clients of the cohort, each a row of its own for the clip: the pipeline
sums units before it adds noise, so the opened sum is distributed as that of a larger cohort with the same total
noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.codecs.prior import StatisticsCode
from privet.config import Config, LocalConfig
from privet.pipeline import Floats, Pass, Units
from privet.systems import System
from privet.work import (
    BatchGradient,
    LocalDpSgd,
    LocalUpdate,
    SampledGradients,
    SecretRandomness,
    Work,
    Workplace,
)

LENGTH = 1e4
"""Norm of a canary's vector where something clips it: beyond any clip norm in use."""


@dataclass(frozen=True)
class Canary:
    """A record, or a client, that always pulls along one vector.

    Attributes:
        id: Its name.
        dimension: Trained values D.
        places: Its coordinates, int64 [d].
        values: What stands there, float32 [d]; zero elsewhere.
    """

    id: str
    dimension: int
    places: NDArray[np.int64]
    values: Floats

    @property
    def opposite(self) -> Canary:
        """The record, or client, that pulls the other way: what a canary is replaced by."""
        return replace(self, values=-self.values)

    @property
    def vector(self) -> Floats:
        """The whole vector, float32 [D]; made anew each time, since many canaries would fill the memory."""
        vector = np.zeros(self.dimension, np.float32)
        vector[self.places] = self.values
        return vector


@dataclass(frozen=True)
class CanaryTrainer:
    """A trainer for whom every record is a canary."""

    dimension: int

    def set_flat(self, flat: Floats) -> None:
        """Canaries pull the same way wherever the adapter stands."""

    def per_unit_gradients(
        self, examples: Sequence[Any], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        """Names and gradients: the canaries' vectors, downhill."""
        for start in range(0, len(examples), micro_batch):
            part = examples[start : start + micro_batch]
            yield tuple(c.id for c in part), -np.stack([c.vector for c in part])

    def mean_gradient(self, examples: Sequence[Any]) -> Floats:
        """Not asked for: systems that take the mean of a batch are planted with whole units."""
        raise NotImplementedError

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        """Not asked for: systems that train locally are planted with whole units."""
        raise NotImplementedError


@dataclass(frozen=True)
class CanaryClients:
    """Work that gives one unit a canary, in place of a system's own units of whole clients."""

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """The canaries of this silo, in micro-batches."""
        canaries: Sequence[Any] = place.examples
        for start in range(0, len(canaries), place.micro_batch):
            part = canaries[start : start + place.micro_batch]
            yield Units(tuple(c.id for c in part), np.stack([c.vector for c in part]))


def without_memory(config: Config) -> Config:
    """The configuration without error feedback: a silo that stands for several clients has but one memory.

    What is charged does not depend on it, since the clip comes after it.
    """
    codec = config.codec.model_copy(update={"error_feedback": False})
    return config.model_copy(update={"codec": codec})


def with_canaries(system: System) -> System:
    """The system with canaries in the place of its units; records that it samples stay sampled."""
    preparation = system.preparation
    if preparation is not None:
        preparation = replace(preparation, system=with_canaries(preparation.system))
    return replace(system, work=_planted(system.work), preparation=preparation)


def _planted(work: Work) -> Work:
    match work:
        case SampledGradients():
            return work
        case LocalDpSgd():
            gradients: Any = _planted(work.gradients)
            return replace(work, gradients=gradients)
        case LocalUpdate() | BatchGradient():
            return CanaryClients()
    raise TypeError(f"no canary can be planted into {type(work).__name__}")


def canaries_of_statistics(code: StatisticsCode, seed: int, length: float = LENGTH) -> list[Canary]:
    """Two canaries in each group of tensors: one a constant, one of mean zero.

    Their messages in a stage that sends mean and standard deviation of each group are orthogonal, and so are they.

    Args:
        code: Stage 1's code.
        seed: Draws signs.
        length: Norm of each.
    """
    generator = np.random.default_rng(seed)
    ends = np.cumsum([0] + [int(np.prod(shape)) for _, shape in code.layout])
    rows = []
    for group in range(len(code.counts)):
        members = [np.arange(ends[i], ends[i + 1]) for i in np.flatnonzero(code.group_of == group)]
        own = np.concatenate(members)
        own = own[: len(own) - len(own) % 2]
        balanced = generator.permutation(np.repeat([-1.0, 1.0], len(own) // 2))
        for name, signs in (("mean", np.ones(len(own))), ("spread", balanced)):
            values = (signs * length / np.sqrt(len(own))).astype(np.float32)
            rows.append(Canary(f"canary/{group}/{name}", code.dimension, own, values))
    return rows


def canaries(count: int, dimension: int, seed: int, length: float = LENGTH) -> list[Canary]:
    """Canaries in orthogonal directions: random signs on disjoint, randomly chosen coordinates.

    Args:
        count: How many; at most ``dimension``.
        dimension: Trained values D.
        seed: Draws signs and places.
        length: Norm of each; 1 where nothing clips, since the public grid ends somewhere.
    """
    generator = np.random.default_rng(seed)
    places = np.array_split(generator.permutation(dimension), count)
    rows = []
    for number, own in enumerate(places):
        signs = np.where(generator.random(len(own)) < 0.5, -1, 1)
        values = (signs * length / np.sqrt(len(own))).astype(np.float32)
        rows.append(Canary(f"canary/{number}", dimension, own, values))
    return rows
