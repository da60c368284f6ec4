"""Shares of 16-byte seeds (Shamir 1979, over GF(2^128)): ``threshold`` of them give the seed, fewer nothing.

The arithmetic is pycryptodome's. Party p holds the polynomial's value at p + 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

SHARE_BYTES = 16


def split(seed: bytes, threshold: int, parties: int) -> list[bytes]:
    """One 16-byte share for each of ``parties`` parties, in their order."""
    return [share for _, share in Shamir.split(threshold, parties, seed)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The seed, from the shares of ``threshold`` or more parties; wrong shares give a wrong seed.

    Raises:
        ValueError: if there are too few.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, and {threshold} are needed")
    chosen = sorted(shares)[:threshold]
    return bytes(Shamir.combine([(party + 1, shares[party]) for party in chosen]))
