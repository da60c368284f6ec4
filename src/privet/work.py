"""What a client computes in a round: from its records and the adapter to privacy units for the pipeline.

There are three kinds of work. :class:`SampledGradients` gives one unit a sampled record; :class:`LocalUpdate` trains
locally and gives one unit a client; :class:`LocalDpSgd` trains locally with a private step each, so that its update is
already post-processing of noised sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from privet.config import LocalConfig
from privet.pipeline import Floats, Pass, Pipeline, Units


class ExampleLike(Protocol):
    """A tokenised record; its identity is all that the private part of a client needs to know of it."""

    @property
    def id(self) -> str:
        """Name of the record within the run."""


class Trainer(Protocol):
    """Gradients and local training of one model; silos in one process share it."""

    @property
    def dimension(self) -> int:
        """Trained values D."""

    def set_flat(self, flat: Floats) -> None:
        """Take ``flat``, float32 [D], as the trained values."""

    def per_unit_gradients(
        self, examples: Sequence[ExampleLike], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        """Names and gradients float32 [b, D] of the records' mean NLL, micro-batch by micro-batch."""

    def mean_gradient(self, examples: Sequence[ExampleLike]) -> Floats:
        """Gradient of the mean loss over the records, float32 [D]."""

    def train_locally(
        self, flat: Floats, examples: Sequence[ExampleLike], local: LocalConfig, seed: bytes
    ) -> Floats:
        """New values, float32 [D], after local steps from ``flat``; ``seed`` orders the batches."""


class SecretRandomness(Protocol):
    """A client's randomness for one round and attempt: noise, rounding, sampling and order."""

    def noise(self, purpose: str) -> bytes:
        """See :class:`privet.pipeline.RoundKeys`."""

    def rounding(self, units: Sequence[str]) -> list[bytes]:
        """See :class:`privet.pipeline.RoundKeys`."""

    def sample(self, units: Sequence[str], rate: float) -> list[int]:
        """Positions that an independent Poisson draw at ``rate`` picks out of ``units``; never truncated."""

    def order(self, scope: str) -> bytes:
        """32 bytes that order batches."""


@dataclass(frozen=True)
class Workplace:
    """What a client works with.

    Attributes:
        name: The client's name, which is the privacy unit where one unit is one client.
        trainer: Model and adapter.
        examples: The client's records.
        micro_batch: Records whose gradients are in memory at once.
    """

    name: str
    trainer: Trainer
    examples: Sequence[ExampleLike]
    micro_batch: int


class Work(Protocol):
    """One of the kinds of work."""

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """The client's privacy units for the pipeline, in micro-batches."""


@dataclass(frozen=True)
class SampledGradients:
    """Poisson-sample records at a public rate; one descent direction a record (Abadi et al., arXiv 1607.00133)."""

    rate: float

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """Batches as large as the draw makes them; an empty draw gives no unit, and the pipeline still adds noise."""
        place.trainer.set_flat(flat)
        chosen = keys.sample([passing.scope + example.id for example in place.examples], self.rate)
        passing.count("sampled", len(chosen))
        sampled = [place.examples[i] for i in chosen]
        for ids, gradients in place.trainer.per_unit_gradients(sampled, place.micro_batch):
            yield Units(tuple(ids), -gradients)


@dataclass(frozen=True)
class LocalUpdate:
    """Train locally; the whole update is one unit (McMahan et al. 2017, Algorithm 1).

    Attributes:
        local: Number and size of the steps.
        own_mask: Share of its coordinates, the smallest ones, that a client sends as zeros in a round
            (arXiv 2506.05640 as published; it tells which coordinates moved, and saves no byte).
    """

    local: LocalConfig
    own_mask: Callable[[int], float] | None = None

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """One unit, [1, D]; a client without records gives none."""
        if place.examples:
            trained = place.trainer.train_locally(flat, place.examples, self.local, keys.order(passing.scope))
            update = trained - flat
            if self.own_mask is not None:
                dropped = round(self.own_mask(passing.round.number) * len(update))
                update[np.argsort(np.abs(update), kind="stable")[:dropped]] = 0
            yield Units((place.name,), update[None, :])


@dataclass(frozen=True)
class BatchGradient:
    """The mean gradient of a batch as one unit, as arXiv 2312.17493 clips it: the unit it could protect is a client."""

    batch_size: int

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """One unit, [1, D], of a batch drawn without replacement in an order of its own."""
        if place.examples:
            place.trainer.set_flat(flat)
            order = np.random.Generator(
                np.random.Philox(key=int.from_bytes(keys.order(passing.scope)[:16], "big"))
            )
            chosen = order.permutation(len(place.examples))[: self.batch_size]
            gradient = place.trainer.mean_gradient([place.examples[i] for i in chosen])
            yield Units((place.name,), -gradient[None, :])


@dataclass(frozen=True)
class LocalDpSgd:
    """Local DP-SGD: every step clips per record, rounds, adds this silo's own full noise, and moves.

    The update is post-processing of the noised sums, so it needs no further clip or noise.

    Attributes:
        gradients: How a step samples.
        step: Pipeline of one step, with the silo's mechanism and the public batch denominator.
        local: Number and size of the steps.
    """

    gradients: SampledGradients | BatchGradient
    step: Pipeline
    local: LocalConfig

    def units(self, place: Workplace, flat: Floats, keys: SecretRandomness, passing: Pass) -> Iterator[Units]:
        """One unit, [1, D]; also where every draw was empty."""
        values = flat
        for number in range(self.local.steps):
            # The client's weight counts once, where its update is rounded.
            within = replace(passing, scope=f"step/{number}/", weight=1.0, observed=passing.observed)
            units = self.gradients.units(place, values, keys, within)
            direction = self.step.backward(self.step.forward(units, len(flat), within))
            values = (values + np.float32(self.local.learning_rate) * direction).astype(np.float32)
        yield Units((place.name,), (values - flat)[None, :])
