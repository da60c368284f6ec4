"""The client's half of the protocol: ``handle(op, body) -> body``, and what it writes down before it answers.

A client answers a round once. Its answer is on its own disk before it is sent, so that the same question gets the same
bytes again, for free; another question for the same attempt is refused, because a second answer would be a second
release that no ledger knows of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privet import __version__, wire
from privet.aggregate import NOT_FINITE, UNKNOWN_CODEC, Aggregator, UnknownCodec
from privet.codecs import Codec, ErrorFeedback
from privet.errors import PrivetError
from privet.keys import ClientKeys
from privet.messages import ENROL, FINISH, OPEN, ROUND, TAG, digest
from privet.pipeline import Pass, Units
from privet.protocol import RoundAborted, RoundId
from privet.randomness import RoundRandomness
from privet.sealing.base import SealingClient, SealingRefused, Store
from privet.wire import Body, Schema
from privet.work import Workplace

_DIGEST_BYTES = 32
MOST_FAILED_OPENINGS = 3
"""How often in a run opening a sum may fail here, before this client opens none any more.

Whether a ciphertext opens tells something of the key. A server that chose ciphertexts and could ask thousands of times
would have all of it, so each failure counts, and before anything is decrypted. Honest sums do not fail.
"""


class Guard(Protocol):
    """A site's own limits on what it releases, whatever the server asks."""

    def admit(self, due: RoundId) -> None:
        """Write a new answer to this attempt at a round down as a release, before it is computed.

        Raises:
            SealingRefused: if the site does not allow it; the reason is safe to send.
        """


_STATE, _MEMORY, _CHARGED, _FAILED = "state", "error-feedback", "charged", "failed-openings"


@dataclass
class Client:
    """One party of a run.

    Attributes:
        place: Records and trainer.
        keys: All secret randomness.
        sealing: Client half of the sealing level.
        store: Folder of files that only this client reads.
        answers: Schemas of the answers that are written down, by operation, for contributions of a size.
        aggregator: Adapter and system as this client knows them; under an encrypted level also the server half's role.
        rounds: Rounds of the run; no later one is answered.
        weight: Public weight of this client.
        error_feedback: Whether this client adds what its code lost to its next update.
        guard: The site's own limits, if it has any.
        observed: Diagnostics of the last contribution that was computed; they are never sent.
        observed_round: Its round; -1 before the first.
    """

    place: Workplace
    keys: ClientKeys
    sealing: SealingClient
    store: Store
    answers: Callable[[str, int], Schema]
    aggregator: Aggregator
    rounds: int
    weight: float = 1.0
    error_feedback: bool = False
    guard: Guard | None = None
    observed: dict[str, float] = field(default_factory=dict)
    observed_round: int = -1

    def __post_init__(self) -> None:
        kept = self.store.get(_STATE)
        if kept:
            try:
                self.aggregator.restore(kept)
            except wire.WireError as error:
                raise self._damaged(_STATE, error) from None

    def handle(self, op: str, body: Body) -> Body:
        """Answer one question.

        Raises:
            SealingRefused: if answering could reveal more than was agreed; the reason is safe to send.
        """
        if op == ENROL:
            return self._enrol(body)
        if op in (ROUND, OPEN):
            return self._once(op, body)
        if op == FINISH:
            return self._finish(body)
        return self.sealing.handle(op, body)

    def _enrol(self, body: Body) -> Body:
        if body["dimension"] != len(self.aggregator.flat):
            raise SealingRefused("other-adapter", "the server's adapter has another number of trained values")
        return {"version": __version__}

    def _once(self, op: str, body: Body) -> Body:
        """Answer an attempt at a round once: the same question again gets the bytes that were written down."""
        round_id = RoundId(int(body["number"]), int(body["attempt"]))
        question = digest(body)
        last, answered = self.store.get(f"answered.{op}"), self._answered(op)
        if last is not None and answered is not None:
            if round_id == answered and last[16 : 16 + _DIGEST_BYTES] == question:
                size = int.from_bytes(last[48:56], "big")
                if "adapter" in body:
                    # A client that was restarted needs no codec to repeat itself, but may need it in the next round.
                    with suppress(UnknownCodec):
                        self.aggregator.take(body)
                try:
                    return wire.decode(last[56:], self.answers(op, size))
                except wire.WireError as error:
                    raise self._damaged(f"answered.{op}", error) from None
            if round_id <= answered:
                raise SealingRefused(
                    "already-answered", "this round and attempt was answered to another question"
                )
        if round_id.number >= self.rounds:
            raise SealingRefused("run-over", f"the run has {self.rounds} rounds")
        if op == ROUND:
            # A question that is refused for itself touches no record: it costs nothing and tells nothing.
            self._take_state(round_id.number, body)
            batches = None if self.guard is None else self._admit(self.guard, round_id, question)
        try:
            if op == ROUND:
                answer, size = self._contribute(RoundRandomness(self.keys, round_id, batches), question)
            else:
                answer, size = self._open(round_id, body)
        except Exception:
            # An error tells something of the records: whoever asks again after one is charged again.
            self.store.put(_CHARGED, b"")
            raise
        raw = wire.encode(answer, self.answers(op, size))
        self.store.put(
            f"answered.{op}", b"".join([_numbers(round_id), question, size.to_bytes(8, "big"), raw])
        )
        return answer

    def _answered(self, op: str) -> RoundId | None:
        """The attempt that was answered last."""
        last = self.store.get(f"answered.{op}")
        return RoundId(*(int.from_bytes(last[i : i + 8], "big") for i in (0, 8))) if last else None

    def _admit(self, guard: Guard, round_id: RoundId, question: bytes) -> bytes:
        """Have the site's limits charge an answer: once, and again if it is begun more often than one crash explains.

        An answer leaves only when it is on the disk, so a client that was killed after the charge and before that owes
        the one answer that was charged, to that question, and begins it a second time for nothing, with the same batch:
        else a server that can end the process could choose between two by the time that they take. Every further start
        of the same answer is charged like another one, with a batch of its own. The number of starts and the key of the
        batch are on the disk before the start.

        Returns:
            What the answer's batches follow from.
        """
        mark = _numbers(round_id) + question
        kept = self.store.get(_CHARGED) or b""
        start = kept[len(mark) :] if kept.startswith(mark) else b""
        starts, batches = int.from_bytes(start[:8], "big"), start[8:]
        if starts != 1 or not batches:
            guard.admit(round_id)
            batches = self.keys.draw("batches", round_id)
        self.store.put(_CHARGED, mark + (starts + 1).to_bytes(8, "big") + batches)
        return batches

    def _damaged(self, entry: str, error: wire.WireError) -> PrivetError:
        return PrivetError(
            f"what this client has kept as '{entry}' is damaged",
            field=self.place.name,
            given=str(error),
            hint="start the run anew with --fresh or another --out; what was released stays released",
        )

    def _contribute(self, randomness: RoundRandomness, question: bytes) -> tuple[Body, int]:
        round_id = randomness.round
        system = self.aggregator.system.at(round_id.number)
        passing = Pass(round_id, randomness, self.weight)
        flat = self.aggregator.flat
        units = system.work.units(self.place, flat, randomness, passing)
        codec = self.aggregator.codec
        if self.error_feedback and codec is not None:
            units = self._remembering(units, codec, round_id.number)
        values = system.pipeline.forward(units, len(flat), passing)
        self.observed, self.observed_round = passing.observed, round_id.number
        answer = self.sealing.seal(round_id, values, question)
        states = self.sealing.states
        if states is not None:
            answer[TAG] = states.fingerprint(self.aggregator.to_bytes(), question)
        return answer, len(values)

    def _remembering(self, units: Iterator[Units], codec: Codec, number: int) -> Iterator[Units]:
        """Updates plus what earlier codes lost; the memory is on disk before the answer can be."""
        kept = self.store.get(_MEMORY)
        memory = ErrorFeedback.from_bytes(kept) if kept else ErrorFeedback(codec.dimension)
        for one in units:
            yield Units(one.ids, memory.corrected(one.vectors[0], codec, number)[None])
            self.store.put(_MEMORY, memory.to_bytes())

    def _take_state(self, rounds: int, body: Body) -> None:
        """The adapter of a question: in the clear, or sealed by the client that opened the last sum.

        Raises:
            SealingRefused: if it is not of this round, damaged, comes with a codec that this run cannot use, or has
                contributions of another size than the question says: the server would have no use for this one.
        """
        try:
            self._take(rounds, body)
        except wire.WireError as error:
            reason = NOT_FINITE if error.reason == NOT_FINITE else "malformed"
            raise SealingRefused(reason, f"the state of the question: {error}") from None
        except RoundAborted:
            raise SealingRefused("malformed", "adapter or codec of the question are malformed") from None
        except UnknownCodec:
            raise SealingRefused(UNKNOWN_CODEC, "the question's codec has not come here yet") from None
        except PrivetError:
            raise SealingRefused("unsound-codec", "the question's codec is refused in this run") from None
        if body.get("size", self.aggregator.size) != self.aggregator.size:
            raise SealingRefused("other-size", "the state is of another codec than the question says")

    def _take(self, rounds: int, body: Body) -> None:
        if "adapter" in body:
            self.aggregator.take(body)
        elif "state" in body:
            states = self.sealing.states
            if states is None:
                raise SealingRefused("sealed-state", "this level has no sealed state")
            if rounds == 0:
                raise SealingRefused(
                    "early-state", "all begin with what they agreed on, and no sum was opened yet"
                )
            state = states.open(bytes(body["state"]), rounds)  # type: ignore[arg-type]  # Blob by the schema
            self.aggregator.receive(state, rounds)
            self.store.put(_STATE, state)
        elif rounds > 0 or self.aggregator.rounds != 0:
            # Masks hide what answers one question: what this client holds must not be another answer to it.
            raise SealingRefused("no-state", "the question of a later round lacks the state")

    def _open(self, round_id: RoundId, body: Body) -> tuple[Body, int]:
        """Open a sum as the designated client, step the optimiser, and seal the new state for the others."""
        states = self.sealing.states
        if states is None:
            raise SealingRefused("not-designated", "the server opens sums at this level")
        if self.aggregator.rounds < round_id.number:
            raise SealingRefused("no-state", "this client was away and does not know the adapter")
        if self.aggregator.rounds > round_id.number + 1:
            raise SealingRefused("replayed-round", "the sum of a round that others came after")
        if self._answered(ROUND) != round_id:
            raise SealingRefused(
                "no-contribution", "this client's contribution is not in the sum of this attempt"
            )
        # A round that is in the state already is not taken in again, however often its sum is opened.
        if self.aggregator.rounds == round_id.number:
            failed = self._count_opening(round_id)
            self._take_in(round_id, self.sealing.unseal(round_id, body, self.aggregator.size))
            self.store.put(_FAILED, failed)
        state = self.aggregator.to_bytes()
        self.store.put(_STATE, state)
        answer: Body = {"state": states.seal(state, self.aggregator.rounds), "size": self.aggregator.size}
        return answer, self.aggregator.size

    def _take_in(self, round_id: RoundId, total: NDArray[np.int64]) -> None:
        """Step the optimiser by an opened sum; a step that nobody could go on from is not taken."""
        before = self.aggregator.to_bytes()
        try:
            self.aggregator.apply(round_id, total)
            if not np.isfinite(self.aggregator.flat).all():
                raise SealingRefused(NOT_FINITE, "the sum leads to an adapter that the others would refuse")
        except Exception:
            self.aggregator.restore(before)
            raise

    def _count_opening(self, round_id: RoundId) -> bytes:
        """Take this opening for failed until it has not; returns what to keep then. An attempt counts once.

        Raises:
            SealingRefused: if too many have failed.
        """
        kept, mark = self.store.get(_FAILED) or b"", _numbers(round_id)
        marks = [kept[at : at + len(mark)] for at in range(0, len(kept), len(mark))]
        failed = [one for one in marks if one != mark]
        if len(failed) >= MOST_FAILED_OPENINGS:
            raise SealingRefused("failed-openings", f"{len(failed)} sums of this run did not open here")
        self.store.put(_FAILED, b"".join([*failed, mark]))
        return b"".join(failed)

    def _finish(self, body: Body) -> Body:
        rounds = int(body["rounds"])
        self._take_state(rounds, body)
        states = self.sealing.states
        if states is None:
            raise SealingRefused("sealed-state", "this level has no sealed state")
        return {TAG: states.fingerprint(self.aggregator.to_bytes(), digest(body))}


def _numbers(round_id: RoundId) -> bytes:
    """Round and attempt in 16 bytes."""
    return b"".join(number.to_bytes(8, "big") for number in (round_id.number, round_id.attempt))
