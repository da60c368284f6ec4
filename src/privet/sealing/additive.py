"""What an additively homomorphic scheme offers to the encrypted levels, so that BFV and CKKS share one round.

The public half (`Scheme`) packs nothing secret and can only check and add; it is all that a server has. The
secret half (`KeyHolder`) seals and opens, at the clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.sealing.base import Store
from privet.sealing.run_key import Attachment, RunKey


class CiphertextRefused(ValueError):
    """A ciphertext that is not what the parameters allow; the message is safe to log."""


class SumRefused(CiphertextRefused):
    """Ciphertexts that are well-formed one by one, and of which no sum can be made.

    A sum is refused in which nothing encrypted is left. The half of a ciphertext on which that depends is uniform where
    the sender is honest, so it takes senders who chose theirs together, and no other among them.

    Args:
        terms: How many of the first are in the sum that is refused.
    """

    def __init__(self, terms: int) -> None:
        self.terms = terms
        super().__init__(f"the sum of the first {terms} is no ciphertext")


def refused_sum(error: Exception, terms: int) -> CiphertextRefused:
    """What SEAL's refusal to add the last of ``terms`` ciphertexts means: only of an empty sum all are guilty."""
    empty = "transparent" in str(error)
    return SumRefused(terms) if empty else CiphertextRefused(f"term {terms} does not go with those before it")


class Scheme(Protocol):
    """The public half: parameters, checks and sums."""

    most_fresh_bytes: int
    most_sum_bytes: int
    attachment_bytes: int

    def label(self) -> str:
        """All public parameters, for signatures and key derivations: other parameters, other keys."""

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts that ``count`` values take."""

    def load(self, data: bytes | memoryview, *, fresh: bool) -> Any:
        """One ciphertext out of bytes.

        Raises:
            CiphertextRefused: if it is not one of these parameters, or, where ``fresh``, not the size of an
                upload.
        """

    def add(self, column: Sequence[bytes | memoryview]) -> Any:
        """The sum of one fresh ciphertext of each party.

        Raises:
            CiphertextRefused: if one is refused, or they are too many.
            SumRefused: if all are well-formed and cannot be added.
        """

    def save(self, ciphertext: Any) -> bytes:
        """The bytes of a sum."""

    def attachment(self, store: Store) -> Attachment:
        """What travels with the run's key, and where a client keeps it."""

    def holder(self, key: RunKey, store: Store) -> KeyHolder:
        """The secret half at a client that has the run's key."""


class KeyHolder(Protocol):
    """The secret half, at a client."""

    def seal(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """Fresh ciphertexts of values, int64 ``[count]``."""

    def open(self, ciphertexts: Iterable[bytes | memoryview], count: int) -> NDArray[np.int64]:
        """Summed values, int64 ``[count]``.

        Raises:
            CiphertextRefused: if they do not open under this key.
        """
