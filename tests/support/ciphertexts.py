"""Ciphertexts of BFV that no client makes, packed as SEAL would unpack them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.sealing.bfv import Bfv
from privet.sealing.seal_memory import HEADER_BYTES

REPEATED = 1
Coefficients = NDArray[np.uint64]


def message(bfv: Bfv, body: bytes) -> bytes:
    """A packed body behind the header of SEAL's own messages."""
    header = bytearray(bfv.save(_empty(bfv))[:HEADER_BYTES])
    header[8:] = struct.pack("<Q", HEADER_BYTES + len(body))
    return bytes(header) + body


def frame(size: int, *blocks: tuple[int, bytes, int]) -> bytes:
    """A Zstandard frame that says that it unpacks to ``size`` bytes; of each block kind, bytes and announced length."""
    data = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", size)
    for place, (kind, content, length) in enumerate(blocks, start=1):
        data += struct.pack("<I", length << 3 | kind << 1 | (place == len(blocks)))[:3] + content
    return data


def full(bfv: Bfv, second: Coefficients) -> bytes:
    """A ciphertext of two polynomials, not a seed, as small as one with a seed: the first is zero."""
    head, half = _head(bfv), 8 * bfv.parameters.degree
    size = len(head) + 2 * half
    body = frame(size, (0, head, len(head)), (REPEATED, b"\0", half), (0, second.tobytes(), half))
    return message(bfv, body)


def cancelling(bfv: Bfv, ciphertexts: int = 2) -> list[bytes]:
    """Ciphertexts of as many senders, of whose sum nothing encrypted is left, but of no fewer of them."""
    q, rng = bfv.parameters.data_primes[0], np.random.default_rng(0)
    halves = rng.integers(1, q // ciphertexts, (ciphertexts - 1, bfv.parameters.degree)).astype(np.uint64)
    return [full(bfv, half) for half in (*halves, np.uint64(q) - halves.sum(axis=0))]


def _empty(bfv: Bfv) -> Any:
    import tenseal.sealapi as seal

    ciphertext = seal.Ciphertext(bfv.context)
    ciphertext.resize(bfv.context, 2)
    return ciphertext


def _head(bfv: Bfv) -> bytes:
    """What SEAL writes before the coefficients of a full ciphertext."""
    degree, header = bfv.parameters.degree, bfv.save(_empty(bfv))[:HEADER_BYTES]
    count = 2 * degree
    fields = struct.pack("<4Q", *bfv.context.first_parms_id())
    fields += struct.pack("<BQQQdQ", 0, 2, degree, 1, 1.0, 1)
    array = bytearray(header)
    array[5] = 0  # an array within a message is not packed again
    array[8:] = struct.pack("<Q", HEADER_BYTES + 8 + 8 * count)
    return fields + bytes(array) + struct.pack("<Q", count)
