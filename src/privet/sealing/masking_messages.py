"""What travels for masks: the schemas of ``keys.*`` and ``recover.*``, and what their signatures cover.

One epoch of keys serves several rounds; each (round, attempt) of it is a slot with keys of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.protocol import RoundId
from privet.sealing.agreement import BLOB_OVERHEAD, KEY_BYTES
from privet.sealing.identity import SIGNATURE_BYTES
from privet.sealing.roster import Roster
from privet.sealing.shamir import SHARE_BYTES
from privet.wire import Array, Blob, Body, Kind, Message, Schema, Text, UpTo, Whole

ADVERTISE, SHARE, DELIVER = "keys.advertise", "keys.share", "keys.deliver"
SURVIVORS, UNMASK = "recover.survivors", "recover.unmask"
MAX_SLOTS = 64
"""Rounds that one epoch of keys may cover."""
RUN_NAME_BYTES = 97
"""Length of the random name that a run gets, with the hash of what was agreed on; plans count on it."""


@dataclass(frozen=True)
class Context:
    """What every key and signature of a run is bound to.

    Attributes:
        run: Name of the run and hash of its agreement: masks of parties that were told of different configurations do
            not cancel, so a server cannot have the others add next to no noise and nothing else.
        roster: Who takes part.
    """

    run: str
    roster: Roster

    def advert(self, epoch: int, rounds: Sequence[RoundId], party: int, keys: Mapping[str, Any]) -> Body:
        """What a party signs when it advertises keys."""
        return {
            "run": self.run,
            "epoch": epoch,
            "rounds": round_array(rounds),
            "party": party,
            "encryption_key": np.asarray(keys["encryption_key"]),
            "mask_keys": np.asarray(keys["mask_keys"]),
            "commitments": np.asarray(keys["commitments"]),
        }

    def survivors(self, epoch: int, round: RoundId, survivors: Sequence[int]) -> Body:
        """What a party signs when it agrees to a survivor set."""
        return {
            "run": self.run,
            "epoch": epoch,
            "rounds": round_array([round]),
            "survivors": np.asarray(survivors, dtype=np.int64),
        }

    def blob(self, epoch: int, sender: int, receiver: int) -> tuple[str | int | bytes, ...]:
        """The purpose of the key that seals one party's shares for another."""
        return ("shares", self.roster.hash, self.run, epoch, sender, receiver)

    def pair_mask(
        self, epoch: int, round: RoundId, question: bytes, one: int, other: int
    ) -> tuple[str | int | bytes, ...]:
        """The purpose of the key of a pair's mask; the pair's public keys for the slot are bound as well.

        Masks of two parties that answer different questions do not cancel: a server that has some of them train on
        another adapter gets noise (Pasquini et al. 2022, arXiv 2111.07380, read one contribution that way). The pair's
        numbers keep masks apart where one party advertises another's keys: the masks that a third has with the two
        would be one and the same, and cancel in its words.
        """
        pair = sorted((one, other))
        return ("pair mask", self.roster.hash, self.run, epoch, round.number, round.attempt, question, *pair)

    def self_mask(self, epoch: int, round: RoundId, party: int) -> tuple[str | int | bytes, ...]:
        """The purpose of the key of a party's own mask."""
        return ("self mask", self.roster.hash, self.run, epoch, round.number, round.attempt, party)


def masking_messages(parties: int) -> dict[str, Message]:
    """The schemas of all operations, for a roster of this size."""
    epoch = Whole(0, 1 << 40)
    number = Whole(0, 1 << 40)
    some = UpTo(parties)
    bundle = UpTo(bundle_bytes(MAX_SLOTS) + BLOB_OVERHEAD)
    blobs = Array("uint8", (some, bundle))
    keys = Array("uint8", (UpTo(MAX_SLOTS), KEY_BYTES))
    all_keys = Array("uint8", (some, UpTo(MAX_SLOTS), KEY_BYTES))
    party_list = Array("int64", (some,))
    signatures = Array("uint8", (some, SIGNATURE_BYTES))
    slot: dict[str, Kind] = {"epoch": epoch, "number": number, "attempt": number, "survivors": party_list}
    return {
        ADVERTISE: Message(
            Schema(
                {
                    "roster": Blob(32, 32),
                    "run": Text(200),
                    "epoch": epoch,
                    "rounds": Array("int64", (UpTo(MAX_SLOTS), 2)),
                }
            ),
            Schema(
                {
                    "encryption_key": Array("uint8", (KEY_BYTES,)),
                    "mask_keys": keys,
                    "commitments": keys,
                    "signature": Blob(SIGNATURE_BYTES, SIGNATURE_BYTES),
                }
            ),
        ),
        SHARE: Message(
            Schema(
                {
                    "epoch": epoch,
                    "parties": party_list,
                    "encryption_keys": Array("uint8", (some, KEY_BYTES)),
                    "mask_keys": all_keys,
                    "commitments": all_keys,
                    "signatures": signatures,
                }
            ),
            Schema({"blobs": blobs}),
        ),
        DELIVER: Message(Schema({"epoch": epoch, "senders": party_list, "blobs": blobs}), Schema({})),
        SURVIVORS: Message(Schema(slot), Schema({"signature": Blob(SIGNATURE_BYTES, SIGNATURE_BYTES)})),
        UNMASK: Message(
            Schema({**slot, "signers": party_list, "signatures": signatures}),
            Schema({"shares": Array("uint8", (some, SHARE_BYTES))}),
        ),
    }


def bundle_bytes(slots: int) -> int:
    """Bytes of one party's shares for another: a self-mask seed and a key seed for each slot."""
    return 2 * slots * SHARE_BYTES


def round_array(rounds: Sequence[RoundId]) -> NDArray[np.int64]:
    """Rounds as int64 ``[len(rounds), 2]``."""
    return np.array([(r.number, r.attempt) for r in rounds], dtype=np.int64).reshape(len(rounds), 2)


def rounds_of(array: NDArray[np.int64]) -> tuple[RoundId, ...]:
    """The rounds of a `round_array`."""
    return tuple(RoundId(int(number), int(attempt)) for number, attempt in array)


def byte_row(data: bytes) -> NDArray[np.uint8]:
    """Bytes as a uint8 array."""
    return np.frombuffer(data, dtype=np.uint8)
