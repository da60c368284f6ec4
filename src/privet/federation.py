"""Who meets in a run: clients with their secrets, the server with its checkpoint, and the local engine between them.

Under `insecure_test_seed` every secret follows from the seed, so that runs repeat bit by bit and splits of the same
records over silos meet the same randomness; such a run promises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from privet.aggregate import Aggregator, state_schema
from privet.client import Client, Guard
from privet.codec_schedule import CodecSchedule
from privet.codecs import Codec
from privet.engines.base import Engine
from privet.engines.local import LocalEngine, Tap
from privet.errors import PrivetError
from privet.fixed_point import Field
from privet.keys import ClientKeys, SecretStore, derive
from privet.messages import OPEN, ROUND, answer_schema, schemas
from privet.pipeline import Floats
from privet.resolve import Resolved
from privet.run_folder import config_hash
from privet.sealing.base import SealingServer, Store
from privet.sealing.identity import Identity
from privet.sealing.levels import Seal
from privet.sealing.roster import Roster
from privet.server import Server
from privet.store import FolderStore, MemoryStore
from privet.wire import Message, Schema
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
    def of_site(cls, folder: Path, identity: Identity, test_seed: tuple[int, int] | None = None) -> Secrets:
        """Secrets of a site for one run, with the identity that the roster names.

        Args:
            folder: The run's folder at this site; made with mode 0700.
            identity: The site's key.
            test_seed: Insecure seed and party number, where all randomness has to repeat.
        """
        secrets = SecretStore(folder)
        keys = ClientKeys.from_insecure_test_seed(*test_seed) if test_seed else ClientKeys.open(secrets)
        return cls(keys, identity, secrets.read_or_create("sealing.root"), FolderStore(secrets))

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
    """Everything of one run that is in this process.

    Attributes:
        server: The server's half.
        clients: Clients by party number; none where they are on other machines.
        engine: What carries messages between them.
    """

    server: Server
    clients: dict[int, Client]
    engine: Engine

    @property
    def newest(self) -> Aggregator | None:
        """The server half as the run stands: the server's, or that of a client here that has the newest, if any."""
        if self.server.aggregator is not None:
            return self.server.aggregator
        return max((c.aggregator for c in self.clients.values()), key=lambda a: a.rounds, default=None)

    @property
    def flat(self) -> Floats:
        """The trained values as the run stands, float32 [D].

        Raises:
            PrivetError: if only clients on other machines know them.
        """
        if self.newest is None:
            raise PrivetError("only the sites know the adapter of this run", field="sealing.kind")
        return self.newest.flat


def sum_field(resolved: Resolved, size: int) -> Field:
    """The field that holds a round's noisy sum with an overflow probability of at most 2^-40.

    Sized for the uncompressed vector, whose grid is the finest: a smaller code needs no more bits.
    """
    system = resolved.system
    kinds = [system, *([system.preparation.system] if system.preparation else [])]
    fields = [
        Field.for_sum(
            parties=resolved.facts.parties,
            limit=kind.pipeline.rounding.limit,
            share_std_steps=kind.mechanism.share_std_steps
            if kind.mechanism and kind.pipeline.has_share
            else 0.0,
            dimension=size,
        )
        for kind in kinds
    ]
    return max(fields, key=lambda field: field.bits)


@dataclass(frozen=True)
class Blueprint:
    """The public facts of a run, from which the server and every client build their halves alike.

    Attributes:
        resolved: What runs.
        roster: Who takes part, by party number.
        run: Name of the run.
        agreement: Hash of all that was agreed on, hexadecimal. Every key, mask and signature is bound to it: clients
            that were told of different runs make sums that open to nothing.
        initial: Trained values at the start, float32 [D].
        schedule: The codec of each round.
        given: The first codec, where another made it.
    """

    resolved: Resolved
    roster: Roster
    run: str
    agreement: str
    initial: Floats
    schedule: CodecSchedule
    given: Codec | None = None

    @cached_property
    def seal(self) -> Seal:
        """The sealing level."""
        config = self.resolved.config
        return Seal(
            config.sealing,
            f"{self.run}/{self.agreement}",
            self.roster,
            sum_field(self.resolved, len(self.initial)),
            self.resolved.trust.min_survivors,
            fresh_noise=self.resolved.system.always_noised,
            insecure_test_seed=config.insecure_test_seed is not None,
        )

    @cached_property
    def messages(self) -> dict[str, Message]:
        """Schemas by operation."""
        state_bytes = state_schema(len(self.initial)).max_bytes()
        encrypted = self.seal.hands_sums_on
        return schemas(
            self._schemas_only, dimension=len(self.initial), state_bytes=state_bytes, encrypted=encrypted
        )

    @cached_property
    def _schemas_only(self) -> SealingServer:
        return self.seal.server(MemoryStore())

    def answer(self, size: int) -> Schema:
        """Schema of an answer to ``round`` with ``size`` values."""
        if size not in self._answers:
            sealed = self._schemas_only.sealed(size)
            self._answers[size] = answer_schema(sealed, encrypted=self.seal.hands_sums_on)
        return self._answers[size]

    @cached_property
    def _answers(self) -> dict[int, Schema]:
        """Schemas that were made before; every client asks in every round."""
        return {}

    def kept(self, op: str, size: int) -> Schema:
        """Schema of the answer to ``op`` in a round of ``size`` values."""
        return self.answer(size) if op == ROUND else self.messages[op].reply

    def asked(self, op: str, size: int) -> Schema:
        """Schema of the question ``op`` in a round of ``size`` values."""
        summed = self.seal.sum_schema(size) if op == OPEN else None
        return summed or self.messages[op].request

    @cached_property
    def first_codec(self) -> Codec | None:
        """The public codec that all start from; ``None`` for the identity, or if it is not there yet."""
        return self.given or self.schedule.first(self.initial)

    def aggregator(self) -> Aggregator:
        """The server half's role before the first round."""
        optimiser = self.resolved.config.schedule.server
        return Aggregator.fresh(
            self.resolved.compose, self.schedule, optimiser, self.initial, self.first_codec
        )

    def client(self, place: Workplace, secret: Secrets, guard: Guard | None = None) -> Client:
        """The half of the member whose identity is in ``secret``."""
        party = self.roster.party_of(secret.identity.public_key)
        weights = self.resolved.config.schedule.weights
        return Client(
            place=place,
            keys=secret.keys,
            sealing=self.seal.client(secret.identity, secret.seal_root, secret.store),
            store=secret.store,
            answers=self.kept,
            aggregator=self.aggregator(),
            rounds=self.resolved.rounds,
            weight=weights[party] if weights else 1.0,
            error_feedback=self.resolved.config.codec.error_feedback,
            guard=guard,
        )

    def server(
        self, store: Store, save: Callable[[Server], None], observe: Callable[[str, dict[str, Any]], None]
    ) -> Server:
        """The server's half; ``store`` is where its sealing level keeps its state."""
        config, first = self.resolved.config, self.aggregator()
        return Server(
            system=self.resolved.system,
            rounds=self.resolved.rounds,
            attempts=config.schedule.round_attempts,
            run=self.run,
            sealing=self.seal.server(store),
            survivors_demanded=self.resolved.trust.min_survivors,
            ledger=self.resolved.ledger(),
            dimension=len(self.initial),
            aggregator=None if self.seal.hands_sums_on else first,
            messages=self.messages,
            answer=self.answer,
            summed=self.seal.sum_schema,
            size=first.size,
            save=save,
            observe=observe,
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
    roster = Roster.in_memory([place.name for place in places], [s.identity for s in secrets])
    blueprint = Blueprint(resolved, roster, run, config_hash(resolved.config), initial, schedule)
    # The roster sorts nothing: a party's number is its place in it.
    clients = {
        roster.party_of(secret.identity.public_key): blueprint.client(place, secret)
        for place, secret in zip(places, secrets, strict=True)
    }
    server = blueprint.server(server_store or MemoryStore(), save, observe)
    engine = LocalEngine(clients, blueprint.messages, resolved.config.engine.dropouts, tap)
    return Federation(server, clients, engine)
