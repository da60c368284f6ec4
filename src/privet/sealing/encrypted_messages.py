"""What travels under the encrypted levels: ciphertexts one after another, their round, key and signature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.protocol import RoundId
from privet.sealing.additive import CiphertextRefused, Scheme
from privet.sealing.identity import SIGNATURE_BYTES
from privet.sealing.masking_messages import Context
from privet.sealing.run_key import NAME_BYTES
from privet.traffic import Traffic, message_bytes
from privet.wire import Array, Blob, Body, Kind, Schema, UpTo, Whole


@dataclass(frozen=True)
class Upload:
    """Ciphertexts of one round under one key, one after another.

    Attributes:
        round: The attempt that they were made for.
        key: Name of the run's key.
        sizes: Bytes of each, uint32 ``[ciphertexts]``.
        ciphertexts: All of them.
        epoch: Epoch of the masks below the encryption; 0 where there are none.
    """

    round: RoundId
    key: bytes
    sizes: NDArray[np.uint32]
    ciphertexts: bytes
    epoch: int = 0

    @classmethod
    def of(cls, round: RoundId, key: bytes, pieces: Iterable[bytes], epoch: int = 0) -> Upload:
        """From separate ciphertexts."""
        separate = list(pieces)
        sizes = np.array([len(piece) for piece in separate], np.uint32)
        return cls(round, key, sizes, b"".join(separate), epoch)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Upload:
        """From the fields of a message that its schema allowed."""
        round = RoundId(fields["number"], fields["attempt"])
        return cls(round, fields["key"], fields["sizes"], fields["ciphertexts"], fields["epoch"])

    def body(self) -> Body:
        """As fields of a message."""
        return {
            "number": self.round.number,
            "attempt": self.round.attempt,
            "epoch": self.epoch,
            "key": self.key,
            "sizes": self.sizes,
            "ciphertexts": self.ciphertexts,
        }

    def content(self, context: Context, party: int) -> Body:
        """What a party signs: the run, the round, the key and a digest of every byte."""
        digest = hashlib.sha256(self.ciphertexts).digest()
        return {**self.body(), "run": context.run, "party": party, "ciphertexts": digest}

    def pieces(self) -> tuple[memoryview, ...]:
        """The ciphertexts, without a copy.

        Raises:
            CiphertextRefused: if the sizes do not add up.
        """
        return split(self.ciphertexts, self.sizes)


def split(ciphertexts: bytes, sizes: NDArray[np.uint32]) -> tuple[memoryview, ...]:
    """The ciphertexts that stand one after another, without a copy.

    Raises:
        CiphertextRefused: if their sizes do not add up to what is there.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    if len(ciphertexts) != (int(ends[-1]) if len(ends) else 0):
        raise CiphertextRefused("the sizes of the ciphertexts do not add up")
    view = memoryview(ciphertexts)
    return tuple(view[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True))


def upload_schema(scheme: Scheme, count: int) -> Schema:
    """A client's contribution."""
    return upload_of(scheme.ciphertexts(count), scheme.most_fresh_bytes)


def upload_of(ciphertexts: int, most: int) -> Schema:
    """A client's contribution of so many ciphertexts of at most ``most`` bytes each."""
    signature = Blob(SIGNATURE_BYTES, SIGNATURE_BYTES)
    return Schema({**_fields(ciphertexts, most), "signature": signature})


def sum_schema(scheme: Scheme, count: int, parties: int) -> Schema:
    """A sum, for the designated client."""
    return sum_of(scheme.ciphertexts(count), scheme.most_sum_bytes, parties)


def sum_of(ciphertexts: int, most: int, parties: int) -> Schema:
    """A sum of so many ciphertexts of at most ``most`` bytes each."""
    return Schema({**_fields(ciphertexts, most), "survivors": Array("int64", (UpTo(parties),))})


def traffic(ciphertexts: int, fresh: int, summed: int, parties: int) -> Traffic:
    """A client's contribution, and its share of what the one client gets that opens the sum.

    Args:
        ciphertexts: Of one contribution.
        fresh: Bytes of one in a contribution.
        summed: Bytes of one in the sum.
        parties: Size of the roster.
    """
    up = message_bytes(upload_of(ciphertexts, fresh), ciphertexts=ciphertexts * fresh)
    total = sum_of(ciphertexts, summed, parties)
    down = message_bytes(total, ciphertexts=ciphertexts * summed, survivors=parties)
    return Traffic(up, down / parties)


def _fields(ciphertexts: int, most: int) -> dict[str, Kind]:
    return {
        "number": Whole(0),
        "attempt": Whole(0),
        "epoch": Whole(0),
        "key": Blob(NAME_BYTES, NAME_BYTES),
        "sizes": Array("uint32", (ciphertexts,)),
        "ciphertexts": Blob(ciphertexts * most),
    }
