"""Values of a few bits as bytes without gaps, and back.

64 / gcd(bits, 64) values fill a whole number of 64-bit words. Groups of that many are laid side by side, so
that each position within a group is one vector operation over all groups.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16
"""Values that are laid out at once: they fit the cache, and fewer blocks are quicker than smaller ones."""


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` values of ``bits`` bits take."""
    return -(-count * bits // 8)


def _layout(bits: int) -> tuple[int, int]:
    """How many values fill how many 64-bit words without a remainder."""
    if not 1 <= bits <= 64:
        raise ValueError(f"a packed value has 1 to 64 bits, not {bits}")
    shared = math.gcd(bits, 64)
    return 64 // shared, bits // shared


def pack(values: NDArray[Any], bits: int) -> bytes:
    """Packs values of ``bits`` bits without gaps, little-endian: value i takes bits i*bits up to (i+1)*bits
    - 1.

    Args:
        values: uint64 ``[count]``, each below ``2**bits``.
        bits: 1 to 64.

    Returns:
        ``ceil(count * bits / 8)`` bytes; the bits after the last value are zero.

    Raises:
        ValueError: if a value does not fit, or the width is out of range.
    """
    group, words = _layout(bits)
    flat = np.asarray(values)
    if flat.dtype.kind != "u":
        flat = flat.astype(np.uint64)
    if bits < 64 and flat.size and int(flat.max()) >> bits:
        raise ValueError(f"a value does not fit {bits} bits")
    # a pair is joined while it fits a word: half as many positions, each with twice the bits
    joins = min((64 // bits).bit_length(), group.bit_length()) - 1
    width, each, group = bits << joins, group, group >> joins
    packed = np.zeros((-(-flat.size // each), words), dtype="<u8")
    rows = max(1, _BLOCK // each)
    for start in range(0, packed.shape[0], rows):
        piece = flat[start * each : (start + rows) * each]
        if piece.size % each:
            piece = np.concatenate([piece, np.zeros(-piece.size % each, piece.dtype)])
        joined = _joined(piece, bits, joins).reshape(-1, group)
        columns = np.zeros((words, len(joined)), dtype=np.uint64)
        for i in range(group):
            word, shift = divmod(i * width, 64)
            columns[word] |= joined[:, i] << np.uint64(shift)
            if shift + width > 64:
                columns[word + 1] |= joined[:, i] >> np.uint64(64 - shift)
        packed[start : start + rows] = columns.T
    return packed.tobytes()[: packed_size(flat.size, bits)]


def _joined(values: NDArray[Any], bits: int, joins: int) -> NDArray[np.uint64]:
    """Runs of ``2**joins`` neighbours as one value of as many times the bits, the first lowest."""
    wide = values.astype(np.uint64, copy=False)
    for level in range(joins):
        higher = wide[1::2] << np.uint64(bits << level)
        higher |= wide[0::2]
        wide = higher
    return wide


def ends_clean(data: bytes, bits: int, count: int) -> bool:
    """Whether the bits after the last of ``count`` packed values are zero, as `pack` leaves them."""
    spare = len(data) * 8 - count * bits
    return not spare or not data[-1] >> (8 - spare)


def unpack(data: bytes, bits: int, count: int) -> NDArray[np.uint64]:
    """The ``count`` values that `pack` packed.

    Args:
        data: Exactly ``ceil(count * bits / 8)`` bytes.
        bits: 1 to 64.
        count: Number of values.

    Returns:
        uint64 ``[count]``.

    Raises:
        ValueError: if the length is another, or bits after the last value are set.
    """
    group, words = _layout(bits)
    if count < 0 or len(data) != packed_size(count, bits):
        raise ValueError(
            f"{count} values of {bits} bits take {packed_size(count, bits)} bytes, not {len(data)}"
        )
    if not ends_clean(data, bits, count):
        raise ValueError("bits after the last packed value are set")
    groups = -(-count // group)
    missing = groups * words * 8 - len(data)
    packed = np.frombuffer(b"".join((data, bytes(missing))) if missing else data, dtype="<u8")
    packed = packed.reshape(groups, words)
    values = np.empty((groups, group), dtype=np.uint64)
    mask = np.uint64(2**bits - 1)
    rows = max(1, _BLOCK // group)
    for start in range(0, groups, rows):
        columns = np.ascontiguousarray(packed[start : start + rows].T, dtype=np.uint64)
        block = np.empty((group, columns.shape[1]), dtype=np.uint64)
        for i in range(group):
            word, shift = divmod(i * bits, 64)
            block[i] = columns[word] >> np.uint64(shift)
            if shift + bits > 64:
                block[i] |= columns[word + 1] << np.uint64(64 - shift)
        block &= mask
        values[start : start + rows] = block.T
    return values.reshape(-1)[:count]
