"""All parties in one process: the embedded engine, and the researcher's simulator.

Every message is encoded, checked against its schema and decoded as on a wire, so bytes are counted as they would
travel, and what a schema does not name cannot slip through here either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from privet import wire
from privet.config import Dropout
from privet.protocol import Ask, Replies, Steps
from privet.sealing.base import SealingRefused
from privet.wire import Body, Message

T = TypeVar("T")


class Handler(Protocol):
    """A client, as an engine sees it."""

    def handle(self, op: str, body: Body) -> Body:
        """Answer one question."""


Tap = Callable[[str, int, bytes, bytes], None]
"""Sees each exchange: operation, party, question, answer. Attacks and transcripts use it."""


@dataclass
class LocalEngine:
    """Drives a server's generator against handlers in this process.

    Attributes:
        clients: Handlers by party number.
        messages: Schemas by operation.
        dropouts: Planned silences.
        tap: Called with the bytes of each exchange.
        on_answer: See `privet.engines.base.Engine`.
        bytes_up: Bytes from clients to the server so far.
        bytes_down: Bytes from the server to clients so far.
    """

    clients: Mapping[int, Handler]
    messages: Mapping[str, Message]
    dropouts: Sequence[Dropout] = ()
    tap: Tap | None = None
    on_answer: Callable[[str, int, int], None] | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    _silent: set[int] = field(default_factory=set)
    _round: int = 0

    def run(self, steps: Steps[T]) -> T:
        """The generator's result; its exceptions come through."""
        try:
            ask = next(steps)
            while True:
                ask = steps.send(self._answer(ask))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _answer(self, ask: Ask) -> Replies:
        ok: dict[int, Body] = {}
        failed: dict[int, str] = {}
        addressees = tuple(sorted(self.clients)) if ask.to is None else ask.to
        number = ask.body.get("number")
        if isinstance(number, int):
            self._round = number
        message = ask.message or self.messages[ask.op]
        encoded: dict[int, bytes] = {}
        for position, party in enumerate(addressees):
            if self._is_silent(ask.op, party):
                failed[party] = "no answer"
            else:
                body = ask.body_for(party)
                if id(body) not in encoded:  # the same question to many is encoded once
                    encoded[id(body)] = wire.encode(body, message.request)
                self._exchange(ask.op, message, encoded[id(body)], party, ok, failed)
            if self.on_answer:
                self.on_answer(ask.op, position + 1, len(addressees))
        return Replies(ok, failed)

    def _exchange(
        self,
        op: str,
        message: Message,
        question: bytes,
        party: int,
        ok: dict[int, Body],
        failed: dict[int, str],
    ) -> None:
        self.bytes_down += len(question)
        try:
            answer = self.clients[party].handle(op, wire.decode(question, message.request))
            raw = wire.encode(answer, message.reply)
            self.bytes_up += len(raw)
            if self.tap:
                self.tap(op, party, question, raw)
            ok[party] = wire.decode(raw, message.reply)
        except SealingRefused as refusal:
            failed[party] = f"refused: {refusal.reason}"
        except wire.WireError as error:
            failed[party] = f"malformed: {error.reason}"

    def _is_silent(self, op: str, party: int) -> bool:
        for planned in self.dropouts:
            if planned.party == party and planned.round <= self._round:
                begins = op.startswith("recover") if planned.before == "recover" else op == "round"
                # A run that was resumed in a later round was not there when the silence began.
                if begins or planned.round < self._round:
                    self._silent.add(party)
        return party in self._silent


def describe(engine: LocalEngine) -> dict[str, Any]:
    """Bytes so far."""
    return {"bytes_up": engine.bytes_up, "bytes_down": engine.bytes_down}
