"""The client's half of the protocol: ``handle(op, body) -> body``, and what it writes down before it answers.

A client answers a round once. Its answer is on its own disk before it is sent, so that the same question gets the same
bytes again, for free; another question for the same attempt is refused, because a second answer would be a second
release that no ledger knows of.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from privet import __version__, wire
from privet.aggregate import Aggregator
from privet.keys import ClientKeys
from privet.messages import ENROL, OPEN, ROUND
from privet.pipeline import Floats, Pass
from privet.protocol import Body, RoundId, as_array
from privet.randomness import RoundRandomness
from privet.sealing.base import SealingClient, SealingRefused, Store
from privet.systems.base import System
from privet.wire import Schema
from privet.work import Workplace

_DIGEST_BYTES = 32


@dataclass
class Client:
    """One party of a run.

    Attributes:
        system: The composition, the same object at every party.
        place: Records and trainer.
        keys: All secret randomness.
        sealing: Client half of the sealing level.
        store: Folder of files that only this client reads.
        answer_schema: Schema of the answer to ``round``.
        initial: Trained values before the first round, float32 [D].
        weight: Public weight of this client.
        aggregator: The server half's role, at the designated client of an encrypted level.
        observed: Diagnostics of the last round; they are never sent.
    """

    system: System
    place: Workplace
    keys: ClientKeys
    sealing: SealingClient
    store: Store
    answer_schema: Schema
    initial: Floats
    weight: float = 1.0
    aggregator: Aggregator | None = None
    observed: dict[str, float] = field(default_factory=dict)

    def handle(self, op: str, body: Body) -> Body:
        """Answer one question.

        Raises:
            SealingRefused: if answering could reveal more than was agreed; the reason is safe to send.
        """
        if op == ENROL:
            return self._enrol(body)
        if op == ROUND:
            return self._round(body)
        if op == OPEN:
            return self._open(body)
        return self.sealing.handle(op, body)

    def _enrol(self, body: Body) -> Body:
        if body["dimension"] != len(self.initial):
            raise SealingRefused("other-adapter", "the server's adapter has another number of trained values")
        return {"version": __version__}

    def _round(self, body: Body) -> Body:
        round_id = RoundId(int(body["number"]), int(body["attempt"]))
        question = hashlib.sha256(wire.encode(body)).digest()
        last = self.store.get("answered")
        if last is not None:
            answered = RoundId(*(int.from_bytes(last[i : i + 8], "big") for i in (0, 8)))
            if round_id == answered and last[16 : 16 + _DIGEST_BYTES] == question:
                return wire.decode(last[16 + _DIGEST_BYTES :], self.answer_schema)
            if round_id <= answered:
                raise SealingRefused(
                    "already-answered", "this round and attempt was answered to another question"
                )
        answer = self._contribute(round_id, body)
        stamp = round_id.number.to_bytes(8, "big") + round_id.attempt.to_bytes(8, "big")
        self.store.put("answered", stamp + question + wire.encode(answer, self.answer_schema))
        return answer

    def _contribute(self, round_id: RoundId, body: Body) -> Body:
        flat = self._adapter(body)
        randomness = RoundRandomness(self.keys, round_id)
        passing = Pass(round_id, randomness, self.weight)
        units = self.system.work.units(self.place, flat, randomness, passing)
        values = self.system.pipeline.forward(units, len(flat), passing)
        self.observed = passing.observed
        return self.sealing.seal(round_id, values)

    def _adapter(self, body: Body) -> Floats:
        if "adapter" in body:
            return as_array(body, "adapter").copy()  # decoded arrays are read-only views
        if "state" in body:
            raise SealingRefused("sealed-state", "this level has no sealed state")
        return self.initial

    def _open(self, body: Body) -> Body:
        raise SealingRefused("not-designated", "this client does not open sums")
