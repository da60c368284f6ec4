"""Values of a few bits as bytes without gaps, and back.

64 / gcd(bits, 64) values fill a whole number of 64-bit words. Groups of that many are laid side by side, so
that each position within a group is one vector operation over all groups.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 14


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
    flat = np.asarray(values, dtype=np.uint64)
    if bits < 64 and flat.size and int(flat.max()) >> bits:
        raise ValueError(f"a value does not fit {bits} bits")
    packed = np.zeros((-(-flat.size // group), words), dtype=np.uint64)
    rows = max(1, _BLOCK // group)
    for start in range(0, packed.shape[0], rows):
        piece = flat[start * group : (start + rows) * group]
        block = np.zeros((group, min(rows, packed.shape[0] - start)), dtype=np.uint64)
        whole = piece.size // group
        block[:, :whole] = piece[: whole * group].reshape(whole, group).T
        if piece.size > whole * group:
            block[: piece.size - whole * group, whole] = piece[whole * group :]
        columns = np.zeros((words, block.shape[1]), dtype=np.uint64)
        for i in range(group):
            word, shift = divmod(i * bits, 64)
            columns[word] |= block[i] << np.uint64(shift)
            if shift + bits > 64:
                columns[word + 1] |= block[i] >> np.uint64(64 - shift)
        packed[start : start + rows] = columns.T
    return packed.astype("<u8", copy=False).tobytes()[: packed_size(flat.size, bits)]


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
    spare = len(data) * 8 - count * bits
    if spare and data[-1] >> (8 - spare):
        raise ValueError("bits after the last packed value are set")
    groups = -(-count // group)
    packed = np.frombuffer(data + bytes(groups * words * 8 - len(data)), dtype="<u8").reshape(groups, words)
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
