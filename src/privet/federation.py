"""Who meets in a run: clients with their secrets, the server with its checkpoint, and the local engine between them.

Under `insecure_test_seed` every secret follows from the seed, so that runs repeat bit by bit and splits of the same
records over silos meet the same randomness; such a run promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.aggregate import Aggregator, state_schema
from privet.client import Client
from privet.codec_schedule import CodecSchedule
from privet.engines.local import LocalEngine, Tap
from privet.fixed_point import Field
from privet.keys import ClientKeys, SecretStore, derive
from privet.messages import ROUND, answer_schema, schemas
from privet.pipeline import Floats
from privet.resolve import Resolved
from privet.sealing.base import Store
from privet.sealing.identity import Identity
from privet.sealing.levels import Seal
from privet.sealing.roster import Roster
from privet.server import Server
from privet.store import FolderStore, MemoryStore
from privet.wire import Schema
from privet.work import Workplace

_TEST_ROOT = b"privet insecure test root"


@dataclass(frozen=True)
class Secrets:
    """One client's secrets.

    Attributes:
        keys: Noise, sampling and rounding.
        identity: Signing key.
        seal_root: Root of the sealing level's keys.
        store: Where the client writes down what it decided.
    """

    keys: ClientKeys
    identity: Identity
    seal_root: bytes
    store: Store

    @classmethod
    def of_folder(cls, folder: Path) -> Secrets:
        """Secrets of a real client, made on first use in a folder of mode 0700."""
        secrets = SecretStore(folder)
        return cls(
            ClientKeys.open(secrets),
            Identity.from_root(secrets.read_or_create("identity.root")),
            secrets.read_or_create("sealing.root"),
            FolderStore(secrets),
        )

    @classmethod
    def of_test_seed(cls, seed: int, party: int, folder: Path | None = None) -> Secrets:
        """Secrets that anybody who knows ``seed`` can compute."""
        store: Store = FolderStore(SecretStore(folder)) if folder else MemoryStore()
        return cls(
            ClientKeys.from_insecure_test_seed(seed, party),
            Identity.from_root(derive(_TEST_ROOT, "identity", seed, party)),
            derive(_TEST_ROOT, "sealing", seed, party),
            store,
        )


@dataclass
class Federation:
    """Everything of one run, in one process.

    Attributes:
        server: The server's half.
        clients: Clients by party number.
        engine: What carries messages between them.
    """

    server: Server
    clients: dict[int, Client]
    engine: LocalEngine

    @property
    def flat(self) -> Floats:
        """The trained values as the run stands, float32 [D]: the server's, or those of a client that has the newest."""
        if self.server.aggregator is not None:
            return self.server.aggregator.flat
        return max((client.aggregator for client in self.clients.values()), key=lambda a: a.rounds).flat


def sum_field(resolved: Resolved, size: int) -> Field:
    """The field that holds a round's noisy sum with an overflow probability of at most 2^-40.

    Sized for the uncompressed vector, whose grid is the finest: a smaller code needs no more bits.
    """
    mechanism = resolved.system.mechanism
    has_share = resolved.system.pipeline.has_share
    return Field.for_sum(
        parties=resolved.facts.parties,
        limit=resolved.system.pipeline.rounding.limit,
        share_std_steps=mechanism.share_std_steps if mechanism and has_share else 0.0,
        dimension=size,
    )


def federate(
    resolved: Resolved,
    places: Sequence[Workplace],
    secrets: Sequence[Secrets],
    initial: Floats,
    schedule: CodecSchedule,
    *,
    run: str,
    save: Callable[[Server], None] = lambda server: None,
    observe: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None,
    server_store: Store | None = None,
    tap: Tap | None = None,
) -> Federation:
    """Put a run together.

    Args:
        resolved: What runs.
        places: One a client, in the order of party numbers.
        secrets: Likewise.
        initial: Trained values at the start, float32 [D].
        schedule: The codec of each round.
        run: Name of the run.
        save: Writes the server's checkpoint.
        observe: Told of each round.
        server_store: Where the server's sealing half keeps its state.
        tap: Sees every exchange of the local engine.
    """
    config, system = resolved.config, resolved.system
    roster = Roster.in_memory([place.name for place in places], [s.identity for s in secrets])
    seal = Seal(
        config.sealing,
        run,
        roster,
        sum_field(resolved, len(initial)),
        resolved.trust.min_survivors,
        config.insecure_test_seed is not None,
    )
    sealing = seal.server(server_store or MemoryStore())
    encrypted = seal.hands_sums_on
    state_bytes = state_schema(len(initial)).max_bytes()
    messages = schemas(sealing, dimension=len(initial), state_bytes=state_bytes, encrypted=encrypted)

    def answer(size: int) -> Schema:
        return answer_schema(sealing.sealed(size), encrypted=encrypted)

    def kept(op: str, size: int) -> Schema:
        return answer(size) if op == ROUND else messages[op].reply

    def aggregator() -> Aggregator:
        return Aggregator.fresh(resolved.compose, schedule, config.schedule.server, initial, codec)

    codec = schedule.codec(0, initial, None, None)  # all start from the same public codec
    first = aggregator()
    weights = config.schedule.weights or (1.0,) * len(places)
    clients = {}
    for place, secret, weight in zip(places, secrets, weights, strict=True):
        # The roster sorts nothing: a party's number is its place in it.
        party = roster.party_of(secret.identity.public_key)
        clients[party] = Client(
            place=place,
            keys=secret.keys,
            sealing=seal.client(secret.identity, secret.seal_root, secret.store),
            store=secret.store,
            answers=kept,
            aggregator=aggregator(),
            weight=weight,
        )
    server = Server(
        system=system,
        rounds=config.schedule.rounds,
        attempts=config.schedule.round_attempts,
        run=run,
        sealing=sealing,
        survivors_demanded=resolved.trust.min_survivors,
        ledger=resolved.ledger(),
        dimension=len(initial),
        aggregator=None if encrypted else first,
        messages=messages,
        answer=answer,
        summed=seal.sum_schema,
        size=first.size,
        save=save,
        observe=observe,
    )
    engine = LocalEngine(clients, messages, config.engine.dropouts, tap)
    return Federation(server, clients, engine)
