"""The server half of a run: from an opened sum to the next adapter, and to the codec of the next round.

It is a role, not a place. Where the seal lets the server see the sum, it runs there; where the sum is encrypted, it
runs at the designated client, and the server passes its sealed state on without reading it. Every client holds one too,
as its picture of what the adapter is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from privet import wire
from privet.codec_schedule import CodecSchedule
from privet.codecs import Codec, fields, pack, unpack
from privet.config import OptimiserConfig
from privet.optimiser import Optimiser, moment_sizes
from privet.pipeline import Floats, Integers
from privet.protocol import Body, RoundId, as_array
from privet.systems.base import System

Compose = Callable[[Codec | None], System]
"""Composes the run's system with a codec, everything else as resolved."""

MOST_CODEC_NUMBERS = 1 << 27


def codec_fields() -> dict[str, wire.Kind]:
    """Fields of a message that may carry a codec."""
    return fields(MOST_CODEC_NUMBERS)


def state_schema(dimension: int) -> wire.Schema:
    """What a state message holds: the adapter, the optimiser, the rounds that are in it, the next round's codec."""
    vector, moment = wire.Array("float32", (dimension,)), wire.Array("float32", (wire.UpTo(dimension),))
    whole = wire.Whole(low=0)
    own: dict[str, wire.Kind] = {"flat": vector, "first": moment, "second": moment}
    own |= {"steps": whole, "rounds": whole}
    codec = codec_fields()
    return wire.Schema({**own, **codec}, optional=frozenset(codec))


@dataclass
class Aggregator:
    """Decodes sums, steps the optimiser, and holds the adapter.

    Attributes:
        compose: Composes the run's system with a codec.
        schedule: Decides on the codec of each round.
        optimiser: Server optimiser with its state.
        flat: Trained values, float32 [D].
        system: The system of the round that is due.
        codec: Its codec; ``None`` for the identity.
        rounds: Rounds whose sum is in ``flat``.
    """

    compose: Compose
    schedule: CodecSchedule
    optimiser: Optimiser
    flat: Floats
    system: System
    codec: Codec | None = None
    rounds: int = 0

    @classmethod
    def fresh(
        cls,
        compose: Compose,
        schedule: CodecSchedule,
        optimiser: OptimiserConfig,
        initial: Floats,
        codec: Codec | None,
    ) -> Aggregator:
        """The state before the first round, whose codec the schedule has decided."""
        state = Optimiser.fresh(optimiser, len(initial))
        return cls(compose, schedule, state, initial.copy(), compose(codec), codec)

    @property
    def size(self) -> int:
        """Values k in a contribution to the round that is due."""
        return self.codec.size if self.codec else len(self.flat)

    def apply(self, round_id: RoundId, total: Integers) -> float | None:
        """Take in the opened sum of a round, int64 [k]; a round that is in already changes nothing.

        Returns:
            Euclidean norm of the decoded mean, post-processing of what was opened.
        """
        if round_id.number != self.rounds:
            return None
        direction = self.system.pipeline.backward(total)
        before = self.flat
        self.flat = self.optimiser.step(self.flat, direction)
        self.rounds += 1
        self._use(self.schedule.codec(self.rounds, self.flat, self.flat - before, self.codec))
        return float(np.linalg.norm(direction.astype(np.float64)))

    def broadcast(self) -> Body:
        """What clients need for the next round."""
        return {"adapter": self.flat, **self._packed()}

    def take(self, body: Body) -> None:
        """Take adapter and codec of the round that is due from a broadcast.

        Raises:
            PrivetError: if the codec is unsound in this run.
            RoundAborted: if it is malformed.
        """
        self.flat = as_array(body, "adapter").copy()  # decoded arrays are read-only views
        self._take_codec(body)

    def to_bytes(self) -> bytes:
        """The whole state, for a checkpoint or, sealed, for the other clients."""
        own = {"flat": self.flat, "rounds": self.rounds, **self.optimiser.to_body()}
        return wire.encode({**own, **self._packed()})

    def restore(self, data: bytes) -> None:
        """Take back what :meth:`to_bytes` gave.

        Raises:
            privet.wire.WireError: if it belongs to another adapter or is damaged.
            PrivetError: if its codec is unsound in this run.
        """
        body = wire.decode(data, state_schema(len(self.flat)))
        for moment, size in moment_sizes(self.optimiser.config, len(self.flat)).items():
            if len(as_array(body, moment)) != size:
                raise wire.WireError("wrong-shape", moment)
        self.flat = as_array(body, "flat").copy()
        self.rounds = int(body["rounds"])
        self.optimiser.restore(body)
        self._take_codec(body)

    def _packed(self) -> Body:
        return pack(self.codec) if self.codec else {}

    def _take_codec(self, body: Body) -> None:
        codec = None
        if any(name in body for name in codec_fields()):
            codec = unpack(body)
            self.schedule.check(codec)
        self._use(codec)

    def _use(self, codec: Codec | None) -> None:
        if codec is not self.codec:
            self.codec, self.system = codec, self.compose(codec)
