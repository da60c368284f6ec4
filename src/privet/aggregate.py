"""The server half of a run: from an opened sum to the next adapter.

It is a role, not a place. Where the seal lets the server see the sum, it runs there; where the sum is encrypted, it
runs at the designated client, and the server passes its sealed state on without reading it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privet import wire
from privet.optimiser import Optimiser
from privet.pipeline import Floats, Integers, Pipeline
from privet.protocol import Body, RoundId, as_array
from privet.systems.base import System


def state_schema(dimension: int) -> wire.Schema:
    """What a state message holds: the adapter, the optimiser, and the rounds that are in it."""
    vector = wire.Array("float32", (dimension,))
    whole = wire.Whole(low=0)
    return wire.Schema({"flat": vector, "first": vector, "second": vector, "steps": whole, "rounds": whole})


@dataclass
class Aggregator:
    """Decodes sums, steps the optimiser, and holds the adapter.

    Attributes:
        pipeline: The run's pipeline; its backward half is run here.
        optimiser: Server optimiser with its state.
        flat: Trained values, float32 [D].
        rounds: Rounds whose sum is in ``flat``.
    """

    pipeline: Pipeline
    optimiser: Optimiser
    flat: Floats
    rounds: int = 0

    @classmethod
    def fresh(cls, system: System, initial: Floats) -> Aggregator:
        """The state before the first round."""
        return cls(system.pipeline, Optimiser.fresh(system.optimiser, len(initial)), initial.copy())

    def apply(self, round_id: RoundId, total: Integers) -> float:
        """Take in the opened sum of a round, int64 [k]; a round that is in already changes nothing.

        Returns:
            Euclidean norm of the decoded mean, post-processing of what was opened.
        """
        direction = self.pipeline.backward(total)
        if round_id.number == self.rounds:
            self.flat = self.optimiser.step(self.flat, direction)
            self.rounds += 1
        return float(np.linalg.norm(direction.astype(np.float64)))

    def broadcast(self) -> Body:
        """What clients need for the next round."""
        return {"adapter": self.flat}

    def to_bytes(self) -> bytes:
        """The whole state, for a checkpoint or, sealed, for the other clients."""
        return wire.encode({"flat": self.flat, "rounds": self.rounds, **self.optimiser.to_body()})

    def restore(self, data: bytes) -> None:
        """Take back what :meth:`to_bytes` gave.

        Raises:
            privet.wire.WireError: if it belongs to another adapter or is damaged.
        """
        body = wire.decode(data, state_schema(len(self.flat)))
        self.flat = as_array(body, "flat").copy()
        self.rounds = int(body["rounds"])
        self.optimiser.restore(body)
