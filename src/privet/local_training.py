"""Local training of a client in federated averaging: ordinary mini-batch steps on the flat vector.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv
1602.05629, Algorithm 1 (ClientUpdate); AdamW from Loshchilov and Hutter, arXiv 1711.05101, Algorithm 2. No
step here is private.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.keys import Stream
from privet.lora import Vector
from privet.sequences import ExampleLike

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class MeanGradient(Protocol):
    """What local training needs of a trainer."""

    def set_flat(self, flat: Vector) -> None:
        """Takes ``flat``, float32 [D], as the trained values."""

    def warm(self, examples: Sequence[ExampleLike], spare: Sequence[ExampleLike]) -> None:
        """Is told which records come next, and which may come later, to prepare many of them together."""

    def mean_gradient(self, examples: Sequence[ExampleLike], micro_batch: int = 32) -> tuple[Vector, float]:
        """Mean gradient, float32 [D], and mean loss of the records."""


class LocalSteps(Protocol):
    """The ``local`` section of a configuration.

    Attributes:
        steps: Optimiser steps.
        batch_size: Records a step.
        optimiser: ``sgd``, or ``adamw`` (without weight decay, its state fresh at every call).
        learning_rate: Size of a step; constant.
    """

    @property
    def steps(self) -> int: ...  # noqa: D102 - described above
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def optimiser(self) -> Literal["sgd", "adamw"]: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102


def train_locally(
    trainer: MeanGradient,
    flat: Vector,
    examples: Sequence[ExampleLike],
    local: LocalSteps,
    seed: bytes,
    *,
    micro_batch: int = 32,
) -> Vector:
    """Trains from ``flat`` for ``local.steps`` steps.

    Args:
        trainer: Model and adapter; left with the last step's values.
        flat: Where to start, float32 [D]; not changed.
        examples: The client's records, at least one. Every record comes once before any comes twice.
        local: Number, size and rule of the steps.
        seed: 32 bytes that order the batches. Kept at the client, since the order says which records met.
        micro_batch: Records that pass through the model together; bounds memory.

    Returns:
        The new values, float32 [D], a fresh array.
    """
    values = np.array(flat, np.float32)
    first, second = np.zeros_like(values), np.zeros_like(values)
    batches = list(islice(_batches(len(examples), local.batch_size, seed), local.steps))
    # The frozen layers take whole groups of records: a batch by itself would leave most of a group empty.
    trainer.warm([examples[i] for i in sorted({int(i) for batch in batches for i in batch})], examples)
    for number, batch in enumerate(batches, start=1):
        trainer.set_flat(values)
        gradient, _ = trainer.mean_gradient([examples[i] for i in batch], micro_batch)
        if local.optimiser == "adamw":
            first += np.float32(1 - BETA_1) * (gradient - first)
            second += np.float32(1 - BETA_2) * (gradient * gradient - second)
            size = local.learning_rate / (1 - BETA_1**number)
            root = np.sqrt(second / np.float32(1 - BETA_2**number))
            values -= np.float32(size) * first / (root + np.float32(EPSILON))
        else:
            values -= np.float32(local.learning_rate) * gradient
    return values


def _batches(count: int, size: int, seed: bytes) -> Iterator[NDArray[np.int64]]:
    """Batches of positions without end; each pass over the records in a new order, its last batch short."""
    stream = Stream(seed)
    while True:
        order = np.argsort(stream.uint64(count), kind="stable")
        yield from np.split(order, range(size, count, size))
