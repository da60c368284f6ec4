"""A run of an encrypted level with all its parties in this process, every exchange recorded as bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.config import Dropout
from privet.engines.local import LocalEngine
from privet.protocol import Ask, RoundAborted, RoundId, Steps
from privet.sealing import ckks, encrypted
from privet.sealing.base import Opened
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_masked import EncryptedMaskedClient, EncryptedMaskedServer
from privet.sealing.encrypted_messages import sum_schema
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.wire import Blob, Body, Message, Schema, Whole

Integers = NDArray[np.int64]
COUNT, BITS = 13_000, 16
NUMBERS = {"number": Whole(0), "attempt": Whole(0)}
LEVELS = ["encrypted", "encrypted+masked", "ckks"]


class MemoryStore:
    """A store whose entries a test can look into, or carry over a restart."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self.entries[name] = data

    def get(self, name: str) -> bytes | None:
        return self.entries.get(name)


@dataclass
class Site:
    """A client as the engine sees it: its values are the ones that it was given for the round."""

    sealing: EncryptedClient
    values: Mapping[int, Integers]
    opened: dict[RoundId, Integers] = field(default_factory=dict)

    def handle(self, op: str, body: Body) -> Body:
        if op not in ("round", "open"):
            return self.sealing.handle(op, body)
        fields: Mapping[str, Any] = body
        round = RoundId(fields["number"], fields["attempt"])
        if op == "round":
            return self.sealing.seal(round, self.values[round.number])
        summed = wire.decode(fields["sum"], sum_schema(self.sealing.scheme, COUNT, 100))
        self.opened[round] = self.sealing.unseal(round, summed, COUNT)
        state = self.opened[round].tobytes()
        return {"state": self.sealing.states.seal(state, round.number + 1)}


@dataclass
class Consortium:
    """A run of one level with all its parties in this process, every exchange recorded as bytes."""

    level: str
    size: int = 4
    floor: int = 3
    run: str = "run-1"
    fresh_noise: bool = False
    transcript: list[tuple[str, int, bytes, bytes]] = field(default_factory=list)
    dropouts: list[Dropout] = field(default_factory=list)
    wrap: Callable[[Site], Any] = lambda site: site

    def __post_init__(self) -> None:
        self.identities = [Identity.from_root(hashlib.sha256(bytes([i])).digest()) for i in range(self.size)]
        self.roster = Roster.in_memory([f"site {i}" for i in range(self.size)], self.identities)
        self.stores = [MemoryStore() for _ in range(self.size)]
        self.server_store = MemoryStore()
        rng = np.random.default_rng(5)
        half = 1 << BITS - 1
        self.values = [
            {number: rng.integers(-half, half, COUNT) for number in range(6)} for _ in range(self.size)
        ]
        self.parameters = BfvParameters.for_values(BITS, self.size)
        self.start_clients()
        self.start_server()

    def client(self, party: int) -> EncryptedClient:
        common: dict[str, Any] = {
            "run": self.run,
            "roster": self.roster,
            "identity": self.identities[party],
            "store": self.stores[party],
        }
        if self.level == "ckks":
            return ckks.ckks_client(**common, least=self.floor)
        if self.level == "encrypted":
            return encrypted.encrypted_client(**common, parameters=self.parameters, least=self.floor)
        root = hashlib.sha256(b"root" + bytes([party])).digest()
        return EncryptedMaskedClient(**common, parameters=self.parameters, least=self.floor, root=root)

    def start_clients(self) -> None:
        self.sites = [Site(self.client(party), self.values[party]) for party in range(self.size)]

    def start_server(self) -> None:
        if self.level == "ckks":
            self.server: EncryptedServer = ckks.ckks_server(
                run=self.run,
                roster=self.roster,
                floor=self.floor,
                store=self.server_store,
                fresh_noise=self.fresh_noise,
            )
        elif self.level == "encrypted":
            self.server = encrypted.encrypted_server(
                run=self.run,
                roster=self.roster,
                parameters=self.parameters,
                floor=self.floor,
                store=self.server_store,
                fresh_noise=self.fresh_noise,
            )
        else:
            self.server = EncryptedMaskedServer(
                run=self.run,
                roster=self.roster,
                parameters=self.parameters,
                floor=self.floor,
                store=self.server_store,
            )
        answer = {"round": Message(Schema(NUMBERS), self.server.sealed(COUNT))}
        question = Schema({**NUMBERS, "sum": Blob(1 << 24)})
        answer["open"] = Message(question, Schema({"state": Blob(1 << 24)}))
        self.engine = LocalEngine(
            {party: self.wrap(site) for party, site in enumerate(self.sites)},
            {**self.server.messages(), **answer},
            dropouts=self.dropouts,
            tap=lambda *exchange: self.transcript.append(exchange),
        )

    def steps(self, round: RoundId) -> Steps[tuple[Opened, int, bytes]]:
        """One round as the server runs it: the lowest number that answers opens."""
        numbers: Body = {"number": round.number, "attempt": round.attempt}
        parties = yield from self.server.prepare(round)
        replies = yield Ask("round", numbers, to=parties)
        opened = yield from self.server.open(round, COUNT, replies.ok)
        assert opened.total is None
        assert opened.ciphertext is not None
        question: Body = {**numbers, "sum": wire.encode(opened.ciphertext)}
        for party in opened.survivors:
            answers = yield Ask("open", question, to=(party,))
            if party in answers.ok:
                state = answers.ok[party]["state"]
                assert isinstance(state, bytes)
                return opened, party, state
        raise RoundAborted("nobody opened the sum")

    def round(self, number: int, attempt: int = 0) -> tuple[Opened, int, bytes]:
        return self.engine.run(self.steps(RoundId(number, attempt)))

    def expected(self, number: int, survivors: tuple[int, ...]) -> Integers:
        total: Integers = np.sum([self.values[party][number] for party in survivors], axis=0)
        return total
