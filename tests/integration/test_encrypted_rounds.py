"""Whole rounds under the encrypted levels: key phases, sums, dropouts, restarts, and what the server never gets."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privet import wire
from privet.config import Dropout
from privet.engines.local import LocalEngine
from privet.protocol import Ask, Body, RoundAborted, RoundId, Steps
from privet.sealing import ckks, encrypted
from privet.sealing.base import Message, Opened, SealingRefused
from privet.sealing.bfv import BfvKey
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_masked import EncryptedMaskedClient, EncryptedMaskedServer
from privet.sealing.encrypted_messages import sum_schema
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.wire import Array, Blob, Schema, Whole

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
                run=self.run, roster=self.roster, floor=self.floor
            )
        elif self.level == "encrypted":
            self.server = encrypted.encrypted_server(
                run=self.run, roster=self.roster, parameters=self.parameters, floor=self.floor
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


@pytest.mark.parametrize("level", LEVELS)
def test_sum_opens_exactly_at_the_designated_client_and_its_state_reaches_the_others(level: str) -> None:
    run = Consortium(level)
    for number in range(2):
        opened, designated, sealed = run.round(number)
        assert (opened.survivors, designated, opened.refused) == ((0, 1, 2, 3), 0, {})
        total = run.expected(number, opened.survivors)
        np.testing.assert_array_equal(run.sites[0].opened[RoundId(number)], total)
        states = [site.sealing.states for site in run.sites]
        received = [state.open(sealed, number + 1) for state in states]
        assert received == [total.tobytes()] * 4
        assert len({state.fingerprint(total.tobytes(), number + 1) for state in states}) == 1
        assert states[0].fingerprint(b"other", number + 1) != states[0].fingerprint(
            total.tobytes(), number + 1
        )


@pytest.mark.parametrize("level", LEVELS)
def test_server_and_transcript_hold_no_key_and_no_contribution(level: str) -> None:
    run = Consortium(level)
    opened, _, _ = run.round(0)
    recorded = b"".join(question + answer for _, _, question, answer in run.transcript)
    root = wire.decode(run.stores[0].entries["run-key"], _RUN_KEY)["root"]
    key = run.sites[0].sealing.keys.key
    secrets = {
        "root": root,
        "state key": key.derive("state"),
        "agreement": run.stores[1].entries["run-key.agreement"] or root,
        "ckks context key": key.derive("ckks.context"),
        "bfv seed": key.derive(run.parameters.label(), length=64),
    }
    checkpoint = pickle.dumps((run.server_store.entries, _values_of(run.server)))
    for name, secret in secrets.items():
        assert isinstance(secret, bytes)
        for piece in (secret, secret[:16], secret[-16:], secret[::-1], secret.hex().encode()):
            assert piece not in recorded, name
            assert piece not in checkpoint, name
    for party in range(4):
        for values in (run.values[party][0], run.expected(0, opened.survivors)):
            for dtype in (np.int64, np.int32, np.float64, np.float32):
                piece = values[:8].astype(dtype).tobytes()
                assert piece not in recorded
                assert piece not in checkpoint


_RUN_KEY = Schema({"scope": Blob(32), "root": Blob(32), "used": wire.Flag()})


def _values_of(thing: object, depth: int = 6) -> list[object]:
    """Every plain value that an object of the server reaches; it fails on SEAL's secret classes."""
    assert type(thing).__name__ not in {
        "SecretKey",
        "Decryptor",
        "Encryptor",
        "KeyGenerator",
        "BfvKey",
        "RunKey",
    }
    if isinstance(thing, (bytes, str, int, float, type(None), np.ndarray)):
        return [thing]
    if depth == 0:
        return []
    if isinstance(thing, Mapping):
        return [v for pair in thing.items() for part in pair for v in _values_of(part, depth - 1)]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [v for part in thing for v in _values_of(part, depth - 1)]
    return [v for part in getattr(thing, "__dict__", {}).values() for v in _values_of(part, depth - 1)]


def test_the_search_for_secrets_finds_a_leak() -> None:
    # the check above guards privacy: a server that was handed the key must trip it
    run = Consortium("encrypted")
    run.round(0)
    run.server._leak = run.sites[0].sealing.keys.key  # type: ignore[attr-defined]  # the mutant
    with pytest.raises(AssertionError):
        _values_of(run.server)


@pytest.mark.parametrize("level", LEVELS)
def test_ckks_server_context_has_no_key_and_sums_are_not_for_it(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    scheme = run.server.scheme
    if isinstance(scheme, ckks.CkksScheme):
        assert not scheme.context.has_secret_key()
        assert not scheme.context.has_public_key()
    assert not hasattr(run.server, "unseal")


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_dropout_in_the_round_leaves_the_sum_of_the_others(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=1, party=2)])
    run.round(0)
    opened, _, _ = run.round(1)
    assert opened.survivors == (0, 1, 3)
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(1)], run.expected(1, (0, 1, 3)))
    opened, _, _ = run.round(2)
    assert opened.survivors == (0, 1, 3)


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_dropout_of_the_designated_client_passes_its_part_to_the_next(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=1, party=0)])
    run.round(0)
    opened, designated, sealed = run.round(1)
    assert (opened.survivors, designated) == ((1, 2, 3), 1)
    total = run.expected(1, (1, 2, 3))
    np.testing.assert_array_equal(run.sites[1].opened[RoundId(1)], total)
    assert run.sites[3].sealing.states.open(sealed, 2) == total.tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_another_attempt_at_a_round_is_sealed_and_opened_anew(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    opened, _, _ = run.round(0, attempt=1)
    assert opened.survivors == (0, 1, 2, 3)
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(0, 1)], run.expected(0, (0, 1, 2, 3)))


@pytest.mark.parametrize("level", LEVELS)
def test_below_the_floor_nothing_opens(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=0, party=1), Dropout(round=0, party=3)])
    with pytest.raises(RoundAborted):
        run.round(0)
    assert all(not site.opened for site in run.sites)
    assert "open" not in {op for op, *_ in run.transcript}


@pytest.mark.parametrize("level", LEVELS)
def test_clients_and_server_restart_and_go_on_under_the_same_key(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    name = run.sites[0].sealing.keys.key.name
    run.start_clients()
    run.start_server()
    opened, _, _ = run.round(1)
    assert len(opened.survivors) == 4
    assert {site.sealing.keys.key.name for site in run.sites} == {name}
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(1)], run.expected(1, (0, 1, 2, 3)))


@pytest.mark.parametrize("level", LEVELS)
def test_a_client_that_comes_back_empty_is_given_the_key_and_the_state_again(level: str) -> None:
    run = Consortium(level)
    _, _, sealed = run.round(0)
    run.stores[2] = MemoryStore()
    run.start_clients()
    run.start_server()
    opened, _, newer = run.round(1)
    # its masks are lost with its folder until the next exchange of mask keys; the run's key is not
    assert opened.survivors == ((0, 1, 3) if level == "encrypted+masked" else (0, 1, 2, 3))
    assert run.sites[2].sealing.keys.key.name == run.sites[0].sealing.keys.key.name
    assert run.sites[2].sealing.states.open(newer, 2) == run.expected(1, opened.survivors).tobytes()
    with pytest.raises(SealingRefused, match="older-state"):
        run.sites[2].sealing.states.open(sealed, 1)


def test_another_roster_or_run_rotates_the_key() -> None:
    run = Consortium("encrypted")
    run.round(0)
    old = run.sites[0].sealing.keys.key.name
    for change in ("run", "roster"):
        if change == "run":
            run.run = "run-2"
        else:
            names = ["another", *(f"site {i}" for i in range(1, 4))]
            run.roster = Roster.in_memory(names, run.identities)
        run.start_clients()
        with pytest.raises(SealingRefused, match="no-run-key"):
            _ = run.sites[0].sealing.keys.key
        run.start_server()
        for store in run.stores:
            store.entries.pop("encrypted.sealed", None)
            store.entries.pop("encrypted.opened", None)
        run.round(0)
        new = run.sites[0].sealing.keys.key.name
        assert new != old
        old = new


class Tampering:
    """A client whose answers to ``round`` are changed on the way."""

    def __init__(self, site: Site, change: Callable[[Body], Body]) -> None:
        self._site, self._change = site, change

    def handle(self, op: str, body: Body) -> Body:
        answer = self._site.handle(op, body)
        return self._change(answer) if op == "round" else answer


def _flip(body: Body, position: int) -> Body:
    data = bytearray(body["ciphertexts"])  # type: ignore[arg-type]  # bytes by the schema
    data[position] ^= 1
    return {**body, "ciphertexts": bytes(data)}


CHANGES: dict[str, Callable[[Body], Body]] = {
    "bad-signature": lambda body: _flip(body, 20_000),
    "bad-signature ": lambda body: {**body, "number": 5},
    "bad-signature  ": lambda body: {**body, "signature": bytes(64)},
    "malformed": lambda body: {**body, "sizes": np.asarray(body["sizes"])[:-1].copy()},
    "malformed ": lambda body: {name: value for name, value in body.items() if name != "key"},
}


@pytest.mark.parametrize("reason", CHANGES)
@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_a_message_changed_on_the_way_is_refused_alone(level: str, reason: str) -> None:
    run = Consortium(level)
    run.engine.clients = {
        party: Tampering(site, CHANGES[reason]) if party == 1 else site
        for party, site in enumerate(run.sites)
    }
    opened, _, _ = run.round(0)
    assert opened.survivors == (0, 2, 3)
    assert opened.refused.get(1, reason.strip()).startswith(reason.strip())
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(0)], run.expected(0, (0, 2, 3)))


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked", "ckks"])
def test_a_member_that_signs_rubbish_is_refused_alone(level: str) -> None:
    run = Consortium(level)

    def rubbish(body: Body) -> Body:
        fields: Mapping[str, Any] = body
        client = run.sites[1].sealing
        junk = [b"x" * int(size) for size in fields["sizes"]]
        return client._send(RoundId(0), junk, fields["epoch"])

    run.engine.clients = {
        party: Tampering(site, rubbish) if party == 1 else site for party, site in enumerate(run.sites)
    }
    opened, _, _ = run.round(0)
    assert opened.survivors == (0, 2, 3)
    assert opened.refused[1].startswith("bad-ciphertext")
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(0)], run.expected(0, (0, 2, 3)))


@pytest.mark.parametrize("level", LEVELS)
def test_a_client_seals_and_opens_each_attempt_once(level: str) -> None:
    run = Consortium(level)
    opened, _, _ = run.round(0)
    client = run.sites[0].sealing
    assert opened.ciphertext is not None
    summed = opened.ciphertext
    again = client.unseal(RoundId(0), summed, COUNT)
    np.testing.assert_array_equal(again, run.expected(0, (0, 1, 2, 3)))
    with pytest.raises(SealingRefused, match="slot-used"):
        client.seal(RoundId(0), run.values[0][1])
    alone = run.server.open(RoundId(0), COUNT, {})
    with pytest.raises(RoundAborted):
        next(alone)
    own = client.seal(RoundId(0), run.values[0][0])
    single = {name: own[name] for name in ("number", "attempt", "epoch", "key", "sizes", "ciphertexts")}
    with pytest.raises(SealingRefused, match="slot-used"):
        client.unseal(RoundId(0), {**single, "survivors": np.arange(3)}, COUNT)
    with pytest.raises(SealingRefused, match="too-few-parties"):
        client.unseal(RoundId(0), {**summed, "survivors": np.array([0, 1])}, COUNT)
    with pytest.raises(SealingRefused, match="wrong-round"):
        client.unseal(RoundId(1), summed, COUNT)
    run.round(1)
    with pytest.raises(SealingRefused, match=r"replayed-round|slot-used"):
        client.seal(RoundId(0), run.values[0][1])
    with pytest.raises(SealingRefused, match="replayed-round"):
        client.unseal(RoundId(0), summed, COUNT)


def test_under_masks_the_holder_of_the_key_sees_only_uniform_words_of_one_client() -> None:
    run = Consortium("encrypted+masked")
    run.round(0)
    replies = {
        party: wire.decode(answer, run.server.sealed(COUNT))
        for op, party, _, answer in run.transcript
        if op == "round"
    }
    curious = run.sites[3].sealing
    holder = curious._holder()
    fields: Mapping[str, Any] = replies[1]
    size = int(fields["sizes"][0])
    (words,) = holder.secret.decrypt([fields["ciphertexts"][:size]], fresh=True)  # type: ignore[attr-defined]  # BFV's
    t = run.parameters.plain_modulus
    packed = next(run.server._bfv.pack(run.values[1][0]))  # type: ignore[attr-defined]  # the masked server's
    assert (words == packed).mean() < 0.01
    # 4,096 uniform words: the mean is within 4.4 standard errors of t/2 but for a chance of 1e-5
    assert abs(words.astype(float).mean() / t - 0.5) < 4.4 / np.sqrt(12 * len(words))


def test_without_masks_any_client_could_open_what_the_server_shows_it() -> None:
    # the stated limit of the level `encrypted`, and why DP under encryption defaults to `encrypted+masked`
    run = Consortium("encrypted")
    run.round(0)
    (answer,) = [answer for op, party, _, answer in run.transcript if op == "round" and party == 1]
    fields: Mapping[str, Any] = wire.decode(answer, run.server.sealed(COUNT))
    holder = run.sites[3].sealing._holder()
    words = holder.secret.decrypt([fields["ciphertexts"][: int(fields["sizes"][0])]], fresh=True)  # type: ignore[attr-defined]  # BFV's
    first = run.sites[3].sealing.scheme.bfv.unpack(words, 8000)  # type: ignore[attr-defined]  # BFV's
    np.testing.assert_array_equal(first, run.values[1][0][:8000])


def test_a_server_cannot_slip_in_a_key_of_its_own() -> None:
    run = Consortium("encrypted")
    run.round(0)
    intruder = Identity.generate()
    client = run.client(3)
    forged = Roster.in_memory([f"site {i}" for i in range(4)], [*run.identities[:3], intruder])
    server_side = encrypted.encrypted_client(
        run=run.run,
        roster=forged,
        identity=intruder,
        store=MemoryStore(),
        parameters=run.parameters,
        least=3,
    )
    scope = client.keys.scope
    server_side.keys.scope = scope
    advert = server_side.handle("keys.run.advertise", {"scope": scope})
    question: Body = {
        "parties": np.array([3], np.int64),
        "publics": np.frombuffer(advert["public"], np.uint8).reshape(1, -1),  # type: ignore[arg-type]  # bytes
        "signatures": np.frombuffer(advert["signature"], np.uint8).reshape(1, -1),  # type: ignore[arg-type]  # bytes
    }
    with pytest.raises(SealingRefused, match="bad-advert"):
        run.sites[0].sealing.handle("keys.run.wrap", question)


@pytest.mark.parametrize(
    ("field", "reason"),
    [("wrapped", "bad-signature"), ("signature", "bad-signature"), ("attachment", "bad-signature")],
)
def test_a_wrapped_key_changed_on_the_way_is_refused(field: str, reason: str) -> None:
    run = Consortium("encrypted")
    client = run.client(1)
    scope = client.keys.scope
    advert: Mapping[str, Any] = client.handle("keys.run.advertise", {"scope": scope})
    made: Mapping[str, Any] = run.sites[0].sealing.handle(
        "keys.run.wrap",
        {
            "parties": np.array([1], np.int64),
            "publics": np.frombuffer(advert["public"], np.uint8).reshape(1, -1),
            "signatures": np.frombuffer(advert["signature"], np.uint8).reshape(1, -1),
        },
    )
    handed: dict[str, Any] = {
        "maker": 0,
        "ephemeral": made["ephemeral"],
        "wrapped": made["wrapped"][0].tobytes(),
        "signature": made["signatures"][0].tobytes(),
        "attachment": made["attachment"],
    }
    changed = bytearray(handed[field])
    changed[5] ^= 4
    with pytest.raises(SealingRefused, match=reason):
        client.handle("keys.run.accept", {**handed, field: bytes(changed)})
    with pytest.raises(SealingRefused, match="bad-signature"):
        client.handle("keys.run.accept", {**handed, "maker": 2})
    with pytest.raises(SealingRefused, match="bad-sender"):
        client.handle("keys.run.accept", {**handed, "maker": 1})
    client.handle("keys.run.accept", handed)
    assert client.keys.key.name == made["key"]
    with pytest.raises(SealingRefused, match="no-advert"):
        client.handle("keys.run.accept", handed)


def test_a_client_that_sealed_takes_no_other_key_of_the_run() -> None:
    run = Consortium("encrypted")
    run.round(0)
    stranger = Consortium("encrypted")
    used = run.sites[1].sealing
    advert: Mapping[str, Any] = used.handle("keys.run.advertise", {"scope": used.keys.scope})
    made: Mapping[str, Any] = stranger.sites[0].sealing.handle(
        "keys.run.wrap",
        {
            "parties": np.array([1], np.int64),
            "publics": np.frombuffer(advert["public"], np.uint8).reshape(1, -1),
            "signatures": np.frombuffer(advert["signature"], np.uint8).reshape(1, -1),
        },
    )
    with pytest.raises(SealingRefused, match="other-run-key"):
        used.handle(
            "keys.run.accept",
            {
                "maker": 0,
                "ephemeral": made["ephemeral"],
                "wrapped": made["wrapped"][0].tobytes(),
                "signature": made["signatures"][0].tobytes(),
                "attachment": made["attachment"],
            },
        )


def test_an_installation_that_computes_another_bfv_key_finds_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Consortium("encrypted", size=4)
    original = encrypted.BfvHolder.__init__
    made: list[object] = []

    def other_sampling(self: encrypted.BfvHolder, bfv: Any, key: Any) -> None:
        original(self, bfv, key)
        made.append(self)
        if len(made) == 2:
            self.secret = BfvKey(bfv, bytes(64))

    monkeypatch.setattr(encrypted.BfvHolder, "__init__", other_sampling)
    holders = run.engine.run(run.server.prepare(RoundId(0)))
    assert holders == (0, 2, 3)


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_no_file_is_made_during_a_round(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Consortium(level).round(0)
    assert list(tmp_path.iterdir()) == []


def test_states_are_refused_when_changed_stale_or_of_another_key() -> None:
    run = Consortium("encrypted")
    run.round(0)
    states = run.sites[0].sealing.states
    sealed = states.seal(b"adapter", 3)
    assert b"adapter" not in sealed
    for position in (10, len(sealed) // 2, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SealingRefused):
            run.sites[1].sealing.states.open(bytes(changed), 3)
    with pytest.raises(SealingRefused, match="wrong-round"):
        run.sites[1].sealing.states.open(sealed, 2)
    stranger = Consortium("encrypted")
    stranger.round(0)
    with pytest.raises(SealingRefused, match="bad-state"):
        stranger.sites[1].sealing.states.open(sealed, 3)
    assert run.sites[1].sealing.states.open(sealed, 3) == b"adapter"


def test_prune_with_a_shared_mask_halves_the_bytes() -> None:
    run = Consortium("encrypted")
    run.round(0)
    client, p = run.sites[0].sealing, run.parameters
    kept = np.arange(8 * p.values_per_ciphertext) % 2 == 0
    values = np.random.default_rng(0).integers(-100, 100, len(kept))
    whole = client.seal(RoundId(1), values)
    half = client.seal(RoundId(2), values[kept])
    sizes = [int(np.asarray(body["sizes"]).sum()) for body in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)


def test_sizes_are_an_array_that_the_schema_knows() -> None:
    run = Consortium("encrypted")
    schema = run.server.sealed(COUNT)
    assert schema.fields["sizes"] == Array("uint32", (run.parameters.ciphertexts(COUNT),))
