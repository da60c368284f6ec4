"""Masks: uniform words of a group, expanded from keys, that cancel in the sum or are taken off by the server.

A client adds to its values one mask that it shares with each other party, with opposite signs, and one of
its own (Bonawitz et al. 2017, sections 4 and 6.1; the double mask). The group is ``Z_m``: m a power of two
where sums are opened as they are, m the plaintext prime where the masked words are encrypted as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privet.keys import Stream

CHUNK = 1 << 16
"""Values that are worked on at once: memory beyond the words themselves is a few chunks."""

MAX_BITS = 62
Words: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True)
class Group:
    """The integers modulo ``modulus``, from 2 to 2**62.

    Words are uint32 where a power of two up to 2**32 allows it, else uint64.
    """

    modulus: int

    def __post_init__(self) -> None:
        if not 2 <= self.modulus <= 1 << MAX_BITS:
            raise ValueError(f"a group's modulus lies between 2 and 2**{MAX_BITS}")

    @classmethod
    def of_bits(cls, bits: int) -> Group:
        """The integers modulo ``2**bits``."""
        return cls(1 << bits)

    @cached_property
    def bits(self) -> int:
        """Bits of a residue."""
        return (self.modulus - 1).bit_length()

    @cached_property
    def is_binary(self) -> bool:
        """Whether the modulus is a power of two, so that machine words wrap around consistently."""
        return self.modulus & (self.modulus - 1) == 0

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of a word."""
        return np.dtype(np.uint32 if self.is_binary and self.bits <= 32 else np.uint64)

    def residues(self, values: NDArray[np.int64]) -> Words:
        """Signed integers of any size to words in ``[0, modulus)``; a new array."""
        if self.is_binary:
            words: Words = values.astype(self.dtype)
            words &= self.dtype.type(self.modulus - 1)
            return words
        return np.mod(values, self.modulus).astype(np.uint64)

    def centred(self, words: Words) -> NDArray[np.int64]:
        """Words in ``[0, modulus)`` to the integers nearest zero, in ``[-modulus//2, modulus//2]``."""
        if self.is_binary:
            # up and arithmetically down again copies the sign bit, in half the time of a subtraction where it is set
            unused = 64 - self.bits
            shifted: NDArray[np.int64] = (words.astype(np.uint64) << np.uint64(unused)).view(np.int64)
            shifted >>= np.int64(unused)
            return shifted
        values = words.astype(np.int64)
        values[values >= (self.modulus + 1) // 2] -= self.modulus
        return values

    def add(self, total: Words, words: Words) -> None:
        """Add words in ``[0, modulus)`` to a total in ``[0, modulus)``, in place."""
        total += words
        self.reduce(total)

    def reduce(self, words: Words) -> None:
        """Bring words back to ``[0, modulus)``, in place."""
        if self.is_binary:
            words &= self.dtype.type(self.modulus - 1)
        else:
            words %= np.uint64(self.modulus)


class MaskStream:
    """The mask that belongs to a key: words uniform on the group, in order, however they are cut in chunks.

    Args:
        key: 32 bytes, for this mask only.
        group: Modulo a power of two the words' upper bits are not cleared; else words at or above the modulus
            were rejected, so the accepted ones are exactly uniform.
    """

    def __init__(self, key: bytes, group: Group) -> None:
        self._stream, self._group = Stream(key), group
        self._ahead: NDArray[np.uint64] = np.empty(0, np.uint64)

    def next(self, count: int) -> Words:
        """The next ``count`` words."""
        if self._group.is_binary:
            wide = self._group.dtype == np.uint64
            return self._stream.uint64(count) if wide else self._stream.uint32(count)
        kept, have = [self._ahead], len(self._ahead)
        while have < count:
            accepted = self._accepted(count - have)
            kept.append(accepted)
            have += len(accepted)
        words = np.concatenate(kept)
        self._ahead = words[count:].copy()
        return words[:count]

    def _accepted(self, wanted: int) -> NDArray[np.uint64]:
        # How many are drawn at once does not matter: surplus words wait, so the sequence stays the same.
        tries = wanted * (1 << self._group.bits) // self._group.modulus + 16
        drawn = self._stream.uint64(tries)
        drawn &= np.uint64((1 << self._group.bits) - 1)
        accepted: NDArray[np.uint64] = drawn[drawn < np.uint64(self._group.modulus)]
        return accepted


def add_masks(words: Words, group: Group, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the masks of some keys to words and subtract those of others, in place, chunk by chunk.

    Args:
        words: Residues ``[count]`` of the group's dtype; residues again afterwards.
        group: The group.
        plus: Keys whose masks are added.
        minus: Keys whose masks are subtracted.
    """
    streams = [(MaskStream(key, group), True) for key in plus]
    streams += [(MaskStream(key, group), False) for key in minus]
    # Modulo a prime each addition grows a word by at most the modulus: this many fit before 64 bits overflow.
    room = (1 << 64) // group.modulus - 1
    for start in range(0, len(words), CHUNK):
        chunk = words[start : start + CHUNK]
        for index, (stream, added) in enumerate(streams, start=1):
            mask = stream.next(len(chunk))
            if added:
                chunk += mask
            elif group.is_binary:
                chunk -= mask
            else:
                chunk += np.uint64(group.modulus) - mask
            if not group.is_binary and index % room == 0:
                group.reduce(chunk)
        group.reduce(chunk)
