"""Records as the trainer sees them: the tokens that matter, and micro-batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ExampleLike(Protocol):
    """A tokenised record.

    Attributes:
        id: Name of the record.
        input_ids: int [length], not padded.
        supervised: bool [length]; position i is true if ``input_ids[i + 1]`` is learned there. The last is
            false.
    """

    @property
    def id(self) -> str: ...  # noqa: D102 - described above
    @property
    def input_ids(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def supervised(self) -> NDArray[np.bool_]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """The part of a record that its loss depends on.

    What follows the last supervised position reaches the loss as a label only, so it is cut off.

    Attributes:
        id: The record's.
        inputs: int64 [length]; empty if nothing is supervised.
        positions: int64 [n], rising; the supervised positions in ``inputs``.
        labels: int64 [n]; the token to predict at each of them.
    """

    id: str
    inputs: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, example: ExampleLike) -> TokenSequence:
        """The sequence of a tokenised record.

        Raises:
            ValueError: if the mask doesn't fit the tokens, or the last position is supervised.
        """
        ids, supervised = np.asarray(example.input_ids, np.int64), np.asarray(example.supervised, np.bool_)
        if ids.ndim != 1 or ids.shape != supervised.shape or (len(ids) and supervised[-1]):
            raise ValueError(
                "an example needs one mask entry a token, and its last position has no next token"
            )
        positions = np.flatnonzero(supervised).astype(np.int64)
        length = int(positions[-1]) + 1 if len(positions) else 0
        return cls(example.id, ids[:length], positions, ids[positions + 1])

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Sequences that pass through the model together, padded on the right with zeros.

    Attributes:
        sequences: Its b sequences; none is empty.
        ids: int64 [b, T].
        where: int64 [n]; supervised positions in the flattened [b·T].
        labels: int64 [n].
        owner: int64 [n]; the row in the batch that each supervised position belongs to.
    """

    sequences: tuple[TokenSequence, ...]
    ids: NDArray[np.int64]
    where: NDArray[np.int64]
    labels: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence]) -> MicroBatch:
        """Pads ``sequences`` to the longest of them."""
        width = max(len(s) for s in sequences)
        ids = np.zeros((len(sequences), width), np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence.inputs
        where = np.concatenate([row * width + s.positions for row, s in enumerate(sequences)])
        owner = np.repeat(np.arange(len(sequences)), [len(s.positions) for s in sequences])
        return cls(tuple(sequences), ids, where, np.concatenate([s.labels for s in sequences]), owner)

    @property
    def weights(self) -> NDArray[np.float32]:
        """One over the number of supervised positions of each position's record, float32 [n]."""
        counts = np.bincount(self.owner, minlength=len(self.sequences))
        weights: NDArray[np.float32] = (1.0 / counts[self.owner]).astype(np.float32)
        return weights

    def per_record(self, values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted sums over each record's supervised positions, float32 [b]; added in float64."""
        total = np.bincount(self.owner, np.float64(1) * values * weights, minlength=len(self.sequences))
        return total.astype(np.float32)


def micro_batches(
    sequences: Iterable[TokenSequence], records: int, max_tokens: int
) -> Iterator[list[TokenSequence]]:
    """Groups non-empty sequences in order of length, so that little is padded.

    The groups are a function of the set of sequences alone (ties are broken by id), not of their order.

    Args:
        sequences: What to group.
        records: Most records in a group.
        max_tokens: Most tokens in a group, padding included; a longer record is a group of its own.
    """
    group: list[TokenSequence] = []
    for sequence in sorted(sequences, key=lambda s: (len(s), s.id)):
        if group and (len(group) == records or (len(group) + 1) * len(sequence) > max_tokens):
            yield group
            group = []
        group.append(sequence)
    if group:
        yield group
