"""What every sealing level is: a client half that seals a contribution, a server half that opens the sum.

A level is one module with a client class and a server class that satisfy the two protocols below. The
client's ``handle`` answers the operations ``keys.*`` and ``recover.*``; the server's parts are `Steps`
generators that ask them. Nothing here knows how messages travel. Values are signed 64-bit integers on the
public grid, already clipped, noised and range-checked: sealing only adds modulo its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.protocol import RoundId, Steps
from privet.wire import Body, Message, Schema, WireError

if TYPE_CHECKING:
    from privet.sealing.state_seal import StateSeal

FEWEST_PARTIES = 3
"""With two parties each learns the other's contribution from the sum: no level hides anything."""


class SealingRefused(Exception):
    """A client does not do what it was asked, because that could open a contribution.

    Args:
        reason: Short fixed slug, e.g. ``two-survivor-sets``; safe to log and to send.
        detail: A sentence without secrets.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Store(Protocol):
    """Where one half keeps what it must not lose or leak; each ``put`` is atomic, fsynced, mode 0600."""

    def put(self, name: str, data: bytes) -> None:
        """Replace the entry ``name``; when this returns it survives a power failure."""

    def get(self, name: str) -> bytes | None:
        """The entry ``name``, or ``None``."""


@dataclass(frozen=True)
class Opened:
    """What the server half got out of a round.

    Attributes:
        survivors: Parties whose contributions are in the sum, ascending.
        total: Sum of the survivors' values, int64 ``[count]``; ``None`` where the server cannot open it.
        ciphertext: Under an encrypted level, the sum for the designated client's ``unseal``; else ``None``.
        refused: Parties whose reply was refused, and why.
        apart: The survivors' values one after another, int64 ``[count]`` each; under level ``none`` only.
    """

    survivors: tuple[int, ...]
    total: NDArray[np.int64] | None
    ciphertext: Body | None = None
    refused: Mapping[int, str] = field(default_factory=dict)
    apart: Callable[[], Iterator[NDArray[np.int64]]] | None = None


class SealingClient(Protocol):
    """One party's half. Each method persists what it decided through its `Store` before it returns.

    Attributes:
        states: Seals the state that clients hand on; ``None`` where the server opens sums and knows it.
    """

    @property
    def states(self) -> StateSeal | None:
        """Read only."""

    def handle(self, op: str, body: Body) -> Body:
        """Answer an operation of this level.

        Raises:
            SealingRefused: with the reason; nothing was revealed.
        """

    def seal(self, round: RoundId, values: NDArray[np.int64], question: bytes = b"") -> Body:
        """Seal this party's values, int64 ``[count]``, for one attempt at one round.

        The same values give the same words again; other values for the same attempt are refused. Where masks are used,
        only answers to the same ``question`` (a digest of it) add up to something.
        """

    def unseal(self, round: RoundId, ciphertext: Body, count: int) -> NDArray[np.int64]:
        """Open a summed ciphertext at the designated client, int64 ``[count]``; other levels refuse."""


class SealingServer(Protocol):
    """The server's half.

    Attributes:
        reveals_contributions: Whether the server sees single contributions when they arrive, before `open`.
    """

    reveals_contributions: bool

    def messages(self) -> Mapping[str, Message]:
        """Schemas of every operation that this level's ``prepare`` and ``open`` ask."""

    def sealed(self, count: int) -> Schema:
        """Schema of a body that `SealingClient.seal` returns for ``count`` values."""

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Run key phases where they are due and return the parties able to take part in this attempt.

        Raises:
            RoundAborted: if too few are.
        """

    def open(
        self, round: RoundId, count: int, replies: Mapping[int, Body], question: bytes = b""
    ) -> Steps[Opened]:
        """Open the sum of the sealed replies, each of ``count`` values; a malformed reply drops out alone.

        ``question`` is the digest of what all of them answer.

        Raises:
            RoundAborted: with nothing revealed, if too few contributions or too few answers came.
        """


@dataclass(frozen=True)
class SealingPlan:
    """What a level promises and costs for one round of one client, for ``privet plan``.

    Attributes:
        level: Its name in the config.
        who_can_open: Who could open one client's contribution, acting together.
        who_sees_sum: Who sees the sum.
        upload_bytes: Bytes that one client sends a round, amortised key phases included.
        download_bytes: Bytes that one client gets a round besides the model, amortised key phases included.
        seconds: Estimated CPU seconds that sealing and opening take a round, all parties and server together.
        phases: Operations of one round in order, and how often each comes.
        warnings: Sentences that the reader has to see.
    """

    level: str
    who_can_open: str
    who_sees_sum: str
    upload_bytes: int
    download_bytes: int
    seconds: float
    phases: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def recovery_threshold(parties: int) -> int:
    """Shares that open a seed: more than two thirds of the roster.

    Two survivor sets of one round would each need this many signatures; any two such groups share more than a
    third of the parties, so a server needs that many accomplices (Bonawitz et al. 2017, section 6.2).
    """
    return 2 * parties // 3 + 1


def openers(level: str, parties: int, floor: int) -> int:
    """Participants who, pooling with the server, can open one contribution, also if it cheats in the protocol.

    Under ``encrypted`` every one holds the key. Under masks it takes the shares of a seed; or, where a sum may be
    opened without one of the survivors, parties enough that two sets are signed. Where a sum of noise shares is
    all that protects, a coalition of this size is left with one share (docs/trust.md).

    Args:
        level: Name of the sealing level.
        parties: Size of the roster.
        floor: Survivors that the run declares to demand.
    """
    if level == "none":
        return 0
    if "masked" not in level:
        return 1
    t = recovery_threshold(parties)
    return t if max(floor, t) == parties else 2 * t - parties


def check_cohort(level: str, parties: int, floor: int) -> int:
    """The least number of survivors of a round: ``floor``, 3 or, where masked, the recovery threshold.

    Args:
        level: Name of the sealing level.
        parties: Size of the roster.
        floor: Survivors that the run declares to demand.

    Raises:
        PrivetError: if the cohort is too small for any contribution to stay hidden.
    """
    if level != "none" and parties < FEWEST_PARTIES:
        raise PrivetError(
            f"sealing '{level}' hides nothing among fewer than {FEWEST_PARTIES} parties",
            field="sealing.kind",
            given=f"{parties} parties",
            allowed=f"{FEWEST_PARTIES} or more parties, or kind: none",
            hint="with two parties each learns the other's contribution by subtracting its own from the sum",
        )
    if not 1 <= floor <= parties:
        raise PrivetError(
            "the floor of survivors must lie between 1 and the number of parties",
            field="sealing.floor",
            given=floor,
            allowed=f"1 to {parties}",
        )
    if level == "none":
        return floor
    least = max(floor, FEWEST_PARTIES)
    return max(least, recovery_threshold(parties)) if "masked" in level else least


def reasons(failed: Mapping[int, str]) -> str:
    """Who failed and why, to follow the text of a `RoundAborted`; empty where nobody did."""
    return "".join(f"; party {party}: {reason}" for party, reason in sorted(failed.items()))


def named(what: str, parties: Iterable[int]) -> str:
    """Whom something is said of, to follow the text of a `RoundAborted`; empty where it is nobody."""
    numbers = ", ".join(f"party {party}" for party in sorted(parties))
    return f"; {what} {numbers}" if numbers else ""


def missing_survivors(settled: Iterable[int], came: Iterable[int]) -> str:
    """The text of a `RoundAborted` where the survivors are settled and not all of them came again."""
    missing = set(settled) - set(came)
    return f"a survivor that was settled before is missing now{named('it is', missing)}"


def checked(schema: Schema, body: Body) -> Body:
    """The body itself if the schema allows it.

    Raises:
        SealingRefused: with the wire's reason.
    """
    try:
        schema.check(body)
    except WireError as error:
        raise SealingRefused("malformed", str(error)) from None
    return body
