"""The server half of a run: from an opened sum to the next adapter, and to the codec of the next round.

It is a role, not a place. Where the seal lets the server see the sum, it runs there; where the sum is encrypted, it
runs at the designated client, and the server passes its sealed state on without reading it. Every client holds one too,
as its picture of what the adapter is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import numpy as np

from privet import wire
from privet.codec_schedule import CodecSchedule
from privet.codecs import Codec, fields, pack, unpack
from privet.config import OptimiserConfig
from privet.optimiser import Optimiser, moment_sizes
from privet.pipeline import Floats, Integers
from privet.protocol import RoundAborted, RoundId, as_array
from privet.systems.base import System
from privet.wire import Body

Compose = Callable[[Codec | None], System]
"""Composes the run's system with a codec, everything else as resolved."""

Apart = Callable[[], Iterator[Integers]]
"""Contributions to a round one after another, int64 [k] each."""

MOST_CODEC_NUMBERS = 1 << 27
CODEC_DIGEST = "codec_digest"
"""Field with the SHA-256 of the codec of a round, which is there itself only where a client may lack it."""


NOT_FINITE = "not-finite"
"""Reason of a client that refuses a state with numbers that are not finite: a run that diverged, or a cheat."""
UNKNOWN_CODEC = "unknown-codec"
"""Reason of a client that refuses because it was not sent the codec that a question names."""


class UnknownCodec(Exception):
    """A question names a codec that it does not hold and that was not received before."""


@cache
def codec_fields() -> Mapping[str, wire.Kind]:
    """Fields of a message that may carry a codec."""
    return MappingProxyType(fields(MOST_CODEC_NUMBERS))


def state_schema(dimension: int) -> wire.Schema:
    """What a state message holds: the adapter, the optimiser, the rounds that are in it, the next round's codec.

    During a preparation also what it has gathered so far.
    """
    vector, moment = wire.Array("float32", (dimension,)), wire.Array("float32", (wire.UpTo(dimension),))
    whole = wire.Whole(low=0)
    own: dict[str, wire.Kind] = {"flat": vector, "first": moment, "second": moment}
    own |= {"steps": whole, "rounds": whole}
    gathered: dict[str, wire.Kind] = {"gathered": wire.Array("float32", (wire.UpTo(MOST_CODEC_NUMBERS),))}
    codec = codec_fields()
    return wire.Schema({**own, **gathered, **codec}, optional=frozenset([*gathered, *codec]))


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
        rounds: Rounds whose sum was taken in.
        gathered: What the rounds of a preparation gave, float32 [n, k]: mean messages, or single updates.
        tap: Sees each sum that is taken in; audits use it, as they use the engine's for messages.
    """

    compose: Compose
    schedule: CodecSchedule
    optimiser: Optimiser
    flat: Floats
    system: System
    codec: Codec | None = None
    rounds: int = 0
    gathered: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    tap: Callable[[RoundId, Integers], None] | None = None
    _digest: bytes | None = None

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
        state = Optimiser.fresh(optimiser, len(initial), schedule.rounds)
        return cls(compose, schedule, state, initial.copy(), compose(codec), codec)

    @property
    def size(self) -> int:
        """Values k in a contribution to the round that is due."""
        return self.size_at(self.rounds)

    def size_at(self, number: int) -> int:
        """Values k in a contribution to a round, with the codec of the one that is due."""
        return self.system.at(number).pipeline.size or len(self.flat)

    def apply(self, round_id: RoundId, total: Integers, apart: Apart | None = None) -> float | None:
        """Take in the opened sum of a round, int64 [k]; a round that is in already changes nothing.

        Args:
            round_id: Which round.
            total: The sum.
            apart: The contributions one by one, where the level does not hide them.

        Returns:
            Euclidean norm of the decoded mean, post-processing of what was opened.

        Raises:
            PrivetError: if the codec that a preparation leads to is unsound or useless.
        """
        if round_id.number != self.rounds:
            return None
        if self.tap:
            self.tap(round_id, total)
        if self.rounds < self.system.prepared_by:
            return self._gather(total, apart)
        direction = self.system.pipeline.backward(total)
        before = self.flat
        self.flat = self.optimiser.step(self.flat, direction)
        self.rounds += 1
        number = self.rounds - self.system.prepared_by
        self._use(self.schedule.codec(number, self.flat, self.flat - before, self.codec))
        return _norm(direction)

    def _gather(self, total: Integers, apart: Apart | None) -> float:
        """Keep what a round of the preparation gave; after the last, make the codec from all of it."""
        preparation = self.system.preparation
        assert preparation is not None, "only a preparation gathers"
        backward = preparation.system.pipeline.backward
        mean = backward(total)
        rows = [mean]
        if preparation.code is None:
            assert apart is not None, "config_rules demands level none"
            rows = [backward(one) for one in apart()]
        self.gathered = np.stack([*self.gathered, *rows])
        codec = None
        if self.rounds + 1 == preparation.rounds:
            codec = self.schedule.learned(preparation, self.gathered, self.flat)
            self.gathered = self.gathered[:0]
        self.rounds += 1
        self._use(codec)
        return _norm(mean)

    def broadcast(self, *, with_codec: bool = True) -> Body:
        """What clients need for the next round.

        Args:
            with_codec: Whether the codec itself goes along, or its digest alone.
        """
        adapter: Body = {"adapter": self.flat}
        if self.codec is None:
            return adapter
        return {**adapter, CODEC_DIGEST: self.codec_digest, **(self._packed() if with_codec else {})}

    @property
    def codec_digest(self) -> bytes:
        """SHA-256 of the codec's fields; empty without one."""
        if self._digest is None:
            self._digest = _digest_of(self._packed()) if self.codec else b""
        return self._digest

    def take(self, body: Body) -> None:
        """Take adapter and codec of the round that is due from a broadcast.

        Raises:
            PrivetError: if the codec is unsound in this run.
            UnknownCodec: if it did not come along and is not the one that is held.
            RoundAborted: if it is malformed, or not the one of its digest.
        """
        named = bytes(body.get(CODEC_DIGEST, b""))  # type: ignore[arg-type]  # Blob by the schema
        flat = as_array(body, "adapter").copy()  # decoded arrays are read-only views
        sent = _codec_of(body)
        if sent or not named:
            if (_digest_of(sent) if sent else b"") != named:
                raise RoundAborted("the codec of a question is not the one of its digest")
            self._use(self._read_codec(sent))
            self._digest = named
        elif named != self.codec_digest:
            raise UnknownCodec
        self.flat = flat

    def to_bytes(self) -> bytes:
        """The whole state, for a checkpoint or, sealed, for the other clients."""
        own: Body = {"flat": self.flat, "rounds": self.rounds, **self.optimiser.to_body()}
        if self.gathered.size:
            own["gathered"] = self.gathered.reshape(-1)
        return wire.encode({**own, **self._packed()})

    def restore(self, data: bytes) -> None:
        """Take back what :meth:`to_bytes` gave; what is refused changes nothing.

        Raises:
            privet.wire.WireError: if it belongs to another adapter or is damaged.
            RoundAborted: if its codec is malformed.
            PrivetError: if its codec is unsound in this run.
        """
        self._become(wire.decode(data, state_schema(len(self.flat))))

    def receive(self, data: bytes, rounds: int) -> None:
        """Take over what another party says that the state is; what is refused changes nothing.

        Nobody can see whether it is what followed from the sum. But one that could not be gone on with must be refused
        here: later it would cost an answer that was charged, and the sum that leads to another one would be gone.

        Args:
            data: What :meth:`to_bytes` gave there.
            rounds: Rounds that are in the state that is due.

        Raises:
            privet.wire.WireError: if it is of other rounds, belongs to another adapter, or cannot be gone on with.
            RoundAborted: if its codec is malformed.
            PrivetError: if its codec is unsound in this run.
        """
        body = wire.decode(data, state_schema(len(self.flat)))
        if body["rounds"] != rounds:
            raise wire.WireError("wrong-round", "rounds")
        for name in ("flat", "first", "second", *(["gathered"] if "gathered" in body else [])):
            if not np.isfinite(as_array(body, name)).all():
                raise wire.WireError(NOT_FINITE, name)
        if (as_array(body, "second") < 0).any():  # the step divides by its root
            raise wire.WireError(NOT_FINITE, "second")
        self._become(body)

    def _become(self, body: Body) -> None:
        """Read all of a state before anything of it is taken over."""
        rounds, preparation = int(body["rounds"]), self.system.preparation
        for moment, size in moment_sizes(self.optimiser.config, len(self.flat)).items():
            if len(as_array(body, moment)) != size:
                raise wire.WireError("wrong-shape", moment)
        if body["steps"] != max(0, rounds - self.system.prepared_by):
            raise wire.WireError("out-of-range", "steps")
        gathered, width = self.gathered[:0], self._width
        if "gathered" in body:
            flat = as_array(body, "gathered")
            if len(flat) % width:
                raise wire.WireError("wrong-shape", "gathered")
            gathered = flat.reshape(-1, width).copy()
        preparing = rounds < self.system.prepared_by
        # Without a code the rows are single updates, one for each client that was there.
        single = preparing and preparation is not None and preparation.code is None
        if not single and len(gathered) != (rounds if preparing else 0):
            raise wire.WireError("wrong-shape", "gathered")
        codec = self._read_codec(_codec_of(body))
        self._use(codec)
        self.flat, self.rounds, self.gathered = as_array(body, "flat").copy(), rounds, gathered
        self.optimiser.restore(body)

    @property
    def _width(self) -> int:
        """Numbers in a row of what a preparation gathers."""
        preparation = self.system.preparation
        return (preparation.system.pipeline.size if preparation else None) or len(self.flat)

    def _packed(self) -> Body:
        return pack(self.codec) if self.codec else {}

    def _read_codec(self, sent: Body) -> Codec | None:
        """The codec of fields that were received; the one that is held, if it is the same."""
        if not sent or _digest_of(sent) == self.codec_digest:
            return self.codec if sent else None
        codec = unpack(sent, len(self.flat))
        self.schedule.check(codec)
        return codec

    def _use(self, codec: Codec | None) -> None:
        if codec is not self.codec:
            system = self.compose(codec)
            self.codec, self.system, self._digest = codec, system, None


def _codec_of(body: Body) -> Body:
    return {name: body[name] for name in codec_fields() if name in body}


def _digest_of(codec: Body) -> bytes:
    return hashlib.sha256(wire.encode(codec)).digest()


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))
