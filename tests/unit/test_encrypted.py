"""Parts of the encrypted levels: who gets the run's key, what a message may hold, what a plan says."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet import wire
from privet.errors import PrivetError
from privet.protocol import Ask, Replies, RoundAborted, RoundId, Steps
from privet.sealing import ckks, encrypted, encrypted_masked
from privet.sealing.additive import CiphertextRefused
from privet.sealing.base import SealingRefused
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_messages import Upload, split
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.masking_messages import Context
from privet.sealing.roster import Member, Roster
from privet.sealing.run_key import ACCEPT, ADVERTISE, WRAP, RunKey
from privet.sealing.run_key_server import RunKeyServer
from privet.store import MemoryStore
from privet.wire import Body

PARAMETERS = BfvParameters.for_values(16, 4)
ROUND = RoundId(0)


def cohort(size: int = 4, run: str = "run") -> tuple[Roster, list[EncryptedClient], EncryptedServer]:
    identities = [Identity.generate() for _ in range(size)]
    roster = Roster.in_memory([f"site {i}" for i in range(size)], identities)
    clients = [
        encrypted.encrypted_client(
            run=run, roster=roster, identity=identity, store=MemoryStore(), parameters=PARAMETERS, least=3
        )
        for identity in identities
    ]
    server = encrypted.encrypted_server(
        run=run, roster=roster, parameters=PARAMETERS, floor=3, store=MemoryStore()
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


def test_lowest_number_that_answers_makes_the_key_and_all_others_get_it() -> None:
    _, clients, server = cohort()
    assert prepare(server, clients) == ((0, 1, 2, 3), [ADVERTISE, WRAP, ACCEPT])
    assert len(names(clients)) == 1
    assert prepare(server, clients) == ((0, 1, 2, 3), [])


def test_a_party_that_was_away_gets_the_key_from_a_holder_later() -> None:
    _, clients, server = cohort()
    holders, _ = prepare(server, clients, silent={ADVERTISE: (0,)})
    assert holders == (1, 2, 3)
    assert prepare(server, clients) == ((0, 1, 2, 3), [ADVERTISE, WRAP, ACCEPT])
    assert len(names(clients)) == 1


def test_a_maker_whose_answer_was_lost_takes_the_key_that_the_others_use() -> None:
    _, clients, server = cohort()
    holders, asked = prepare(server, clients, lost={WRAP: (0,)})
    assert asked.count(WRAP) == 2
    assert 1 in holders
    holders, _ = prepare(server, clients)
    assert holders == (0, 1, 2, 3)
    assert len(names(clients)) == 1


def test_a_party_that_sealed_under_a_key_does_not_change_it() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    kept = clients[2].keys.key.name
    clients[2].seal(ROUND, np.arange(10))
    fresh = encrypted.encrypted_server(
        run="run", roster=clients[0]._context.roster, parameters=PARAMETERS, floor=3, store=MemoryStore()
    )
    for client in (clients[0], clients[1], clients[3]):
        client.keys._key = RunKey(bytes(range(32)))
    holders, _ = prepare(fresh, clients)
    assert holders == (0, 1, 3)
    assert clients[2].keys.key.name == kept


@pytest.mark.parametrize("lie", ["ephemeral", "signatures"])
def test_a_maker_whose_key_nobody_can_open_is_passed_over(lie: str) -> None:
    """Else the others would refuse what it wraps at each attempt, and look as if they were away."""
    _, clients, server = cohort()
    honest = clients[0].handle

    def handle(op: str, body: Body) -> Body:
        answer = honest(op, body)
        if op == WRAP:
            value = answer[lie]
            answer = {**answer, lie: np.zeros_like(value) if isinstance(value, np.ndarray) else bytes(32)}
        return answer

    clients[0].handle = handle  # type: ignore[method-assign]  # cheats
    holders, asked = prepare(server, clients)
    assert set(holders) >= {1, 2, 3}
    assert asked.count(WRAP) == 2
    assert len(names(clients[1:])) == 1


def test_a_maker_that_wraps_rightly_for_one_alone_holds_up_nobody() -> None:
    """The next one hands the key on in the same phase, and the first is asked last from then on."""
    _, clients, server = cohort(6)
    honest, made = clients[0].handle, []

    def handle(op: str, body: Body) -> Body:
        answer = honest(op, body)
        if op == WRAP:
            made.append(op)
            answer["signatures"] = np.array(answer["signatures"])
            answer["signatures"][1:, 0] ^= 1
        return answer

    clients[0].handle = handle  # type: ignore[method-assign]  # cheats
    holders, asked = prepare(server, clients)
    assert holders == (0, 1, 2, 3, 4, 5)
    assert asked == [ADVERTISE, WRAP, ACCEPT, WRAP, ACCEPT]
    assert len(names(clients)) == 1
    server.keys.forget([5])
    clients[5].keys._key = None
    assert prepare(server, clients)[0] == (0, 1, 2, 3, 4, 5)
    assert len(made) == 1


@pytest.mark.parametrize(("reason", "wraps"), [("refused", 4), ("silent", 1)])
def test_a_receiver_that_takes_no_key_stays_without_it_alone(reason: str, wraps: int) -> None:
    _, clients, server = cohort(5)
    honest = clients[4].handle

    def handle(op: str, body: Body) -> Body:
        if op == ACCEPT:
            raise SealingRefused("bad-signature")
        return honest(op, body)

    clients[4].handle = handle  # type: ignore[method-assign]  # cheats
    silent = {ACCEPT: (4,)} if reason == "silent" else None
    holders, asked = prepare(server, clients, silent=silent)
    assert holders == (0, 1, 2, 3)
    assert asked.count(WRAP) == wraps


def test_a_holder_that_names_another_key_hands_nothing_on() -> None:
    _, clients, server = cohort()
    prepare(server, clients, silent={ADVERTISE: (3,)})
    name, honest = server.keys.name, clients[0].handle
    clients[0].handle = lambda op, body: {**honest(op, body), **({"key": bytes(16)} if op == WRAP else {})}  # type: ignore[method-assign]  # cheats
    assert prepare(server, clients)[0] == (0, 1, 2, 3)
    assert server.keys.name == name == clients[3].keys.key.name


def test_too_few_holders_abort_the_round() -> None:
    _, clients, server = cohort()
    with pytest.raises(RoundAborted, match="2 of 3"):
        prepare(server, clients, silent={ADVERTISE: (0, 1)})
    _, clients, server = cohort()
    with pytest.raises(RoundAborted, match="no client"):
        prepare(server, clients, silent={ADVERTISE: (0, 1), WRAP: (2, 3)})


def test_a_client_that_did_not_answer_a_round_is_asked_for_its_key_again() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in (0, 1, 2)}
    _finish(server.open(ROUND, 10, replies))
    holders, asked = prepare(server, clients)
    assert (holders, asked) == ((0, 1, 2, 3), [ADVERTISE])


def _finish(steps: Steps[Any]) -> Any:
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the server asked something")


def test_the_server_adds_only_what_was_made_for_this_round_and_key() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}
    later = {party: clients[party].seal(RoundId(0, 1), np.arange(10)) for party in range(4)}
    opened = _finish(server.open(ROUND, 10, {**replies, 1: later[1]}))
    assert opened.survivors == (0, 2, 3)
    assert opened.refused[1].startswith("wrong-round")
    uploads, refused = server._accept(ROUND, 10, replies, epoch=1)
    assert (uploads, set(refused)) == ({}, {0, 1, 2, 3})
    swapped = {**replies, 1: replies[2]}
    assert _finish(server.open(ROUND, 10, swapped)).refused[1].startswith("bad-signature")
    server.keys._name = bytes(16)
    with pytest.raises(RoundAborted, match="other-run-key"):
        _finish(server.open(ROUND, 10, replies))


def test_the_server_adds_no_fewer_than_the_floor() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in (0, 1)}
    with pytest.raises(RoundAborted, match="2 of 3"):
        _finish(server.open(ROUND, 10, replies))


def test_a_sum_under_another_key_is_refused() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    replies = {party: clients[party].seal(ROUND, np.arange(10)) for party in range(4)}
    summed = _finish(server.open(ROUND, 10, replies)).ciphertext
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


def test_a_holder_wraps_the_key_for_no_one_twice_and_not_for_itself() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    adverts = {p: clients[p].handle(ADVERTISE, {"scope": clients[p].keys.scope}) for p in (0, 1)}
    for parties in ([1, 1], [0]):
        with pytest.raises(SealingRefused, match="bad-receivers"):
            clients[0].handle(WRAP, _wrap_question(parties, adverts))
    with pytest.raises(SealingRefused, match="bad-advert"):
        clients[0].handle(WRAP, _wrap_question([2], {2: adverts[1]}))


def _wrap_question(parties: list[int], adverts: Mapping[int, Mapping[str, Any]]) -> Body:
    def rows(name: str) -> Any:
        return np.stack([np.frombuffer(adverts[party][name], np.uint8) for party in parties])

    return {
        "parties": np.array(parties, np.int64),
        "publics": rows("public"),
        "signatures": rows("signature"),
    }


def test_the_server_ignores_adverts_that_their_party_did_not_sign() -> None:
    _, clients, server = cohort()
    steps = server.prepare(ROUND)
    next(steps)
    answers = {p: c.handle(ADVERTISE, {"scope": c.keys.scope}) for p, c in enumerate(clients)}
    answers[1] = {**answers[1], "signature": answers[2]["signature"]}
    ask = steps.send(Replies(answers, {}))
    assert ask.op == WRAP
    receivers: Any = ask.body["parties"]
    assert receivers.tolist() == [2, 3]


def test_the_server_ignores_adverts_of_keys_of_low_order() -> None:
    """Nothing agrees with such a key, though its party signed it; asked to wrap for it, every holder refuses."""
    roster, clients, server = cohort()
    steps = server.prepare(ROUND)
    next(steps)
    answers = {p: c.handle(ADVERTISE, {"scope": c.keys.scope}) for p, c in enumerate(clients)}
    content: Body = {"scope": clients[1].keys.scope, "party": 1, "public": bytes(32)}
    signature = clients[1]._identity.sign("run key advert", roster.hash, content)
    answers[1] = {"public": bytes(32), "signature": signature, "key": b""}
    ask = steps.send(Replies(answers, {}))
    assert ask.op == WRAP
    receivers: Any = ask.body["parties"]
    assert receivers.tolist() == [2, 3]
    assert clients[0].handle(WRAP, ask.body)["key"] == clients[0].keys.key.name


def test_a_run_key_shows_and_pickles_nothing() -> None:
    key = RunKey(bytes(range(32)))
    assert bytes(range(32)).hex() not in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert key.name == RunKey(bytes(range(32))).name != RunKey(bytes(32)).name
    assert key.derive("a") != key.derive("b")


def test_values_of_any_length_make_the_round_trip() -> None:
    _, clients, server = cohort()
    prepare(server, clients)
    for number, count in enumerate((1, 2, 8191, 8192, 8193, 30_000)):
        round = RoundId(number)
        values = [np.random.default_rng(p).integers(-(1 << 15), 1 << 15, count) for p in range(4)]
        replies = {p: client.seal(round, values[p]) for p, client in enumerate(clients)}
        opened = _finish(server.open(round, count, replies))
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
