"""A client's memory of masking: epochs of keys with their secrets, and what was decided about each slot.

A slot is the keys of one (round, attempt). Its decisions are written down before they are acted upon, and
they can only be made once: which values it masked, which survivor set it serves. Secrets of an epoch are
overwritten when the next one takes over; decisions are kept for the whole run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.keys import derive
from privet.protocol import RoundId
from privet.sealing.agreement import BLOB_OVERHEAD, KEY_BYTES, SEED_BYTES, EphemeralKey
from privet.sealing.base import Store
from privet.sealing.identity import SIGNATURE_BYTES
from privet.sealing.masking_messages import MAX_SLOTS, bundle_bytes, byte_row, round_array, rounds_of
from privet.sealing.roster import LARGEST_ROSTER
from privet.wire import Array, Blob, Body, Schema, UpTo, Whole

_PENDING, _CURRENT, _SLOTS = "masking.pending", "masking.current", "masking.slots"
_MAX_ROUNDS = 1 << 20
TAG_BYTES = QUESTION_BYTES = 32
BAD_SHARES = "bad-shares-of-"
"""Reason of a client that cannot open the shares of the party whose number follows."""


@dataclass(frozen=True)
class PublicKeys:
    """What one party advertised for an epoch: uint8 ``[32]``, ``[slots, 32]``, ``[slots, 32]``."""

    encryption_key: NDArray[np.uint8]
    mask_keys: NDArray[np.uint8]
    commitments: NDArray[np.uint8]

    def same_as(self, other: PublicKeys) -> bool:
        """Whether all keys are equal."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in vars(self))


@dataclass(frozen=True)
class Epoch:
    """One epoch at a client.

    Attributes:
        number: Increasing number that the server chose.
        rounds: The slots, in order.
        secret: Key that this party's seeds are derived from; overwritten with the epoch.
        signature: Of the own advert.
        peers: Public keys of every party of the share phase, this one included; empty before it.
        blobs: Sealed shares for the others, ascending, uint8 ``[len(peers) - 1, bytes]``.
        shares: For each party that this one masks with, itself included, its shares held here: uint8
            ``[2, slots, 16]``, self-mask seeds first, then key seeds. Empty before delivery.
    """

    number: int
    rounds: tuple[RoundId, ...]
    secret: bytes = field(repr=False)
    signature: bytes = b""
    peers: dict[int, PublicKeys] = field(default_factory=dict)
    blobs: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    own_shares: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8), repr=False)
    shares: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def encryption_key(self) -> EphemeralKey:
        """The key that others seal their shares for."""
        return EphemeralKey(derive(self.secret, "encryption", length=KEY_BYTES))

    def self_seed(self, slot: int) -> bytes:
        """Seed of the own mask of a slot."""
        return derive(self.secret, "self seed", slot, length=SEED_BYTES)

    def key_seed(self, slot: int) -> bytes:
        """Seed of the key that the slot's pairwise masks are agreed with."""
        return derive(self.secret, "key seed", slot, length=SEED_BYTES)

    def public_keys(self) -> PublicKeys:
        """What this party advertises."""
        slots = range(len(self.rounds))
        mask_keys = b"".join(EphemeralKey(self.key_seed(slot)).public for slot in slots)
        commitments = b"".join(commitment(self.self_seed(slot)) for slot in slots)
        return PublicKeys(
            byte_row(self.encryption_key().public),
            byte_row(mask_keys).reshape(-1, KEY_BYTES),
            byte_row(commitments).reshape(-1, KEY_BYTES),
        )


def commitment(seed: bytes) -> bytes:
    """A value that fixes a self-mask seed without telling it: the server can check what it reconstructs."""
    return derive(seed, "commitment")


@dataclass(frozen=True)
class Slot:
    """Decisions about one (round, attempt).

    Attributes:
        tag: Keyed hash of the words that were masked, if any were.
        zero: Whether all of them were zero, so that opening them tells nothing.
        question: Digest of what they answer; zeros before.
        survivors: The one set that this client has signed, ascending; ``None`` before.
        exposed: Whether shares that unmask it were given.
    """

    tag: bytes | None = None
    zero: bool = False
    question: bytes = bytes(QUESTION_BYTES)
    survivors: tuple[int, ...] | None = None
    exposed: bool = False


class EpochBook:
    """Everything that a client must remember about masking, in its `Store`.

    Args:
        store: Where it is kept.
        root: 32 secret bytes of this client.
        purpose: Binds derived secrets to the run and the roster.
        insecure_test_seed: Derive epochs' secrets from the root alone instead of adding fresh randomness.
    """

    def __init__(
        self, store: Store, root: bytes, purpose: tuple[str | bytes, ...], insecure_test_seed: bool
    ) -> None:
        self._store, self._root, self._purpose = store, root, purpose
        self._fresh = not insecure_test_seed
        self.current = self._read_epoch(_CURRENT)
        self.pending = self._read_epoch(_PENDING)
        if self.pending and self.current and self.pending.number <= self.current.number:
            self.pending = None
        self.slots = self._read_slots()

    @property
    def latest(self) -> int:
        """Number of the latest epoch that was begun; -1 before the first."""
        return max((epoch.number for epoch in (self.current, self.pending) if epoch), default=-1)

    def slot(self, round: RoundId) -> Slot:
        """The decisions about a round so far."""
        return self.slots.get(round, Slot())

    def decide(self, round: RoundId, **changes: Any) -> None:
        """Change a slot's decisions; when this returns they are on disk."""
        slots = {**self.slots, round: replace(self.slot(round), **changes)}
        if slots != self.slots:
            self._store.put(_SLOTS, _pack_slots(slots))
            self.slots = slots

    def new_epoch(self, number: int, rounds: Sequence[RoundId]) -> Epoch:
        """An epoch with fresh secrets, not yet kept."""
        fresh = os.urandom(KEY_BYTES) if self._fresh else b""
        secret = derive(self._root, "masking epoch", *self._purpose, number, fresh)
        return Epoch(number, tuple(rounds), secret)

    def keep_pending(self, epoch: Epoch) -> None:
        """Persist an epoch whose key phases are under way; an older one is forgotten."""
        self._store.put(_PENDING, _pack_epoch(epoch))
        self.pending = epoch

    def keep_current(self, epoch: Epoch) -> None:
        """Persist an epoch that is ready to mask: the secrets of the epoch before are overwritten."""
        # The pending entry may stay: it is the same epoch, and the next one replaces it.
        self._store.put(_CURRENT, _pack_epoch(epoch))
        self.current, self.pending = epoch, None

    def _read_epoch(self, name: str) -> Epoch | None:
        data = self._store.get(name)
        return _unpack_epoch(data) if data else None

    def _read_slots(self) -> dict[RoundId, Slot]:
        data = self._store.get(_SLOTS)
        return _unpack_slots(data) if data else {}


_KEYS = Array("uint8", (UpTo(LARGEST_ROSTER), UpTo(MAX_SLOTS), KEY_BYTES))
_EPOCH = Schema(
    {
        "number": Whole(),
        "rounds": Array("int64", (UpTo(MAX_SLOTS), 2)),
        "secret": Blob(KEY_BYTES, KEY_BYTES),
        "signature": Blob(SIGNATURE_BYTES),
        "peers": Array("int64", (UpTo(LARGEST_ROSTER),)),
        "encryption_keys": Array("uint8", (UpTo(LARGEST_ROSTER), KEY_BYTES)),
        "mask_keys": _KEYS,
        "commitments": _KEYS,
        "blobs": Array("uint8", (UpTo(LARGEST_ROSTER), UpTo(bundle_bytes(MAX_SLOTS) + BLOB_OVERHEAD))),
        "own_shares": Array("uint8", (UpTo(2), UpTo(MAX_SLOTS), UpTo(SEED_BYTES))),
        "members": Array("int64", (UpTo(LARGEST_ROSTER),)),
        "shares": Array("uint8", (UpTo(LARGEST_ROSTER), 2, UpTo(MAX_SLOTS), SEED_BYTES)),
    }
)


def _pack_epoch(epoch: Epoch) -> bytes:
    slots = len(epoch.rounds)
    peers, members = sorted(epoch.peers), sorted(epoch.shares)
    body: Body = {
        "number": epoch.number,
        "rounds": round_array(epoch.rounds),
        "secret": epoch.secret,
        "signature": epoch.signature,
        "blobs": epoch.blobs,
        "own_shares": epoch.own_shares,
        "members": np.array(members, np.int64),
        "shares": _stack([epoch.shares[p] for p in members], (2, slots, SEED_BYTES)),
        **pack_peers(epoch.peers, slots),
        "peers": np.array(peers, np.int64),
    }
    return wire.encode(body, _EPOCH)


def _unpack_epoch(data: bytes) -> Epoch:
    body: Mapping[str, Any] = wire.decode(data, _EPOCH)
    return Epoch(
        body["number"],
        rounds_of(body["rounds"]),
        body["secret"],
        body["signature"],
        unpack_peers(body["peers"], body),
        body["blobs"],
        body["own_shares"],
        {int(p): share for p, share in zip(body["members"], body["shares"], strict=True)},
    )


def pack_peers(peers: Mapping[int, PublicKeys], slots: int) -> Body:
    """Public keys of several parties, ascending, as three arrays."""
    ordered = [peers[party] for party in sorted(peers)]
    return {
        "encryption_keys": _stack([keys.encryption_key for keys in ordered], (KEY_BYTES,)),
        "mask_keys": _stack([keys.mask_keys for keys in ordered], (slots, KEY_BYTES)),
        "commitments": _stack([keys.commitments for keys in ordered], (slots, KEY_BYTES)),
    }


def unpack_peers(parties: NDArray[np.int64], body: Mapping[str, Any]) -> dict[int, PublicKeys]:
    """What `pack_peers` packed.

    Raises:
        ValueError: if the arrays have different lengths.
    """
    arrays = (body["encryption_keys"], body["mask_keys"], body["commitments"])
    return {int(p): PublicKeys(*keys) for p, *keys in zip(parties, *arrays, strict=True)}


def _stack(arrays: Sequence[NDArray[np.uint8]], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.array(arrays, dtype=np.uint8).reshape(len(arrays), *shape)


_SLOT_SCHEMA = Schema(
    {
        "rounds": Array("int64", (UpTo(_MAX_ROUNDS), 2)),
        "tags": Array("uint8", (UpTo(_MAX_ROUNDS), TAG_BYTES)),
        "questions": Array("uint8", (UpTo(_MAX_ROUNDS), QUESTION_BYTES)),
        "flags": Array("bool", (UpTo(_MAX_ROUNDS), 4)),
        "sizes": Array("int64", (UpTo(_MAX_ROUNDS),)),
        "survivors": Array("int64", (UpTo(1 << 40),)),
    }
)


def _pack_slots(slots: Mapping[RoundId, Slot]) -> bytes:
    ordered = sorted(slots)
    chosen = [slots[round] for round in ordered]
    flags = [(s.tag is not None, s.zero, s.survivors is not None, s.exposed) for s in chosen]
    body: Body = {
        "rounds": round_array(ordered),
        "tags": _stack([byte_row(s.tag or bytes(TAG_BYTES)) for s in chosen], (TAG_BYTES,)),
        "questions": _stack([byte_row(s.question) for s in chosen], (QUESTION_BYTES,)),
        "flags": np.array(flags, dtype=bool).reshape(len(chosen), 4),
        "sizes": np.array([len(s.survivors or ()) for s in chosen], np.int64),
        "survivors": np.array([p for s in chosen for p in s.survivors or ()], np.int64),
    }
    return wire.encode(body, _SLOT_SCHEMA)


def _unpack_slots(data: bytes) -> dict[RoundId, Slot]:
    body: Mapping[str, Any] = wire.decode(data, _SLOT_SCHEMA)
    slots, start = {}, 0
    names = ("tags", "questions", "flags", "sizes")
    rows = zip(rounds_of(body["rounds"]), *(body[name] for name in names), strict=True)
    for round, tag, question, (used, zero, signed, exposed), size in rows:
        members = tuple(int(p) for p in body["survivors"][start : start + size])
        start += int(size)
        slots[round] = Slot(
            tag.tobytes() if used else None,
            bool(zero),
            question.tobytes(),
            members if signed else None,
            bool(exposed),
        )
    return slots
