"""The schemas of the protocol's own operations: what is not named here cannot be sent.

Sealing levels bring the schemas of their operations themselves. A client's answer to ``round`` is the sealed
contribution, and under an encrypted level a keyed hash of the state it started from; nothing else: no counts, losses,
clip fractions or exception texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from privet.sealing.base import Message, SealingServer
from privet.sealing.state_seal import HASH_BYTES, most_sealed_bytes
from privet.wire import Array, Blob, Schema, Text, Whole

ENROL, ROUND, OPEN, FINISH = "enrol", "round", "open", "finish"
TAG = "state_tag"
_NUMBER = Whole(low=0)


def schemas(
    sealing: SealingServer, *, dimension: int, size: int, state_bytes: int, summed: Schema | None
) -> Mapping[str, Message]:
    """Question and answer of every operation of a run.

    Args:
        sealing: Server half of the level, which knows its own operations.
        dimension: Trained values D, the length of the adapter in a question.
        size: Values k in a contribution.
        state_bytes: Bytes of the server half's state.
        summed: Schema of a sum that a designated client opens; ``None`` where the server opens it.
    """
    where = {"number": _NUMBER, "attempt": _NUMBER}
    answer = sealing.sealed(size)
    enrol = Message(Schema({"run": Text(128), "dimension": _NUMBER}), Schema({"version": Text(32)}))
    if summed is None:
        adapter = Array("float32", (dimension,))
        own = {ENROL: enrol, ROUND: Message(Schema({**where, "adapter": adapter}), answer)}
        return {**sealing.messages(), **own}
    state, tag = Blob(most_sealed_bytes(state_bytes)), Blob(HASH_BYTES, HASH_BYTES)
    first = frozenset({"state"})
    return {
        **sealing.messages(),
        ENROL: enrol,
        ROUND: Message(
            Schema({**where, "state": state}, optional=first), Schema({**answer.fields, TAG: tag})
        ),
        OPEN: Message(summed, Schema({"state": state})),
        FINISH: Message(Schema({"rounds": _NUMBER, "state": state}), Schema({TAG: tag})),
    }
