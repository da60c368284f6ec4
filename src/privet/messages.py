"""The schemas of the protocol's own operations: what is not named here cannot be sent.

Sealing levels bring the schemas of their operations themselves. A client's answer to ``round`` is the sealed
contribution and nothing else: no counts, losses, clip fractions or exception texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from privet.sealing.base import Message, SealingServer
from privet.wire import Array, Blob, Schema, Text, Whole

NOTHING = Schema({})
ENROL, ROUND, OPEN = "enrol", "round", "open"
MAX_STATE_OVERHEAD = 1 << 16


def schemas(sealing: SealingServer, dimension: int, size: int, parties: int) -> Mapping[str, Message]:
    """Question and answer of every operation of a run.

    Args:
        sealing: Server half of the level, which knows its own operations.
        dimension: Trained values D, the length of the adapter in a question.
        size: Values k in a contribution.
        parties: Enrolled clients.
    """
    state = Blob(3 * 4 * dimension + MAX_STATE_OVERHEAD)
    number = Whole(low=0)
    where = {"number": number, "attempt": number}
    answer = sealing.sealed(size)
    return {
        **sealing.messages(),
        ENROL: Message(Schema({"run": Text(128), "dimension": number}), Schema({"version": Text(32)})),
        ROUND: Message(
            Schema(
                {**where, "adapter": Array("float32", (dimension,)), "state": state},
                optional=frozenset({"adapter", "state"}),
            ),
            answer,
        ),
        OPEN: Message(
            Schema({**where, "sum": Blob(64 * size * max(parties, 4) + MAX_STATE_OVERHEAD)}),
            Schema({"state": state}),
        ),
    }
