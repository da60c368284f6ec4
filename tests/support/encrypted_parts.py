"""Clients and a server of an encrypted level in one process, and what drives the server's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privet.protocol import Ask, Replies, RoundId, Steps
from privet.sealing import encrypted
from privet.sealing.base import SealingRefused
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.store import MemoryStore
from privet.wire import Body

PARAMETERS = BfvParameters.for_values(16, 4)
ROUND = RoundId(0)


def cohort(size: int = 4, run: str = "run") -> tuple[Roster, list[EncryptedClient], EncryptedServer]:
    identities, parameters = [Identity.generate() for _ in range(size)], BfvParameters.for_values(16, size)
    roster = Roster.in_memory([f"site {i}" for i in range(size)], identities)
    clients = [
        encrypted.encrypted_client(
            run=run, roster=roster, identity=identity, store=MemoryStore(), parameters=parameters, least=3
        )
        for identity in identities
    ]
    server = encrypted.encrypted_server(
        run=run, roster=roster, parameters=parameters, floor=3, store=MemoryStore()
    )
    return roster, clients, server


def prepare(
    server: EncryptedServer,
    clients: list[EncryptedClient],
    silent: Mapping[str, tuple[int, ...]] | None = None,
    lost: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[tuple[int, ...], list[str]]:
    """Drive ``prepare``; some parties do not hear a question, and the answers of some are lost after they acted."""
    steps: Steps[tuple[int, ...]] = server.prepare(ROUND)
    asked = []
    try:
        ask: Ask = next(steps)
        while True:
            asked.append(ask.op)
            ok: dict[int, Body] = {}
            failed: dict[int, str] = {}
            for party in ask.to or range(len(clients)):
                if party in (silent or {}).get(ask.op, ()):
                    failed[party] = "no answer"
                    continue
                try:
                    answer = clients[party].handle(ask.op, ask.body_for(party))
                except SealingRefused as refusal:
                    failed[party] = f"refused: {refusal.reason}"
                    continue
                if party in (lost or {}).get(ask.op, ()):
                    failed[party] = "no answer"
                else:
                    ok[party] = answer
            ask = steps.send(Replies(ok, failed))
    except StopIteration as stop:
        holders: tuple[int, ...] = stop.value
        return holders, asked


def names(clients: list[EncryptedClient]) -> set[bytes]:
    return {client.keys.key.name for client in clients}


def finish(steps: Steps[Any]) -> Any:
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the server asked something")
