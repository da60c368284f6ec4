"""Public randomness of codecs: the same signs and permutations on every machine, from one small number.

These draws are no secret and protect nothing; noise and sampling never come from here. They are built on the
raw output of a counter-mode generator, whose stream NumPy keeps fixed (NEP 19), and not on ``Generator``
methods, whose algorithms may change between versions: two clients with different NumPy must agree on a
projection.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def words(seed: int, label: str, count: int) -> NDArray[np.uint64]:
    """``count`` uniform 64-bit words of the public stream that (``seed``, ``label``) names."""
    key = int.from_bytes(hashlib.sha256(f"privet codec/{label}/{seed}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(count)
    return np.asarray(raw, dtype=np.uint64)


def signs(seed: int, label: str, count: int) -> NDArray[np.float32]:
    """``count`` fair signs, float32 in {-1, +1}."""
    bits = np.unpackbits(words(seed, label, -(-count // 64)).view(np.uint8), count=count)
    return (1.0 - 2.0 * bits).astype(np.float32)


def permutation(seed: int, label: str, count: int) -> NDArray[np.int64]:
    """A uniform permutation of ``count`` positions: the order of that many random words."""
    return np.argsort(words(seed, label, count), kind="stable").astype(np.int64)
