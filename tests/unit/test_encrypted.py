"""Parts of the encrypted levels: what is added, what a message may hold, what a plan says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ciphertexts import cancelling
from support.encrypted_parts import PARAMETERS, ROUND, cohort, finish, prepare

from privet import wire
from privet.errors import PrivetError
from privet.protocol import RoundAborted, RoundId
from privet.sealing import ckks, encrypted, encrypted_masked
from privet.sealing.additive import CiphertextRefused
from privet.sealing.base import SealingRefused
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_messages import Upload, split
from privet.sealing.encrypted_round import EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.masking_messages import Context
from privet.sealing.roster import Member, Roster
from privet.sealing.run_key import ADVERTISE, RunKey
from privet.sealing.run_key_server import RunKeyServer
from privet.store import MemoryStore
from privet.wire import Body


def test_the_server_adds_only_what_was_made_for_this_round_and_key() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}
    later = {party: clients[party].seal(RoundId(0, 1), np.arange(10)) for party in range(4)}
    opened = finish(server.open(ROUND, 10, {**replies, 1: later[1]}))
    assert opened.survivors == (0, 2, 3)
    assert opened.refused[1].startswith("wrong-round")
    uploads, refused = server._accept(ROUND, 10, replies, epoch=1)
    assert (uploads, set(refused)) == ({}, {0, 1, 2, 3})
    swapped = {**replies, 1: replies[2]}
    assert finish(server.open(ROUND, 10, swapped)).refused[1].startswith("bad-signature")
    server.keys._name = bytes(16)
    with pytest.raises(RoundAborted, match="other-run-key"):
        finish(server.open(ROUND, 10, replies))


def test_the_server_adds_no_fewer_than_the_floor() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in (0, 1)}
    with pytest.raises(RoundAborted, match="2 of 3"):
        finish(server.open(ROUND, 10, replies))


def test_clients_whose_ciphertexts_cancel_are_refused_and_named() -> None:
    _, clients, server = cohort(5)
    prepare(server, clients)
    replies = {party: client.seal(ROUND, np.arange(10)) for party, client in enumerate(clients)}
    halves = cancelling(clients[0].scheme.bfv)  # type: ignore[attr-defined]  # BFV's
    replies |= {party: clients[party]._send(ROUND, [half]) for party, half in enumerate(halves)}
    opened = finish(server.open(ROUND, 10, replies))
    assert opened.survivors == (2, 3, 4)
    assert set(opened.refused) == {0, 1}
    assert all("unpacks to more" in reason for reason in opened.refused.values())
    np.testing.assert_array_equal(clients[2].unseal(ROUND, opened.ciphertext, 10), 3 * np.arange(10))


def test_whose_ciphertexts_add_up_to_none_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an upload is no seed, two can choose theirs so that their sum hides nothing, which SEAL does not make."""
    monkeypatch.setattr(BfvParameters, "most_fresh_bytes", BfvParameters.most_sum_bytes)
    _, clients, server = cohort(5)
    prepare(server, clients)
    replies = {party: client.seal(ROUND, np.arange(10)) for party, client in enumerate(clients)}
    halves = cancelling(clients[0].scheme.bfv)  # type: ignore[attr-defined]  # BFV's
    replies |= {party: clients[party]._send(ROUND, [half]) for party, half in enumerate(halves)}
    with pytest.raises(RoundAborted, match=r"2 of 3 .*; party 0: bad-ciphertext.*; party 1: bad-ciphertext"):
        finish(server.open(ROUND, 10, {party: replies[party] for party in range(4)}))
    opened = finish(server.open(ROUND, 10, replies))
    assert opened.survivors == (2, 3, 4)
    assert opened.refused == dict.fromkeys((0, 1), "bad-ciphertext: those of parties 0, 1 add up to none")


def test_ciphertexts_that_are_refused_together_for_no_known_reason_end_the_attempt_with_their_senders_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}

    def refuse(column: Any) -> Any:
        raise CiphertextRefused("odd")

    monkeypatch.setattr(server.scheme, "add", refuse)
    with pytest.raises(RoundAborted, match="parties 0, 1, 2, 3 are refused together: odd"):
        finish(server.open(ROUND, 10, replies))


def test_a_settled_client_whose_ciphertexts_are_refused_is_named() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}
    finish(server.open(ROUND, 10, replies))
    replies[2] = {**replies[2], "signature": bytes(64)}
    with pytest.raises(RoundAborted, match="missing now; it is party 2; party 2: bad-signature"):
        finish(server.open(ROUND, 10, replies))


def test_a_sum_under_another_key_is_refused() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}
    summed = finish(server.open(ROUND, 10, replies)).ciphertext
    with pytest.raises(SealingRefused, match="other-run-key"):
        clients[0].unseal(ROUND, {**summed, "key": bytes(16)}, 10)
    with pytest.raises(SealingRefused, match="malformed"):
        clients[0].unseal(ROUND, {**summed, "survivors": np.array([0, 0, 1])}, 10)
    with pytest.raises(SealingRefused, match="malformed"):
        clients[0].unseal(ROUND, summed, 20_000)


def test_an_unsigned_roster_is_not_accepted() -> None:
    identities = [Identity.generate() for _ in range(3)]
    roster = Roster("group", tuple(Member(f"site {i}", k.public_key) for i, k in enumerate(identities)))
    with pytest.raises(PrivetError, match="signed"):
        encrypted.encrypted_client(
            run="run",
            roster=roster,
            identity=identities[0],
            store=MemoryStore(),
            parameters=PARAMETERS,
            least=3,
        )
    with pytest.raises(PrivetError, match="signed"):
        ckks.ckks_client(run="run", roster=roster, identity=identities[0], store=MemoryStore(), least=3)


def test_two_parties_are_refused() -> None:
    identities = [Identity.generate() for _ in range(2)]
    roster = Roster.in_memory(["a", "b"], identities)
    with pytest.raises(PrivetError, match="fewer than 3"):
        encrypted.encrypted_server(
            run="run", roster=roster, parameters=PARAMETERS, floor=2, store=MemoryStore()
        )


@pytest.mark.parametrize(
    ("op", "body", "reason"),
    [
        (ADVERTISE, {"scope": bytes(32)}, "other-run"),
        (ADVERTISE, {}, "malformed"),
        ("recover.unmask", {}, "unknown-operation"),
        ("keys.run.steal", {}, "unknown-operation"),
    ],
)
def test_questions_of_another_run_or_form_are_refused(op: str, body: Body, reason: str) -> None:
    _, clients, _ = cohort()
    with pytest.raises(SealingRefused, match=reason):
        clients[0].handle(op, body)


def test_values_of_any_length_make_the_round_trip() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    for number, count in enumerate((1, 2, 8191, 8192, 8193, 30_000)):
        round = RoundId(number)
        values = [np.random.default_rng(p).integers(-(1 << 15), 1 << 15, count) for p in range(4)]
        replies = {p: client.seal(round, values[p]) for p, client in enumerate(clients)}
        opened = finish(server.open(round, count, replies))
        np.testing.assert_array_equal(clients[2].unseal(round, opened.ciphertext, count), sum(values))


def test_a_sealed_message_survives_the_wire_and_fits_its_schema() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    body = clients[0].seal(ROUND, np.arange(20_000))
    schema = server.sealed(20_000)
    data = wire.encode(body, schema)
    assert len(data) <= schema.max_bytes()
    again = wire.decode(data, schema)
    assert wire.encode(again, schema) == data
    with pytest.raises(wire.WireError, match="wrong-shape"):
        wire.decode(data, server.sealed(40_000))


@given(sizes=st.lists(st.integers(0, 50), max_size=8), extra=st.integers(-3, 3))
@settings(max_examples=100)
def test_sizes_that_do_not_add_up_are_refused(sizes: list[int], extra: int) -> None:
    data = bytes(max(0, sum(sizes) + extra))
    given_sizes = np.array(sizes, np.uint32)
    if len(data) == sum(sizes):
        assert [len(piece) for piece in split(data, given_sizes)] == sizes
    else:
        with pytest.raises(CiphertextRefused):
            split(data, given_sizes)


@given(data=st.binary(max_size=400))
@settings(max_examples=200)
def test_rubbish_is_no_ciphertext(data: bytes) -> None:
    scheme = _scheme()
    with pytest.raises(CiphertextRefused):
        scheme.load(data, fresh=True)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=150)
def test_every_flipped_bit_of_a_signed_upload_is_refused(position: int, bit: int) -> None:
    server, reply = _sealed_reply()
    data = bytearray(wire.encode(reply, server.sealed(100)))
    data[position % len(data)] ^= 1 << bit
    try:
        changed = wire.decode(bytes(data), server.sealed(100))
    except wire.WireError:
        return
    uploads, refused = server._accept(ROUND, 100, {0: changed})
    assert not uploads
    assert refused


_made: list[Any] = []


def _sealed_reply() -> tuple[EncryptedServer, Body]:
    if not _made:
        _, clients, server = cohort()
        prepare(server, clients)
        _made.extend([server, clients[0].seal(ROUND, np.arange(100))])
    return _made[0], _made[1]


def _scheme() -> encrypted.BfvScheme:
    scheme = _sealed_reply()[0].scheme
    assert isinstance(scheme, encrypted.BfvScheme)
    return scheme


def test_an_upload_signs_every_field() -> None:
    context = Context("run", cohort()[0])
    upload = Upload.of(ROUND, bytes(16), [b"abc", b"de"])
    base = wire.encode(upload.content(context, 1))
    others = [
        Upload.of(RoundId(1), bytes(16), [b"abc", b"de"]).content(context, 1),
        Upload.of(RoundId(0, 1), bytes(16), [b"abc", b"de"]).content(context, 1),
        Upload.of(ROUND, bytes(15) + b"k", [b"abc", b"de"]).content(context, 1),
        Upload.of(ROUND, bytes(16), [b"ab", b"cde"]).content(context, 1),
        Upload.of(ROUND, bytes(16), [b"abc", b"dE"]).content(context, 1),
        Upload.of(ROUND, bytes(16), [b"abc", b"de"], epoch=1).content(context, 1),
        upload.content(context, 2),
        upload.content(Context("other", context.roster), 1),
    ]
    assert base not in [wire.encode(other) for other in others]
    assert len({wire.encode(other) for other in others}) == len(others)


def test_plans_say_who_could_open_what_and_what_it_costs() -> None:
    count = 1 << 20
    parameters = BfvParameters.for_values(16, 3)
    one = encrypted.plan(count=count, parameters=parameters, parties=3)
    assert "any one client" in one.who_can_open
    assert one.who_sees_sum == "clients only"
    assert 0.6 < one.upload_bytes / (4 * count) < 0.75
    both = encrypted_masked.plan(count=count, parameters=parameters, parties=3)
    assert "any one client" not in both.who_can_open
    assert both.who_sees_sum == "clients only"
    assert both.seconds > one.seconds
    compared = ckks.plan(count=count, parties=3)
    assert 18 < compared.upload_bytes / (4 * count) < 22
    assert "comparison" in compared.warnings[0]


@pytest.mark.parametrize(("bits", "parties"), [(16, 3), (16, 4), (20, 10), (40, 3)])
def test_planned_bytes_are_within_five_percent_of_real_ones(bits: int, parties: int) -> None:
    parameters = BfvParameters.for_values(bits, parties)
    scheme = encrypted.BfvScheme(parameters)
    holder = scheme.holder(RunKey(bytes(range(32))), MemoryStore())
    count = 4 * parameters.values_per_ciphertext
    values = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, count)
    real = sum(map(len, holder.seal(values)))
    planned = encrypted.plan(count=count, parameters=parameters, parties=parties).upload_bytes
    assert planned == pytest.approx(real, rel=0.05)


def test_server_messages_are_disjoint_from_those_of_masks() -> None:
    roster, clients, _ = cohort()
    operations = RunKeyServer(Context("run", roster), "p", 100).messages()
    server = encrypted_masked.EncryptedMaskedServer(
        run="run", roster=roster, parameters=PARAMETERS, floor=3, store=MemoryStore()
    )
    assert set(operations) < set(server.messages())
    assert len(server.messages()) == len(operations) + len(server.masking.messages())
    assert clients[0].party == 0
