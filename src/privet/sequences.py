"""Records as the trainer sees them: the tokens that matter, and micro-batches of similar length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LENGTH_STEP = 16
"""Lengths that share a shape differ by less than this."""


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


@dataclass(frozen=True, order=True)
class Shape:
    """What fixes the arithmetic of a pass: the sizes of its matrix products.

    Attributes:
        width: Tokens of each row, padding included.
        targets: Positions of each row that the head computes.
        rows: Records, dummies included.
    """

    width: int
    targets: int
    rows: int

    @classmethod
    def of(cls, sequence: TokenSequence, most_rows: int) -> Shape:
        """The shape in which a record passes, a function of its own length and supervised positions.

        Widths go in steps of 16 and targets in powers of two. Rows are as many as fill 256 tokens, eight at
        most, but four while they fit in 512 tokens: more would be dummies most of the time.

        Args:
            sequence: The record; not empty.
            most_rows: Most rows in a pass.
        """
        width = padded_length(len(sequence))
        targets = min(1 << (len(sequence.positions) - 1).bit_length(), width)
        rows = max(min(8, 256 // width), min(4, 512 // width), 1)
        return cls(width, targets, min(rows, most_rows))


def padded_length(length: int) -> int:
    """``length`` rounded up to a multiple of `LENGTH_STEP`."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Sequences that pass through the model together, padded on the right with zeros.

    Attributes:
        sequences: Its b sequences; none is empty.
        ids: int64 [rows, T]; rows is b, or more where a shape is filled up with dummies.
        where: int64 [n]; positions in the flattened [rows·T] that the head computes: the supervised ones, and
            others of weight 0 that fill up a shape.
        labels: int64 [n]; a sequence's own first label where nothing is supervised.
        owner: int64 [n]; the row that each position belongs to.
        weights: float32 [n]; one over the number of supervised positions of the record, 0 at a filling one.
    """

    sequences: tuple[TokenSequence, ...]
    ids: NDArray[np.int64]
    where: NDArray[np.int64]
    labels: NDArray[np.int64]
    owner: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence], shape: Shape | None = None) -> MicroBatch:
        """Pads ``sequences`` to the longest of them, or to ``shape``, in which each of them fits."""
        width = max(len(s) for s in sequences) if shape is None else shape.width
        ids = np.zeros((len(sequences) if shape is None else shape.rows, width), np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence.inputs
        positions = [s.positions for s in sequences]
        labels = [s.labels for s in sequences]
        weights = [np.full(len(p), 1.0 / len(p), np.float32) for p in positions]
        if shape is not None:
            dummies = shape.rows - len(sequences)
            positions += [np.zeros(0, np.int64)] * dummies
            labels += [labels[0][:0]] * dummies
            weights += [np.zeros(0, np.float32)] * dummies
            unused = [np.delete(np.arange(width), p)[: shape.targets - len(p)] for p in positions]
            fill = [(own if len(own) else labels[0])[0] for own in labels]
            positions = [np.concatenate(pair) for pair in zip(positions, unused, strict=True)]
            labels = [
                np.concatenate([own, np.full(len(more), label, np.int64)])
                for own, more, label in zip(labels, unused, fill, strict=True)
            ]
            weights = [
                np.concatenate([own, np.zeros(len(more), np.float32)])
                for own, more in zip(weights, unused, strict=True)
            ]
        where = np.concatenate([row * width + p for row, p in enumerate(positions)])
        owner = np.repeat(np.arange(len(positions)), [len(p) for p in positions])
        return cls(tuple(sequences), ids, where, np.concatenate(labels), owner, np.concatenate(weights))

    def per_record(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted sums over each record's supervised positions, float32 [b]; added in float64."""
        real = self.weights > 0
        parts = np.float64(1) * values[real] * self.weights[real]
        return np.bincount(self.owner[real], parts, minlength=len(self.sequences)).astype(np.float32)


def groups_of_one_shape(
    sequences: Iterable[TokenSequence], shape_of: Callable[[TokenSequence], Shape]
) -> Iterator[tuple[Shape, list[TokenSequence]]]:
    """Groups non-empty sequences that pass in one `Shape`; the last group of a shape may be short of rows."""
    by_shape: defaultdict[Shape, list[TokenSequence]] = defaultdict(list)
    for sequence in sorted(sequences, key=lambda s: (len(s), s.id)):
        by_shape[shape_of(sequence)].append(sequence)
    for shape, members in sorted(by_shape.items()):
        for start in range(0, len(members), shape.rows):
            yield shape, members[start : start + shape.rows]


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
