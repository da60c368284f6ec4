"""The vocabulary of the sans-IO protocol: what a server asks, what clients reply, and nothing about how it travels.

A server is a generator, ``replies = yield Ask(...)``; a client is an object with ``handle(op, body) -> body``.
Any engine that can carry bytes can drive the two (Brett Cannon et al., https://sans-io.readthedocs.io).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from privet.wire import Body, Message


@dataclass(frozen=True)
class Ask:
    """One phase: the same question to every addressee, or one body each.

    Attributes:
        op: Name of the phase, e.g. ``round`` or ``recover.unmask``.
        body: The body that everybody gets who has none in ``per_node``.
        per_node: Bodies for single parties, by their number in the roster.
        to: Addressees; ``None`` is every enrolled party.
        timeout: Seconds after which a party counts as dropped out.
        message: Schemas of question and answer, where they differ from round to round; the engine has the others.
    """

    op: str
    body: Body = field(default_factory=dict)
    per_node: Mapping[int, Body] = field(default_factory=dict)
    to: tuple[int, ...] | None = None
    timeout: float = 600.0
    message: Message | None = None

    def body_for(self, party: int) -> Body:
        """The body that goes to ``party``."""
        return self.per_node.get(party, self.body)


@dataclass(frozen=True)
class Replies:
    """What came back: bodies of those who answered, and one reason (never an exception's text) for each who did not."""

    ok: Mapping[int, Body]
    failed: Mapping[int, str]


T = TypeVar("T")
Steps: TypeAlias = Generator[Ask, Replies, T]
"""A part of the server's algorithm that asks and finally returns a ``T``; parts compose with ``yield from``."""


@dataclass(frozen=True, order=True)
class RoundId:
    """A round and the attempt at it. Another attempt draws fresh noise and is charged as another release."""

    number: int
    attempt: int = 0

    def label(self) -> bytes:
        """Bytes that name this round in key derivations and signatures."""
        return f"round/{self.number}/{self.attempt}".encode()


class RoundAborted(Exception):
    """The round ends with nothing opened; the message is safe to log."""


def as_array(body: Mapping[str, Any], name: str) -> NDArray[Any]:
    """The array ``name`` of a body.

    Raises:
        RoundAborted: if it is missing or no array.
    """
    value = body.get(name)
    if not isinstance(value, np.ndarray):
        raise RoundAborted(f"message has no array '{name}'")
    return value
