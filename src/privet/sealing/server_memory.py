"""What the server must remember about masking; all of it was sent by clients or shown to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.protocol import RoundId
from privet.sealing.agreement import BLOB_OVERHEAD, KEY_BYTES
from privet.sealing.base import Store
from privet.sealing.epochs import PublicKeys, pack_peers, unpack_peers
from privet.sealing.masking_messages import MAX_SLOTS, bundle_bytes, round_array, rounds_of
from privet.sealing.roster import LARGEST_ROSTER
from privet.wire import Array, Body, Schema, UpTo, Whole

_EPOCH_ENTRY, _PROGRESS_ENTRY = "masking.server.epoch", "masking.server.progress"


@dataclass(frozen=True)
class ServerEpoch:
    """The keys in use.

    Attributes:
        number: Of the epoch.
        rounds: Its slots.
        members: Public keys of the parties that mask with each other, ascending.
        blobs: Sealed shares, uint8 ``[sender, receiver, bytes]`` in the order of the members.
    """

    number: int
    rounds: tuple[RoundId, ...]
    members: Mapping[int, PublicKeys]
    blobs: NDArray[np.uint8]


@dataclass(frozen=True)
class Progress:
    """Where the server stands.

    Attributes:
        next_epoch: A number that no epoch had yet.
        epoch: The epoch that the rest is about; -1 before the first.
        ready: Members that have confirmed their shares.
        due: The attempt last prepared; it stays with this epoch.
        survivors: Its survivor set once it is settled, else empty.
    """

    next_epoch: int = 0
    epoch: int = -1
    ready: tuple[int, ...] = ()
    due: RoundId | None = None
    survivors: tuple[int, ...] = ()


class ServerMemory:
    """Reads both parts from a `Store`, and replaces them when they change.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        data, progress = store.get(_EPOCH_ENTRY), store.get(_PROGRESS_ENTRY)
        self.epoch = _unpack_epoch(data) if data else None
        self.progress = _unpack_progress(progress) if progress else Progress()
        if self.epoch is not None and self.epoch.number != self.progress.epoch:
            # The process ended between the two writes of `keep_epoch`.
            self._start_epoch(self.epoch.number)

    def keep_epoch(self, epoch: ServerEpoch) -> None:
        """Use other keys from now on; nobody has confirmed them yet."""
        self._store.put(_EPOCH_ENTRY, _pack_epoch(epoch))
        self.epoch = epoch
        self._start_epoch(epoch.number)

    def _start_epoch(self, number: int) -> None:
        following = max(self.progress.next_epoch, number + 1)
        self.keep_progress(next_epoch=following, epoch=number, ready=(), due=None, survivors=())

    def keep_progress(self, **changes: Any) -> None:
        """Change where the server stands."""
        progress = replace(self.progress, **changes)
        if progress != self.progress:
            self._store.put(_PROGRESS_ENTRY, _pack_progress(progress))
            self.progress = progress


_PARTIES = Array("int64", (UpTo(LARGEST_ROSTER),))
_KEYS = Array("uint8", (UpTo(LARGEST_ROSTER), UpTo(MAX_SLOTS), KEY_BYTES))
_BUNDLE = UpTo(bundle_bytes(MAX_SLOTS) + BLOB_OVERHEAD)
_EPOCH = Schema(
    {
        "number": Whole(),
        "rounds": Array("int64", (UpTo(MAX_SLOTS), 2)),
        "members": _PARTIES,
        "encryption_keys": Array("uint8", (UpTo(LARGEST_ROSTER), KEY_BYTES)),
        "mask_keys": _KEYS,
        "commitments": _KEYS,
        "blobs": Array("uint8", (UpTo(LARGEST_ROSTER), UpTo(LARGEST_ROSTER), _BUNDLE)),
    }
)
_PROGRESS = Schema(
    {
        "next_epoch": Whole(),
        "epoch": Whole(),
        "ready": _PARTIES,
        "due": Array("int64", (UpTo(1), 2)),
        "survivors": _PARTIES,
    }
)


def _pack_epoch(epoch: ServerEpoch) -> bytes:
    body: Body = {
        "number": epoch.number,
        "rounds": round_array(epoch.rounds),
        "members": np.array(sorted(epoch.members), np.int64),
        "blobs": epoch.blobs,
        **pack_peers(epoch.members, len(epoch.rounds)),
    }
    return wire.encode(body, _EPOCH)


def _unpack_epoch(data: bytes) -> ServerEpoch:
    body: Mapping[str, Any] = wire.decode(data, _EPOCH)
    members = unpack_peers(body["members"], body)
    return ServerEpoch(body["number"], rounds_of(body["rounds"]), members, body["blobs"])


def _pack_progress(progress: Progress) -> bytes:
    body: Body = {
        "next_epoch": progress.next_epoch,
        "epoch": progress.epoch,
        "ready": np.array(progress.ready, np.int64),
        "due": round_array([] if progress.due is None else [progress.due]),
        "survivors": np.array(progress.survivors, np.int64),
    }
    return wire.encode(body, _PROGRESS)


def _unpack_progress(data: bytes) -> Progress:
    body: Mapping[str, Any] = wire.decode(data, _PROGRESS)
    due = rounds_of(body["due"])
    ready, survivors = (tuple(int(p) for p in body[name]) for name in ("ready", "survivors"))
    return Progress(body["next_epoch"], body["epoch"], ready, due[0] if due else None, survivors)
