"""What a run sent and opened, as an attacker gets hold of it: messages from the engine's tap, sums where they open.

A `Transcript` also keeps what each client handed to its own seal. No attacker of the trust model sees that of an
honest client; it serves positive controls ("with the key"), and colluders, who know their own share of the
noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.client import Client
from privet.federation import Federation
from privet.messages import ROUND
from privet.packing import unpack
from privet.pipeline import CodecLike, Encode, Floats, Integers
from privet.protocol import RoundId
from privet.sealing.base import SealingClient
from privet.sealing.masks import Group, Words
from privet.sealing.state_seal import StateSeal
from privet.systems import System
from privet.wire import Body, Schema


@dataclass
class RoundSeen:
    """One round.

    Attributes:
        number: Round, from 0.
        flat: The adapter that it started from, float32 [D]: known to all who may see adapters.
        system: What ran, with the round's codec.
        messages: Answers by party, as bytes on the wire.
        handed: What each client handed to its seal, int64 [k], by party.
        total: The opened sum, int64 [k]; ``None`` if the round did not open.
    """

    number: int
    flat: Floats
    system: System
    messages: dict[int, bytes] = field(default_factory=dict)
    handed: dict[int, Integers] = field(default_factory=dict)
    total: Integers | None = None

    @property
    def rounding_noise(self) -> float:
        """Standard deviation at most that rounding one contribution adds to each value of a direction."""
        rounding = self.system.pipeline.rounding
        return 0.5 * rounding.grid.step / rounding.denominator

    @property
    def codec(self) -> CodecLike | None:
        """What contributions are encoded with; ``None`` for the identity."""
        return next((s.codec for s in self.system.pipeline.stages if isinstance(s, Encode)), None)

    def direction(self, values: Integers) -> Floats:
        """A contribution or a sum, int64 [k], in the units of the adapter, float32 [D]: the server's own way back."""
        return self.system.pipeline.backward(values)

    def code(self, values: Integers) -> Floats:
        """A contribution or a sum as a code, float32 [k], before any decoder."""
        return self.system.pipeline.rounding.backward(values)


@dataclass
class Transcript:
    """All rounds of a run.

    Attributes:
        bits: Width of a value on the wire, for levels that pack plain words.
        rounds: Rounds in order.
        answer: Schema of an answer with a number of values.
    """

    bits: int
    rounds: list[RoundSeen] = field(default_factory=list)
    answer: Callable[[int], Schema] = lambda size: Schema({})

    def watch(self, federation: Federation) -> None:
        """Watch the seals and sums of a federation that has not run yet; its messages come by `tap`."""
        self.answer = federation.server.answer
        for party, client in federation.clients.items():
            self._watch_seal(party, client)
            client.aggregator.tap = self._opened
        if federation.server.aggregator is not None:
            federation.server.aggregator.tap = self._opened

    def tap(self, op: str, party: int, question: bytes, answer: bytes) -> None:
        """Sees each exchange of the engine."""
        if op == ROUND:
            self.rounds[-1].messages[party] = answer

    def words(self, number: int, party: int) -> Integers:
        """A plain or masked message as numbers: residues modulo ``2**bits``, int64 [k].

        Raises:
            KeyError: if the level sends no packed words.
        """
        return self._unpacked(number, party).astype(np.int64)

    def in_the_clear(self, number: int, party: int) -> Integers:
        """A contribution that was sent without a seal, read from its bytes, int64 [k]."""
        group = Group.of_bits(self.bits)
        words: Words = self._unpacked(number, party).astype(group.dtype)
        return group.centred(words)

    def _unpacked(self, number: int, party: int) -> NDArray[np.uint64]:
        seen = self.rounds[number]
        count = len(seen.handed[party])
        body = wire.decode(seen.messages[party], self.answer(count))
        raw: Any = body["words"]
        return unpack(raw, self.bits, count)

    def _at(self, number: int, client: Client) -> RoundSeen:
        if not self.rounds or self.rounds[-1].number != number:
            state = client.aggregator
            system = state.system.at(number)
            self.rounds.append(RoundSeen(number, state.flat.copy(), system))
        return self.rounds[-1]

    def _watch_seal(self, party: int, client: Client) -> None:
        def hand(round: RoundId, values: Integers) -> Integers:
            self._at(round.number, client).handed[party] = values.copy()
            return values

        client.sealing = InFront(client.sealing, hand)

    def _opened(self, round: RoundId, total: Integers) -> None:
        self.rounds[-1].total = total.copy()


@dataclass
class InFront:
    """Somebody in front of a client's seal, who sees, and may change, what the client hands to it.

    Attributes:
        inner: The seal.
        hand: From a round and values, int64 [k], to the values that the seal gets.
    """

    inner: SealingClient
    hand: Callable[[RoundId, Integers], Integers]

    @property
    def states(self) -> StateSeal | None:
        """The seal's own."""
        return self.inner.states

    def handle(self, op: str, body: Body) -> Body:
        """The seal's own answer."""
        return self.inner.handle(op, body)

    def seal(self, round: RoundId, values: Integers, question: bytes = b"") -> Body:
        """What was handed on, sealed."""
        return self.inner.seal(round, self.hand(round, values), question)

    def unseal(self, round: RoundId, ciphertext: Body, count: int) -> Integers:
        """What the seal opens."""
        return self.inner.unseal(round, ciphertext, count)
