"""Shares of 16-byte seeds (Shamir 1979, over GF(2^128)): ``threshold`` of them give the seed, fewer nothing.

Party p holds the polynomial's value at p + 1. pycryptodome splits. To combine, a server has many seeds and
the same givers for all of them, so `Combiner` computes the Lagrange weights once; it works on shares that
are about to be public to it, and what it finds is checked against commitments, so it need not run in
constant time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from functools import lru_cache

from Crypto.Protocol.SecretSharing import Shamir

SHARE_BYTES = 16
_BITS = 8 * SHARE_BYTES
_LOW = (1 << _BITS) - 1
_POLYNOMIAL = 0b10000111
"""x^128 = x^7 + x^2 + x + 1, the least significant bit is the constant: the field of `Crypto.Protocol`."""


def split(seed: bytes, threshold: int, parties: int) -> list[bytes]:
    """One 16-byte share for each of ``parties`` parties, in their order."""
    return [share for _, share in Shamir.split(threshold, parties, seed)]


class Combiner:
    """Combines the shares of one group of givers, for any number of seeds.

    Args:
        givers: Parties whose shares there are; the first ``threshold`` of them, ascending, are used.
        threshold: Shares that a seed was split for.

    Raises:
        ValueError: if there are too few givers.
    """

    def __init__(self, givers: Iterable[int], threshold: int) -> None:
        chosen = sorted(set(givers))[:threshold]
        if len(chosen) < threshold:
            raise ValueError(f"{len(chosen)} shares, and {threshold} are needed")
        self._scales = {
            party: _inverse(_times((party + 1) ^ (other + 1) for other in chosen if other != party))
            for party in chosen
        }
        self._weights = self._weights_at(0)

    def at(self, party: int) -> Combiner:
        """One that combines the same shares to the share of another party, if all are of one seed.

        Raises:
            ValueError: if the party is one of the givers.
        """
        if party in self._scales:
            raise ValueError(f"party {party} gave one of the shares")
        other = copy(self)
        other._weights = self._weights_at(party + 1)
        return other

    def _weights_at(self, x: int) -> dict[int, tuple[int, ...]]:
        """Multiples of the Lagrange coefficients at ``x``: products of (x + x_m) / (x_j + x_m) over m other than j."""
        whole = _multiples(_times(x ^ (party + 1) for party in self._scales))
        return {
            party: _multiples(_product(_multiples(_product(whole, _inverse(x ^ (party + 1)))), scale))
            for party, scale in self._scales.items()
        }

    def combine(self, shares: Mapping[int, bytes]) -> bytes:
        """The seed, from 16-byte shares by party; wrong shares give a wrong seed."""
        seed = 0
        for party, multiples in self._weights.items():
            seed ^= _product(multiples, int.from_bytes(shares[party], "big"))
        return seed.to_bytes(SHARE_BYTES, "big")


def _times(factors: Iterable[int]) -> int:
    """The product of small field elements."""
    product = 1
    for factor in factors:
        product = _reduce(_carryless(product, factor))
    return product


def _reduce(value: int) -> int:
    """A polynomial of degree below 256 modulo that of the field."""
    while value >> _BITS:
        high = value >> _BITS
        value = (value & _LOW) ^ _carryless(high, _POLYNOMIAL)
    return value


def _carryless(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
    return product


_FOLDED = tuple(_reduce(high << _BITS) for high in range(16))


def _multiples(factor: int) -> tuple[int, ...]:
    """The products of a field element with all polynomials of degree below 4."""
    return tuple(_reduce(_carryless(factor, nibble)) for nibble in range(16))


def _product(multiples: tuple[int, ...], value: int) -> int:
    """A field element, given by its multiples, times another, four bits at a time."""
    product = 0
    for shift in range(value.bit_length() // 4 * 4, -4, -4):
        product <<= 4
        product = (product & _LOW) ^ _FOLDED[product >> _BITS] ^ multiples[(value >> shift) & 15]
    return product


@lru_cache(maxsize=1 << 14)
def _inverse(value: int) -> int:
    """The inverse of a field element that is not zero, by Euclid's algorithm for polynomials."""
    upper, lower = (1 << _BITS) | _POLYNOMIAL, value
    upper_factor, lower_factor = 0, 1
    while lower != 1:
        shift = upper.bit_length() - lower.bit_length()
        if shift < 0:
            upper, lower, shift = lower, upper, -shift
            upper_factor, lower_factor = lower_factor, upper_factor
        upper ^= lower << shift
        upper_factor ^= lower_factor << shift
    return _reduce(lower_factor)
