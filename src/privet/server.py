"""The server's half of the protocol, as a generator: what it asks, in what order, and when it gives up.

Four steps a round: admit the release to the ledger, ask for contributions, open their sum, step the adapter. The
ledger is on disk before anything can be opened, and the checkpoint after each round holds all that a resumed server
needs. Nothing here knows how messages travel, and nothing here sees a contribution unless the sealing level is `none`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from privet.aggregate import CODEC_DIGEST, UNKNOWN_CODEC, Aggregator
from privet.codecs.message import HEADER
from privet.errors import PrivetError
from privet.honest_norm import longest
from privet.messages import ENROL, FINISH, OPEN, ROUND, TAG, digest
from privet.privacy.events import AnyRelease
from privet.privacy.ledger import Ledger
from privet.protocol import Ask, Replies, RoundAborted, RoundId, Steps
from privet.sealing.base import Opened, SealingServer, reasons
from privet.sealing.none import PlainServer
from privet.systems.base import System
from privet.wire import Body, Message, Schema

OTHER_STATE = "holds another state than most"
"""Why a client's contribution is left out whose hash of the state is not that of the others."""


@dataclass
class Progress:
    """Where a run stands; together with the aggregator and the ledger this is the server's checkpoint.

    Attributes:
        number: Round that is due.
        attempt: Attempt at it.
        charged: Last round and attempt whose release the ledger holds.
        stopped: Why the run ended early, if it did.
    """

    number: int = 0
    attempt: int = 0
    charged: RoundId | None = None
    stopped: str | None = None

    @property
    def round(self) -> RoundId:
        """The round and attempt that is due."""
        return RoundId(self.number, self.attempt)


@dataclass
class Handed:
    """The sum of the last round, until enough clients have taken the state that its opener sealed.

    Attributes:
        ciphertext: The sum.
        message: Schemas of question and answer.
        openers: Survivors that were not asked to open it yet, in the order in which they will be.
        opener: The one that opened it last.
        failed: Why others did not.
    """

    ciphertext: Body
    message: Message
    openers: list[int]
    opener: int | None = None
    failed: dict[int, str] = field(default_factory=dict)


@dataclass
class Server:
    """Runs a system over its parties.

    Attributes:
        system: The composition at the start; its releases are what rounds are charged.
        rounds: Rounds in all, those of a preparation first.
        attempts: Tries of one round.
        run: Name of the run, which enters signatures.
        sealing: Server half of the level.
        survivors_demanded: Fewest contributions that may be opened.
        ledger: Releases so far.
        dimension: Trained values D.
        aggregator: The role behind the sum; ``None`` where a client has it, because the sum is encrypted.
        messages: Schemas by operation.
        answer: Schema of an answer to ``round`` with a number of values.
        summed: Schema of a sum of a number of values, for the designated client.
        size: Values in a contribution to the round that is due.
        sealed_state: The state as the designated client sealed it; the server passes it on and cannot read it.
        doubted: Clients whose state most others refused, the last one last. They are asked to open a sum only after
            everybody else. It may well be the others that lie, so nothing but the order hangs on it.
        save: Writes a checkpoint; when it returns, the state survives a power failure.
        observe: Told of what happens, for people to look at.
        progress: Where the run stands.
    """

    system: System
    rounds: int
    attempts: int
    run: str
    sealing: SealingServer
    survivors_demanded: int
    ledger: Ledger
    dimension: int
    aggregator: Aggregator | None
    messages: Mapping[str, Message]
    answer: Callable[[int], Schema]
    summed: Callable[[int], Schema | None]
    save: Callable[[Server], None]
    observe: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None
    progress: Progress = field(default_factory=Progress)
    sealed_state: bytes = b""
    doubted: list[int] = field(default_factory=list)
    size: int = 0
    _failures: int = 0
    _holds: dict[int, bytes] = field(default_factory=dict)
    _absent: set[int] = field(default_factory=set)
    _handed: Handed | None = None

    def steps(self) -> Steps[Progress]:
        """The whole run, from enrolment to the last round; resumes where ``progress`` stands."""
        yield from self._enrol()
        while self.progress.number < self.rounds and self.progress.stopped is None:
            if not self._admit():
                break
            started = time.monotonic()
            try:
                opened = yield from self._open_round()
                norm = yield from self._step(opened)
            except RoundAborted as reason:
                self._abort(str(reason))
                continue
            # Told before it is saved: a row beyond the checkpoint is dropped on resume, a lost one could not be made.
            self.observe("round", self._facts(opened, norm, time.monotonic() - started))
            self.save(self)
        if self.sealed_state:
            yield from self._finish()
        return self.progress

    def _enrol(self) -> Steps[None]:
        replies = yield Ask(ENROL, {"run": self.run, "dimension": self.dimension})
        if len(replies.ok) < self.survivors_demanded:
            raise PrivetError(
                "too few clients enrolled",
                field="clients",
                given=f"{len(replies.ok)} ({_reasons(replies.failed)})",
                allowed=f"at least {self.survivors_demanded}",
                hint="start the missing clients and resume the run",
            )

    @property
    def _release(self) -> AnyRelease:
        """What the round that is due releases."""
        return self.system.at(self.progress.number).release

    @property
    def _planned(self) -> list[AnyRelease]:
        """What the whole run releases if no round is tried twice."""
        prepared = self.system.preparation.rounds if self.system.preparation else 0
        return self.system.releases(self.rounds - prepared)

    def _admit(self) -> bool:
        """Whether the budget allows the round that is due; a round that is already charged needs no second charge."""
        if self.progress.charged == self.progress.round:
            return True
        if self.ledger.would_exceed(self._release, self._planned):
            self.progress.stopped = "the next release would exceed the privacy budget"
            self.observe("stopped", {"reason": self.progress.stopped})
            self.save(self)
            return False
        return True

    def _charge(self) -> None:
        """Write the release down before it happens; what is charged stays charged even if nothing gets opened."""
        if self.progress.charged != self.progress.round:
            self.ledger.charge(self._release)
            self.progress.charged = self.progress.round
            self.save(self)

    def _open_round(self) -> Steps[Opened]:
        due = self.progress.round
        parties = yield from self.sealing.prepare(due)
        if len(parties) < self.survivors_demanded:
            raise RoundAborted(f"{len(parties)} of {self.survivors_demanded} demanded clients are ready")
        if self.sealing.reveals_contributions or self.ledger.trust.counts_single_contributions:
            # Contributions are releases as they come, whatever becomes of the round.
            self._charge()
        question: Body = {"number": due.number, "attempt": due.attempt, **self._broadcast(parties)}
        message = Message(self.messages[ROUND].request, self.answer(self.size))
        replies = yield Ask(ROUND, question, to=parties, message=message)
        self._note_holders(question, replies)
        if len(replies.ok) < self.survivors_demanded:
            again = yield from self._open_anew(replies)
            raise RoundAborted(
                f"{len(replies.ok)} of {self.survivors_demanded} demanded contributions came "
                f"({_reasons(replies.failed)})"
                + ("; another client has opened the last sum" if again else "")
            )
        self._handed = None
        bodies = {party: dict(body) for party, body in replies.ok.items()}
        tags = {party: body.pop(TAG) for party, body in bodies.items() if TAG in body}
        odd = _odd_ones_out(tags, least=self.survivors_demanded)
        bodies = {party: body for party, body in bodies.items() if party not in odd}
        if isinstance(self.sealing, PlainServer) and self.aggregator is not None:
            self.sealing.longest = longest(self.aggregator.system.at(due.number))
        self._charge()
        try:
            opened = yield from self.sealing.open(due, self.size, bodies, digest(question))
        except RoundAborted as reason:
            # whoever did not answer, or is left out, may be whom the others wait for
            raise RoundAborted(f"{reason}{reasons({**replies.failed, **odd})}") from None
        if len(opened.survivors) < self.survivors_demanded:
            raise RoundAborted("fewer contributions than demanded could be opened")
        return replace(opened, refused={**replies.failed, **odd, **opened.refused})

    def _broadcast(self, parties: Sequence[int]) -> Body:
        if self.aggregator is not None:
            digest = self.aggregator.codec_digest
            known = all(party in self._absent or self._holds.get(party) == digest for party in parties)
            return self.aggregator.broadcast(with_codec=not known)
        # Whoever said how long a contribution is may have lied; who answers can see it, and is charged nothing then.
        return {"size": self.size, **({"state": self.sealed_state} if self.sealed_state else {})}

    def _note_holders(self, question: Body, replies: Replies) -> None:
        """Who has the codec now.

        Whoever did not answer may have been restarted, so the codec goes out once more; whoever did not answer that
        either is waited for no longer, and will say that the codec is unknown when it is back.
        """
        if self.aggregator is None:
            return
        self._holds |= dict.fromkeys(replies.ok, self.aggregator.codec_digest)
        self._absent -= set(replies.ok)
        for party, reason in replies.failed.items():
            self._holds.pop(party, None)
            if UNKNOWN_CODEC in reason:
                self._absent.discard(party)
            elif CODEC_DIGEST not in question or HEADER in question:
                self._absent.add(party)

    def _step(self, opened: Opened) -> Steps[float | None]:
        """Let the aggregator take the sum in, wherever it is; returns the norm of the direction if known here."""
        norm = None
        if self.aggregator is not None and opened.total is not None:
            norm = self.aggregator.apply(self.progress.round, opened.total, opened.apart)
            self.size = self.aggregator.size
        else:
            yield from self._designate(opened)
        self.progress.number, self.progress.attempt = self.progress.number + 1, 0
        self._failures = 0
        return norm

    def _designate(self, opened: Opened) -> Steps[None]:
        """Have a survivor open the sum and seal the new state: the lowest number that answers, the doubted last."""
        summed = self.summed(self.size)
        assert opened.ciphertext is not None, "a sum is opened here or handed on"
        assert summed is not None, "a level that hands sums on has their schema"
        message = Message(summed, self.messages[OPEN].reply)
        order = {party: place for place, party in enumerate(self.doubted, start=1)}
        openers = sorted(opened.survivors, key=lambda party: (order.get(party, 0), party))
        self._handed = Handed(opened.ciphertext, message, openers)
        if not (yield from self._have_opened()):
            raise RoundAborted(f"no survivor opened the sum{reasons(self._handed.failed)}")

    def _have_opened(self) -> Steps[bool]:
        """Have the next survivor open the last sum, if there is one; it is the same sum whoever opens it."""
        while self._handed and self._handed.openers:
            party = self._handed.openers.pop(0)
            replies = yield Ask(OPEN, self._handed.ciphertext, to=(party,), message=self._handed.message)
            self._handed.failed |= replies.failed
            if party in replies.ok:
                answer: dict[str, Any] = dict(replies.ok[party])
                self.sealed_state, self.size = answer["state"], answer["size"]
                self._handed.opener = party
                return True
        return False

    def _open_anew(self, replies: Replies) -> Steps[bool]:
        """Have another survivor open the last sum if most refused what the last one made of it; whether one did.

        An opener may lie about the state, which only the other clients see. The sum is not on the disk, so a server
        that starts again in between cannot ask another.
        """
        if self._handed is None or self._handed.opener is None or not _mostly_refused(replies):
            return False
        self.doubted = [
            *(party for party in self.doubted if party != self._handed.opener),
            self._handed.opener,
        ]
        return (yield from self._have_opened())

    def _finish(self) -> Steps[None]:
        """Hand the last state to everybody, so that all end with the same adapter."""
        again = True
        while again:
            replies = yield Ask(FINISH, {"rounds": self.progress.number, "state": self.sealed_state})
            again = yield from self._open_anew(replies)
            if again:
                self.save(self)
        odd = _odd_ones_out({party: body[TAG] for party, body in replies.ok.items()})
        self.observe("finished", {"holders": sorted(set(replies.ok) - set(odd))})

    def _abort(self, reason: str) -> None:
        self.observe(
            "aborted", {"round": self.progress.number, "attempt": self.progress.attempt, "reason": reason}
        )
        self.progress.attempt += 1
        self._failures += 1
        if self._failures >= self.attempts:
            self.progress.stopped = f"round {self.progress.number} failed {self.attempts} times: {reason}"
            self.observe("stopped", {"reason": self.progress.stopped})
        self.save(self)

    def _facts(self, opened: Opened, norm: float | None, seconds: float) -> dict[str, Any]:
        number, prepared = self.progress.number - 1, self.system.prepared_by
        return {
            "round": number,
            **({"stage": 1 if number < prepared else 2} if prepared else {}),
            "attempt": self.progress.charged.attempt if self.progress.charged else 0,
            "survivors": list(opened.survivors),
            "missing": {str(party): reason for party, reason in opened.refused.items()},
            "direction_norm": norm,
            "seconds": seconds,
        }


def _reasons(failed: Any) -> str:
    return ", ".join(f"{party}: {reason}" for party, reason in sorted(failed.items())) or "no reason given"


def _mostly_refused(replies: Replies) -> bool:
    """Whether more than half of those asked answered that they do not or could not, or with something of another form.

    The silent are not counted: nothing says that it is for what they were asked.
    """
    refused = sum(reason.startswith(("refused", "malformed", "failed")) for reason in replies.failed.values())
    return 2 * refused > len(replies.ok) + len(replies.failed)


def _odd_ones_out(tags: Mapping[int, Any], least: int = 1) -> dict[int, str]:
    """Clients that do not hold the state that more than half of them hold, and what that is called.

    Args:
        tags: Clients' keyed hashes of their states; the server cannot compute them, only compare.
        least: Fewest clients that have to hold the same.

    Raises:
        PrivetError: if so many do not, or no state is that of more than half.
    """
    if not tags:
        return {}
    common, count = Counter(tags.values()).most_common(1)[0]
    odd = {party: OTHER_STATE for party, tag in tags.items() if tag != common}
    if not odd or (2 * count > len(tags) and count >= least):
        return odd
    said = ", ".join(f"{party}: {bytes(tag[:4]).hex()}" for party, tag in sorted(tags.items()))
    differing = f"client {', '.join(map(str, odd))}" if 2 * count > len(tags) else "a client"
    raise PrivetError(
        "clients hold different adapters",
        field="clients",
        given=f"{len(set(tags.values()))} states among {len(tags)} clients ({said})",
        hint=f"{differing} says so falsely, or its folder was restored from elsewhere: remove that client, or start "
        "the run anew",
    )
