"""A fast random projection with exactly orthonormal rows.

Permute, flip signs, transform blocks with the Walsh-Hadamard matrix, keep k of the D outputs (the subsampled
randomised Hadamard transform of Ailon and Chazelle 2006). D is cut into blocks of powers of two, the last
ones after the binary digits of what is left, so nothing is padded and the rows stay orthonormal: encoding
never raises a norm. Only a seed travels. It is the control that every other codec has to beat: it knows
nothing about updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from privet.codec_config import Scale
from privet.codecs.base import FloatArray, LinearCodec, Provenance, as_batch, as_code, body_int, body_str
from privet.codecs.seeded import permutation, signs
from privet.errors import PrivetError
from privet.protocol import RoundAborted
from privet.wire import Body

LARGEST_BLOCK = 4096
"""Enough mixing (each output spreads over 4096 random coordinates), and a block row still fits the cache."""

F = TypeVar("F", np.float32, np.float64)


@dataclass(frozen=True)
class RandomProjection(LinearCodec):
    """An orthonormal projection from ``dimension`` to ``size`` numbers, drawn from a public ``seed``.

    Attributes:
        dimension: D.
        size: k, at most D.
        seed: Public seed.
        scale: ``projection`` decodes to the orthogonal projection, whose expectation is (k/D) x; ``unbiased``
            multiplies that by D/k.
    """

    kind: ClassVar[str] = "random_projection"
    provenance: ClassVar[Provenance] = Provenance.SEED
    dimension: int
    size: int
    seed: int
    scale: Scale = "projection"

    def __post_init__(self) -> None:
        check_size(self.dimension, self.size)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return permutation(self.seed, "projection order", self.dimension)

    @cached_property
    def _signs(self) -> FloatArray:
        return signs(self.seed, "projection signs", self.dimension)

    @cached_property
    def _kept(self) -> NDArray[np.int64]:
        return np.sort(permutation(self.seed, "projection rows", self.dimension)[: self.size])

    def encode(self, batch: FloatArray) -> FloatArray:
        """Codes [b, k] of [b, D]; one row's code does not depend on the other rows, bit for bit."""
        mixed = as_batch(batch, self.dimension)[:, self._order] * self._signs
        return blockwise_hadamard(mixed)[:, self._kept]

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The projection, or its unbiased multiple, of the vector [D] with this code [k]."""
        mixed = np.zeros((1, self.dimension), np.float64)
        mixed[0, self._kept] = as_code(total, self.size)
        out = np.empty(self.dimension, np.float64)
        out[self._order] = blockwise_hadamard(mixed)[0] * self._signs
        if self.scale == "unbiased":
            out *= self.dimension / self.size
        return out.astype(np.float32)

    def to_body(self) -> Body:
        """Sizes and the seed."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "size": self.size,
            "seed": self.seed,
            "scale": self.scale,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> RandomProjection:
        """The codec of a message."""
        return cls(
            body_int(body, "dimension"), body_int(body, "size"), body_int(body, "seed"), scale_of(body)
        )


def check_size(dimension: int, size: int) -> None:
    """Refuse a code that is empty or larger than what it encodes.

    Raises:
        PrivetError: then.
    """
    if not 1 <= size <= dimension:
        raise PrivetError("is no size of a code", field="codec", given=size, allowed=f"1 to {dimension}")


def scale_of(body: Mapping[str, Any]) -> Scale:
    """The decoding scale in a codec's message.

    Raises:
        RoundAborted: if it is unknown.
    """
    match body_str(body, "scale"):
        case "projection":
            return "projection"
        case "unbiased":
            return "unbiased"
    raise RoundAborted("codec message names an unknown scale")


def blockwise_hadamard(rows: NDArray[F]) -> NDArray[F]:
    """Orthonormal Walsh-Hadamard transform of blocks of [b, D], in place where ``rows`` allows it.

    Blocks are columns (axis 2) of a [b, block, count] view, so that the butterflies run over contiguous
    memory. The transform is its own inverse.
    """
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for block, count in _blocks(rows.shape[1]):
            part = rows[:, start : start + block * count]
            rows[:, start : start + block * count] = _hadamard(part.copy(), block, count)
            start += block * count
    return rows


def _blocks(dimension: int) -> list[tuple[int, int]]:
    whole, rest = divmod(dimension, LARGEST_BLOCK)
    blocks = [(LARGEST_BLOCK, whole)] if whole else []
    return blocks + [(1 << bit, 1) for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def _hadamard(part: NDArray[F], block: int, count: int) -> NDArray[F]:
    half = 1
    while half < block:
        pairs = part.reshape(len(part), block // (2 * half), 2, half * count)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        difference = upper - lower
        upper += lower
        lower[...] = difference
        half *= 2
    part *= part.dtype.type(block**-0.5)
    return part
