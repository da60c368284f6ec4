"""The run's key: who makes it, who gets it from whom, and what stops neither."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support.encrypted_parts import PARAMETERS, ROUND, cohort, finish, names, prepare

from privet.protocol import Replies, RoundAborted
from privet.sealing import encrypted
from privet.sealing.base import SealingRefused
from privet.sealing.encrypted_round import EncryptedClient
from privet.sealing.run_key import ACCEPT, ADVERTISE, WRAP, RunKey
from privet.store import MemoryStore
from privet.wire import Body


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


@pytest.mark.parametrize("liars", [(0,), (3,), (0, 3)])
def test_a_few_who_claim_a_key_and_hand_it_to_nobody_are_not_believed(liars: tuple[int, ...]) -> None:
    """Also after a restart of the server, when another holds the run's key, and as many say so as for the false one."""
    for holding in (False, True):
        _, clients, server = cohort(5)
        if holding:
            with pytest.raises(
                RoundAborted, match=r"2 of 3 .*; held by party 0, party 1; party 2: no answer"
            ):
                prepare(server, clients, silent={ADVERTISE: (2, 3, 4)})
            server.keys.forget(range(5))
        for liar in liars:
            cheat(clients[liar])
        holders, _ = prepare(server, clients)
        assert set(holders) >= {0, 1, 2, 3, 4} - set(liars)
        assert len({clients[party].keys.key.name for party in holders}) == 1


def test_a_holder_whose_answer_is_lost_is_believed_after_a_restart_of_the_server() -> None:
    """Else a second key would be made, which those who hold the first refuse for good."""
    _, clients, server = cohort(5)
    with pytest.raises(RoundAborted, match="2 of 3"):
        prepare(server, clients, silent={ADVERTISE: (2, 3, 4)})
    for client in clients[:2]:
        client.keys.mark_used()
    name = clients[0].keys.key.name
    server.keys.forget(range(5))
    with pytest.raises(RoundAborted, match="1 of 3"):
        prepare(server, clients, silent={ADVERTISE: (1, 2)}, lost={WRAP: (0,)})
    assert prepare(server, clients)[0] == (0, 1, 2, 3, 4)
    assert {client.keys.key.name for client in clients} == {name}


def cheat(client: EncryptedClient) -> None:
    honest = client.handle

    def handle(op: str, body: Body) -> Body:
        if op == WRAP:
            raise SealingRefused("malformed")
        answer = honest(op, body)
        return {**answer, "key": bytes([255] * 16)} if op == ADVERTISE else answer

    client.handle = handle  # type: ignore[method-assign]  # cheats


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
    finish(server.open(ROUND, 10, replies))
    holders, asked = prepare(server, clients)
    assert (holders, asked) == ((0, 1, 2, 3), [ADVERTISE])


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
