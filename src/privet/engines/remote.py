"""The server's side of several machines: its generator's asks as signed envelopes over any transport of bytes.

Every question is signed by the server's key and every answer by the site's, under the roster's hash, for one run, one
round and attempt, and one operation; an answer that is not exactly the one that is waited for drops its site out of the
phase, with a fixed reason. What carries the bytes is a `Transport` and learns nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from privet import wire
from privet.engines.joining import JOIN, joining
from privet.protocol import Ask, Replies, RoundId, Steps
from privet.sealing.envelope import SERVER, Address, open_envelope, seal_envelope
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.wire import Body, Message

T = TypeVar("T")
NO_ANSWER, CRASHED, ABSENT = "no answer", "crashed", "not here"
FORGOTTEN = frozenset({CRASHED, NO_ANSWER, "refused: not-joined"})
"""Reasons after which a site's process may have begun anew, so that it has to be invited again."""
MOST_SILENCES = 6

_REASON = re.compile(r"[A-Za-z0-9_. :-]{1,120}")


@dataclass(frozen=True)
class Delivery:
    """What came back from the sites: raw answers by party, and a fixed reason for each that gave none."""

    answers: Mapping[int, bytes]
    failures: Mapping[int, str]


class Transport(Protocol):
    """Carries bytes to sites and back."""

    def present(self) -> frozenset[int]:
        """Parties that can be reached now."""

    def exchange(
        self, op: str, questions: Mapping[int, bytes], timeout: float, answered: Callable[[], None]
    ) -> Delivery:
        """Put one question to each party at the same time and wait for all answers, at most ``timeout`` seconds."""

    def wants_continuation(self) -> bool:
        """Whether a site that is not reached could be, if the run went on in a new job."""


class Interrupted(Exception):
    """The job was ended from outside; what matters of the run is on the disks."""


class SegmentEnded(Exception):
    """The run is at a checkpoint between two rounds and goes on in another job."""


@dataclass
class RemoteEngine:
    """Drives a server's generator against sites on other machines.

    Attributes:
        transport: Carries the bytes.
        identity: The server's signing key.
        roster: Who takes part.
        name: Name of the run.
        invitation: What a site needs to know of the run to join it.
        messages: Schemas by operation.
        due: The round that is due, for the address of what is sent.
        timeout: Seconds after which a site that has not answered counts as dropped out.
        join_timeout: Seconds that a site may take to load its model and data.
        on_answer: See `privet.engines.base.Engine`.
        on_failure: Told of each party that did not answer an operation, why, and whether the network says so: such a
            reason is under nobody's signature.
        bytes_up: Bytes from sites to the server so far.
        bytes_down: Bytes from the server to sites so far.
    """

    transport: Transport
    identity: Identity
    roster: Roster
    name: str
    invitation: Body
    messages: Mapping[str, Message]
    due: Callable[[], RoundId]
    timeout: float
    join_timeout: float
    on_answer: Callable[[str, int, int], None] | None = None
    on_failure: Callable[[str, int, str, bool], None] = lambda op, party, reason, unsigned: None
    bytes_up: int = 0
    bytes_down: int = 0
    _outside: dict[int, str] = field(default_factory=dict)
    _joined: set[int] = field(default_factory=set)
    _silences: dict[int, int] = field(default_factory=dict)
    _rest: dict[int, int] = field(default_factory=dict)
    _round: RoundId | None = None

    def run(self, steps: Steps[T]) -> T:
        """The generator's result.

        Raises:
            SegmentEnded: between two rounds, if another job would reach more sites.
        """
        try:
            ask = next(steps)
            while True:
                self._at_new_round()
                ask = steps.send(self._answer(ask))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _at_new_round(self) -> None:
        """Between two rounds: let those join who could not before, or end the segment if more could in another."""
        if self._round == self.due():
            return
        first, self._round = self._round is None, self.due()
        if not first and self.transport.wants_continuation():
            raise SegmentEnded
        absent = self.transport.present() - self._joined
        silent = {party for party in absent if self._outside.get(party) == NO_ANSWER}
        self._invite(absent - silent, self.join_timeout)
        # A site that did not answer may be gone or slow: it is asked again after 1, 3, 7, ... rounds, not in each.
        due = {party for party in silent if self._rest[party] == 0}
        self._rest |= {party: self._rest[party] - 1 for party in silent - due}
        self._invite(due, self.timeout)

    def _invite(self, parties: Iterable[int], timeout: float) -> None:
        questions = dict.fromkeys(sorted(parties), self.invitation)
        ok, failed = self._exchange(JOIN, questions, joining(), timeout)
        self._joined |= set(ok)
        self._leave(failed)

    def _leave(self, failed: Mapping[int, str]) -> None:
        """Sites that have to be invited again before they are asked anything else."""
        for party, reason in failed.items():
            self._joined.discard(party)
            self._outside[party] = reason
            if reason == NO_ANSWER:
                self._silences[party] = min(self._silences.get(party, 0) + 1, MOST_SILENCES)
                self._rest[party] = 2 ** self._silences[party] - 1

    def _answer(self, ask: Ask) -> Replies:
        addressees = range(self.roster.size) if ask.to is None else ask.to
        away = {p: self._outside.get(p, ABSENT) for p in addressees if p not in self._joined}
        questions = {p: ask.body_for(p) for p in addressees if p in self._joined}
        message = ask.message or self.messages[ask.op]
        ok, failed = self._exchange(ask.op, questions, message, self.timeout)
        self._leave({party: reason for party, reason in failed.items() if reason in FORGOTTEN})
        for party in ok:
            self._silences.pop(party, None)
        return Replies(ok, {**away, **failed})

    def _exchange(
        self, op: str, questions: Mapping[int, Body], message: Message, timeout: float
    ) -> tuple[dict[int, Body], dict[int, str]]:
        if not questions:
            return {}, {}
        due, done = self.due(), 0
        raw: dict[int, bytes] = {}
        encoded: dict[int, bytes] = {}
        for party, body in questions.items():
            # The same body to many is encoded once.
            payload = encoded.setdefault(id(body), b"") or wire.encode(body, message.request)
            encoded[id(body)] = payload
            address = Address(SERVER, party, self.name, due, op)
            raw[party] = seal_envelope(self.identity, self.roster.hash, address, payload)
        self.bytes_down += sum(map(len, raw.values()))

        def answered() -> None:
            nonlocal done
            done += 1
            if self.on_answer:
                self.on_answer(op, done, len(questions))

        delivery = self.transport.exchange(op, raw, timeout, answered)
        ok: dict[int, Body] = {}
        failed = {party: reason_of(text) for party, text in delivery.failures.items()}
        for party, answer in sorted(delivery.answers.items()):
            self.bytes_up += len(answer)
            try:
                ok[party] = self._open(party, due, op, answer, message)
            except wire.WireError as error:
                failed[party] = f"malformed: {error.reason}"
        for party in questions:
            if party not in ok:
                failed.setdefault(party, NO_ANSWER)
        for party, reason in sorted(failed.items()):
            self.on_failure(op, party, reason, party in delivery.failures)
        return ok, dict(sorted(failed.items()))

    def _open(self, party: int, due: RoundId, op: str, answer: bytes, message: Message) -> Body:
        payload = open_envelope(
            answer,
            expected=Address(party, SERVER, self.name, due, op),
            keys={party: self.roster.public_key(party)},
            roster_hash=self.roster.hash,
            max_payload=message.reply.max_bytes(),
        )
        return wire.decode(payload, message.reply)


def reason_of(text: str) -> str:
    """A reason that came from a site, if it is one of the short fixed kind; nothing else is kept or shown."""
    return text if _REASON.fullmatch(text) else "failed"
