"""Messages, keys and states under the encrypted levels that are refused, and with which reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from support.encrypted import COUNT, LEVELS, Consortium, MemoryStore, Site

from privet.protocol import RoundAborted, RoundId
from privet.sealing import encrypted
from privet.sealing.base import SealingRefused
from privet.sealing.bfv import BfvKey
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.wire import Body


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
    installed = run.sites[1].sealing.scheme.bfv  # type: ignore[attr-defined]  # BFV's

    def other_sampling(self: encrypted.BfvHolder, bfv: Any, key: Any) -> None:
        original(self, bfv, key)
        if bfv is installed:
            self.secret = BfvKey(bfv, bytes(64))

    monkeypatch.setattr(encrypted.BfvHolder, "__init__", other_sampling)
    holders = run.engine.run(run.server.prepare(RoundId(0)))
    assert holders == (0, 2, 3)


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
