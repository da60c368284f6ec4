"""The schemas of the protocol's own operations: what is not named here cannot be sent.

Sealing levels bring the schemas of their operations themselves. A client's answer to ``round`` is the sealed
contribution, and under an encrypted level a keyed hash of the state it started from; nothing else: no counts, losses,
clip fractions or exception texts.
"""

from __future__ import annotations

import hashlib

from privet import wire
from privet.aggregate import CODEC_DIGEST, MOST_CODEC_NUMBERS, codec_fields
from privet.sealing.base import SealingServer
from privet.sealing.state_seal import HASH_BYTES, most_sealed_bytes
from privet.wire import Array, Blob, Body, Message, Schema, Text, Whole

ENROL, ROUND, OPEN, FINISH = "enrol", "round", "open", "finish"
TAG = "state_tag"
_NUMBER = Whole(low=0)


def schemas(
    sealing: SealingServer, *, dimension: int, state_bytes: int, encrypted: bool
) -> dict[str, Message]:
    """Question and answer of every operation of a run, but for the answers whose length goes with the codec.

    A contribution's length and a sum's are known only when a round's codec is, so their asks carry the schema.

    Args:
        sealing: Server half of the level, which knows its own operations.
        dimension: Trained values D, the length of the adapter in a question.
        state_bytes: Bytes of the server half's state.
        encrypted: Whether a designated client opens sums.
    """
    return {**sealing.messages(), **own_schemas(dimension, state_bytes, encrypted=encrypted)}


def own_schemas(dimension: int, state_bytes: int, *, encrypted: bool) -> dict[str, Message]:
    """The protocol's own operations, without those of a sealing level; see `schemas`."""
    where = {"number": _NUMBER, "attempt": _NUMBER}
    enrol = Message(Schema({"run": Text(128), "dimension": _NUMBER}), Schema({"version": Text(32)}))
    nothing = Schema({})
    if not encrypted:
        adapter, codec = Array("float32", (dimension,)), {**codec_fields(), CODEC_DIGEST: Blob(32, 32)}
        question = Schema({**where, "adapter": adapter, **codec}, optional=frozenset(codec))
        return {ENROL: enrol, ROUND: Message(question, nothing)}
    state, tag = Blob(most_sealed_bytes(state_bytes)), Blob(HASH_BYTES, HASH_BYTES)
    size = Whole(1, longest_code(dimension))
    question = Schema({**where, "size": size, "state": state}, optional=frozenset({"state"}))
    return {
        ENROL: enrol,
        ROUND: Message(question, nothing),
        OPEN: Message(nothing, Schema({"state": state, "size": size})),
        FINISH: Message(Schema({"rounds": _NUMBER, "state": state}), Schema({TAG: tag})),
    }


def longest_code(dimension: int) -> int:
    """Most values in a contribution of any round.

    Codes are no longer than the adapter but for two: an autoencoder's counts its padding, and statistics may be more
    than the values of tiny tensors. Neither has more numbers than the codec's own message may hold.
    """
    return max(dimension, MOST_CODEC_NUMBERS)


def answer_schema(sealed: Schema, *, encrypted: bool) -> Schema:
    """Schema of an answer to ``round``, from that of the sealed contribution."""
    return Schema({**sealed.fields, TAG: Blob(HASH_BYTES, HASH_BYTES)}) if encrypted else sealed


def digest(question: Body) -> bytes:
    """What a question's answers are bound to, 32 bytes: equal at server and client for equal questions only.

    A codec counts by its digest, so a question stays the same one whether or not the codec goes along.
    """
    bound = question
    if CODEC_DIGEST in question:
        bound = {name: value for name, value in question.items() if name not in codec_fields()}
    return hashlib.sha256(wire.encode(bound)).digest()
