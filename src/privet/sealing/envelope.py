"""A signed envelope around a message: who sent it to whom, in which run and round, and for which operation.

The signature (Ed25519) covers the roster's hash, every field of the header and the SHA-256 of the payload,
so a message cannot be changed, sent on to another party, or replayed in another run, round or phase. The
layout is in ``docs/wire.md``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from privet.protocol import RoundId
from privet.sealing.identity import SIGNATURE_BYTES, Identity, verify
from privet.wire import ALIGNMENT, Body, WireError

MAGIC = b"PVE"
VERSION = 1
SERVER = -1
"""The server's number as sender or receiver; parties are 0..n-1."""

MAX_TEXT_BYTES = 200
_CONTEXT = "envelope"
_HEAD = struct.Struct("<3sBiiQIBBQ")


@dataclass(frozen=True)
class Address:
    """What a message is about, known to its receiver in advance.

    Attributes:
        sender: Party number, or `SERVER`.
        receiver: Party number, or `SERVER`.
        run: Name of the run.
        round: Round and attempt.
        op: Operation.
    """

    sender: int
    receiver: int
    run: str
    round: RoundId
    op: str


def seal_envelope(
    identity: Identity, roster_hash: bytes, address: Address, payload: bytes | memoryview
) -> bytes:
    """The payload with its address and the sender's signature.

    Raises:
        WireError: if the address has no place on the wire.
    """
    run, op = address.run.encode(), address.op.encode()
    if max(len(run), len(op)) > MAX_TEXT_BYTES:
        raise WireError("too-large", "run or op")
    try:
        head = _HEAD.pack(
            *(MAGIC, VERSION, address.sender, address.receiver, address.round.number, address.round.attempt),
            *(len(run), len(op), len(payload)),
        )
    except struct.error:
        raise WireError("out-of-range", "address") from None
    signature = identity.sign(_CONTEXT, roster_hash, _signed(address, payload))
    padding = bytes(-(len(head) + len(run) + len(op)) % ALIGNMENT)
    return b"".join((head, run, op, padding, payload, signature))


def open_envelope(
    data: bytes | bytearray | memoryview,
    *,
    expected: Address,
    keys: Mapping[int, bytes],
    roster_hash: bytes,
    max_payload: int,
) -> memoryview:
    """The payload of an envelope, if it is exactly the one that is expected.

    Args:
        data: The envelope; the payload is a view of it, aligned for `privet.wire.decode`.
        expected: What the receiver is waiting for.
        keys: Ed25519 public keys by party; the server's, if it has one, under `SERVER`.
        roster_hash: Of the roster that the receiver has accepted.
        max_payload: Longest payload in bytes.

    Raises:
        WireError: with one of the reasons ``truncated``, ``trailing-bytes``, ``bad-magic``, ``bad-version``,
            ``too-large``, ``bad-text``, ``bad-padding``, ``wrong-sender``, ``wrong-receiver``, ``wrong-run``,
            ``wrong-round``, ``wrong-op``, ``bad-signature``.
    """
    address, payload, signature = _parse(memoryview(data).cast("B"), max_payload)
    for field in ("sender", "receiver", "run", "round", "op"):
        if getattr(address, field) != getattr(expected, field):
            raise WireError(f"wrong-{field}")
    key = keys.get(address.sender)
    if key is None:
        raise WireError("wrong-sender")
    if not verify(key, signature, _CONTEXT, roster_hash, _signed(address, payload)):
        raise WireError("bad-signature")
    return payload


def claimed_address(data: bytes | bytearray | memoryview, max_payload: int) -> Address:
    """What an envelope says of itself, unverified: for a receiver that is asked and does not know what comes next.

    Raises:
        WireError: if it is no envelope.
    """
    return _parse(memoryview(data).cast("B"), max_payload)[0]


def _parse(view: memoryview, max_payload: int) -> tuple[Address, memoryview, bytes]:
    """Address, payload and signature, none of them verified."""
    if len(view) < _HEAD.size:
        raise WireError("truncated")
    magic, version, sender, receiver, number, attempt, run_size, op_size, size = _HEAD.unpack(
        view[: _HEAD.size]
    )
    if magic != MAGIC:
        raise WireError("bad-magic")
    if version != VERSION:
        raise WireError("bad-version")
    if size > max_payload or max(run_size, op_size) > MAX_TEXT_BYTES:
        raise WireError("too-large")
    start = _HEAD.size + run_size + op_size
    padded = start + -start % ALIGNMENT
    end = padded + size + SIGNATURE_BYTES
    if len(view) != end:
        raise WireError("truncated" if len(view) < end else "trailing-bytes")
    if any(view[start:padded]):
        raise WireError("bad-padding")
    try:
        run = bytes(view[_HEAD.size : _HEAD.size + run_size]).decode()
        op = bytes(view[_HEAD.size + run_size : start]).decode()
    except UnicodeDecodeError:
        raise WireError("bad-text") from None
    address = Address(sender, receiver, run, RoundId(number, attempt), op)
    return address, view[padded : padded + size], bytes(view[end - SIGNATURE_BYTES :])


def _signed(address: Address, payload: bytes | memoryview) -> Body:
    return {
        "sender": address.sender,
        "receiver": address.receiver,
        "run": address.run,
        "number": address.round.number,
        "attempt": address.round.attempt,
        "op": address.op,
        "payload": hashlib.sha256(payload).digest(),
    }
