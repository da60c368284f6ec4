"""A cohort that seals by masks, in one process, through wire bytes, with dropouts, restarts and a recorded server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from privet.keys import derive
from privet.packing import unpack
from privet.protocol import Ask, Replies, RoundId, Steps
from privet.sealing.base import Opened, SealingRefused, Store, check_cohort
from privet.sealing.identity import Identity
from privet.sealing.masked import MaskedClient, MaskedServer
from privet.sealing.masking import MaskingClient
from privet.sealing.masks import Group
from privet.sealing.roster import Roster
from privet.sealing.unmasking import MaskingServer
from privet.store import MemoryStore
from privet.wire import Body, Message, decode, encode

T = TypeVar("T")
Silence = Callable[[str, int], bool]
"""Whether a party does not answer an operation."""

Tamper = Callable[[str, int, Body], Body]
"""What a cheating server makes of a question."""


def nobody(op: str, party: int) -> bool:
    return False


def honest(op: str, party: int, body: Body) -> Body:
    return body


@dataclass
class Cohort:
    """Clients and a server that mask modulo ``2**bits``.

    Attributes:
        parties: How many.
        bits: Width of a value.
        floor: Survivors demanded.
        epoch_rounds: Rounds that one key exchange serves.
        fresh_noise: Whether each attempt's values hold noise of their own.
        received: Every byte string that the server got, with its operation and sender.
        asked: Every operation that a client was asked, with its number.
        refusals: Reasons that clients gave, by operation and party.
    """

    parties: int
    bits: int = 20
    floor: int = 1
    epoch_rounds: int = 4
    fresh_noise: bool = False
    received: list[tuple[str, int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)
    refusals: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = Group.of_bits(self.bits)
        self.least = check_cohort("masked", self.parties, self.floor)
        self.identities = [Identity.from_root(bytes([p + 1]) * 32) for p in range(self.parties)]
        self.roster = Roster.in_memory([f"site {p}" for p in range(self.parties)], self.identities)
        self.stores: list[Store] = [MemoryStore() for _ in range(self.parties)]
        self.server_store: Store = MemoryStore()
        self.clients = [self.make_client(p) for p in range(self.parties)]
        self.server = self.make_server()

    def make_client(self, party: int) -> MaskedClient:
        """The client as its process makes it at its start, from its store."""
        masking = MaskingClient(
            run="a run",
            roster=self.roster,
            identity=self.identities[party],
            root=derive(b"root of a test cohort", party),
            group=self.group,
            least=self.least,
            store=self.stores[party],
            fresh_noise=self.fresh_noise,
        )
        return MaskedClient(masking)

    def make_server(self) -> MaskedServer:
        """The server as its process makes it at its start, from its store."""
        unmasking = MaskingServer(
            run="a run",
            roster=self.roster,
            group=self.group,
            least=self.least,
            store=self.server_store,
            rounds_per_epoch=self.epoch_rounds,
        )
        return MaskedServer(unmasking)

    def restart(self, parties: Iterable[int] = (), *, server: bool = False) -> None:
        """Kill and start again: what was not in a store is gone."""
        for party in parties:
            self.clients[party] = self.make_client(party)
        if server:
            self.server = self.make_server()

    def ask(self, op: str, party: int, body: Body) -> Body:
        """One exchange through bytes, recorded as the server sees it."""
        message = self.messages()[op]
        self.asked.append((op, party))
        answer = self.clients[party].handle(op, decode(encode(body, message.request), message.request))
        raw = encode(answer, message.reply)
        self.received.append((op, party, raw))
        return decode(raw, message.reply)

    def messages(self) -> dict[str, Message]:
        return dict(self.server.messages())

    def drive(self, steps: Steps[T], silent: Silence = nobody, tamper: Tamper = honest) -> T:
        """Run a server's steps to their result."""
        try:
            ask = next(steps)
            while True:
                ask = steps.send(self._answer(ask, silent, tamper))
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _answer(self, ask: Ask, silent: Silence, tamper: Tamper) -> Replies:
        ok: dict[int, Body] = {}
        failed: dict[int, str] = {}
        for party in range(self.parties) if ask.to is None else ask.to:
            if silent(ask.op, party):
                failed[party] = "no answer"
                continue
            try:
                ok[party] = self.ask(ask.op, party, tamper(ask.op, party, ask.body_for(party)))
            except SealingRefused as refusal:
                failed[party] = refusal.reason
                self.refusals.append((ask.op, party, refusal.reason))
        return Replies(ok, failed)

    def seal(self, round: RoundId, values: NDArray[np.int64], parties: Iterable[int]) -> dict[int, Body]:
        """Sealed rows of ``values`` as the server receives them."""
        schema = self.server.sealed(values.shape[1])
        bodies = {}
        for party in parties:
            raw = encode(self.clients[party].seal(round, values[party]), schema)
            self.received.append(("round", party, raw))
            bodies[party] = decode(raw, schema)
        return bodies

    def round(
        self,
        round: RoundId,
        values: NDArray[np.int64],
        *,
        absent: Collection[int] = (),
        gone: Collection[int] = (),
        lost: Collection[int] = (),
    ) -> Opened:
        """A whole round.

        Args:
            round: Which.
            values: int64 ``[parties, count]``.
            absent: Parties that drop out before they mask.
            gone: Parties that drop out after their masked words have arrived.
            lost: Parties whose signature on the survivors arrives, but no shares.
        """

        def silent(op: str, party: int) -> bool:
            if party in absent or (party in gone and op.startswith("recover")):
                return True
            return party in lost and op == "recover.unmask"

        ready = self.drive(self.server.prepare(round), silent=lambda op, party: False)
        replies = self.seal(round, values, [p for p in ready if p not in absent])
        return self.drive(self.server.open(round, values.shape[1], replies), silent)

    def words(self, body: Body, count: int) -> NDArray[np.uint64]:
        """The masked words of a sealed body."""
        packed = body["words"]
        assert isinstance(packed, bytes)
        return unpack(packed, self.bits, count)

    def is_sum(self, opened: Opened, values: NDArray[np.int64]) -> bool:
        """Whether what was opened is the plain sum of the survivors' values in the group."""
        plain = self.group.centred(self.group.residues(values[list(opened.survivors)].sum(axis=0)))
        return opened.total is not None and np.array_equal(opened.total, plain)


def some_values(parties: int, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Signed values of 12 bits, int64 ``[parties, count]``."""
    return np.random.default_rng(seed).integers(-2048, 2048, size=(parties, count))
