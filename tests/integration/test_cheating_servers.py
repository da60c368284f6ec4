"""What a server gains that cheats in whole runs without noise, where the sum of few shows a contribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.encoder import encoder, encoder_federation
from support.toy import DIMENSION, Floats, WideTrainer, config, examples, federation, split

from privet.client import MOST_FAILED_OPENINGS
from privet.federation import Federation
from privet.messages import FINISH, OPEN, ROUND, TAG, digest
from privet.protocol import Ask, Replies, RoundAborted, RoundId, Steps
from privet.sealing.bfv import BfvKey
from privet.wire import Message

TARGET = 2
OTHERS = (1, 3, 4)


def masked(attempts: int = 1, rounds: int = 1, privacy: Any = None) -> Federation:
    asked = config(
        system={"kind": "fedavg" if privacy is None else "dp_lora"},
        privacy=privacy,
        sealing={"kind": "masked"},
        schedule={
            "rounds": rounds,
            "round_attempts": attempts,
            "sampling_rate": None,
            "expected_batch": None,
            "min_survivors": 4,
            "server": {"kind": "average", "learning_rate": 1.0},
        },
    )
    return federation(asked, split(examples(50), 5), trainer=WideTrainer)


def contributions(f: Federation) -> dict[int, Any]:
    """What each client hands to its seal, as the run goes."""
    seen: dict[int, Any] = {}
    for party, client in f.clients.items():
        honest = client.sealing.seal

        def seal(round: RoundId, values: Any, *rest: Any, party: int = party, honest: Any = honest) -> Any:
            seen[party] = values
            return honest(round, values, *rest)

        client.sealing.seal = seal  # type: ignore[method-assign]  # watches
    return seen


def test_others_cannot_be_made_to_contribute_nothing() -> None:
    """An adapter that is not finite makes a contribution zero; sent to all but one, the sum would be that one's."""
    f = masked()
    seen = contributions(f)

    def cheat(steps: Steps[Any]) -> Steps[Any]:
        ask = next(steps)
        while True:
            if ask.op == ROUND:
                poison: Floats = np.full(DIMENSION, np.nan, np.float32)
                others = {p: {**ask.body, "adapter": poison} for p in f.clients if p != TARGET}
                ask = replace(ask, per_node=others)
            try:
                ask = steps.send((yield ask))
            except StopIteration as stop:
                return stop.value

    f.engine.run(cheat(f.server.steps()))
    assert f.server.aggregator is not None
    assert all(not seen[party].any() for party in f.clients if party != TARGET), (
        "the others contribute nothing"
    )
    opened = f.server.aggregator.flat
    alone = f.server.system.pipeline.backward(seen[TARGET])
    assert np.abs(seen[TARGET]).max() > 100
    assert not np.allclose(opened, alone, atol=1e-3), "the sum is not the contribution of the one"


def test_no_adapter_that_a_question_does_not_hold_is_contributed_to() -> None:
    """Under a sealed state: a participant's poison for all but one would leave the sum to that one, masks or not."""
    f = sealed_run("encrypted+masked")
    states = f.clients[0].sealing.states
    assert states is not None

    def cheat() -> Steps[None]:
        yield from f.server._enrol()
        yield from f.server.sealing.prepare(RoundId(0))
        assert (yield from finish(0)) == dict.fromkeys(OTHERS, "early-state")
        assert (yield from contribute(0)) == {}, "on what all agreed on"
        ask = next(steps := f.server.steps())
        while not (ask.op == ROUND and ask.body["number"] == 1):
            ask = steps.send((yield ask))
        assert (yield from finish(1)) == {}, (
            "a state of the round that is due is taken in, whichever member signed it"
        )
        assert (yield from contribute(1)) == dict.fromkeys(f.clients, "no-state"), "but nothing is made of it"
        assert (yield from contribute(2)) == dict.fromkeys(f.clients, "run-over")

    def finish(rounds: int) -> Steps[dict[int, str]]:
        poison = replace(f.clients[0].aggregator, flat=np.full(DIMENSION, 1e30, np.float32))
        if rounds:
            poison.rounds, poison.optimiser = rounds, replace(poison.optimiser, steps=rounds)
        body: Any = {"rounds": rounds, "state": states.seal(poison.to_bytes(), rounds)}
        return refusals((yield Ask(FINISH, body, to=OTHERS)))

    def contribute(number: int) -> Steps[dict[int, str]]:
        body: Any = {"number": number, "attempt": 0, "size": DIMENSION}
        message = replace(f.server.messages[ROUND], reply=f.server.answer(DIMENSION))
        return refusals((yield Ask(ROUND, body, message=message)))

    f.engine.run(cheat())


def test_a_server_cannot_ask_for_the_key_by_what_does_and_does_not_open() -> None:
    """Whether a ciphertext of the server's own choice opens may tell a coefficient of the secret key."""
    f = sealed_run("encrypted")
    foreign = BfvKey(f.server.sealing.scheme.bfv, bytes(64))  # type: ignore[attr-defined]  # this level's

    def cheat() -> Steps[None]:
        yield from f.server._enrol()
        yield from f.server.sealing.prepare(RoundId(0))
        for attempt in range(MOST_FAILED_OPENINGS):
            summed = yield from ask_round(attempt)
            unasked = {**summed, "attempt": attempt + 1}
            without = {**summed, "survivors": np.array([1, 2, 3, 4])}
            assert (yield from ask_open(unasked)) == {0: "no-contribution"}, (
                "to an attempt at which it made none"
            )
            if attempt == 0:
                assert (yield from ask_open(without)) == {0: "no-contribution"}, "or that is not in the sum"
                continue
            chosen = list(foreign.encrypt(np.ones((1, foreign._bfv.parameters.degree), np.uint64)))
            bad = {**summed, "sizes": np.array([len(chosen[0])], np.uint32), "ciphertexts": chosen[0]}
            for _ in range(2):
                assert (yield from ask_open(bad)) == {0: "bad-sum"}, (
                    "the same again tells nothing and counts once"
                )
        summed = yield from ask_round(MOST_FAILED_OPENINGS)
        assert (yield from ask_open(summed)) == {0: "failed-openings"}, "not one more, good or bad"
        assert (yield from ask_open(summed, 1)) == {}, "others open"

    def ask_round(attempt: int) -> Steps[dict[str, Any]]:
        body: Any = {"number": 0, "attempt": attempt, "size": DIMENSION}
        message = replace(f.server.messages[ROUND], reply=f.server.answer(DIMENSION))
        replies = yield Ask(ROUND, body, message=message)
        uploads = {p: {name: body[name] for name in body if name != TAG} for p, body in replies.ok.items()}
        opened = yield from f.server.sealing.open(RoundId(0, attempt), DIMENSION, uploads)
        return dict(opened.ciphertext or {})

    def ask_open(body: dict[str, Any], party: int = 0) -> Steps[dict[int, str]]:
        schema = f.server.summed(DIMENSION)
        assert schema is not None
        message = Message(schema, f.server.messages[OPEN].reply)
        return refusals((yield Ask(OPEN, body, to=(party,), message=message)))

    f.engine.run(cheat())


def test_a_server_does_not_learn_whether_two_ciphertexts_opened_to_the_same() -> None:
    """Of two that differ where a coefficient of the key decides, equal states would tell the coefficient."""
    f = sealed_run("encrypted")

    def cheat() -> Steps[None]:
        yield from f.server._enrol()
        yield from f.server.sealing.prepare(RoundId(0))
        body: Any = {"number": 0, "attempt": 0, "size": DIMENSION}
        message = replace(f.server.messages[ROUND], reply=f.server.answer(DIMENSION))
        replies = yield Ask(ROUND, body, message=message)
        first = {bytes(answer[TAG]) for answer in replies.ok.values()}  # type: ignore[arg-type]  # bytes by the schema
        assert len(first) == 1, "all begin with the same, and say so"
        uploads = {
            p: {name: answer[name] for name in answer if name != TAG} for p, answer in replies.ok.items()
        }
        opened = yield from f.server.sealing.open(RoundId(0), DIMENSION, uploads)
        schema = f.server.summed(DIMENSION)
        assert schema is not None
        states = []
        for party in (0, 1):
            message = Message(schema, f.server.messages[OPEN].reply)
            answer = (yield Ask(OPEN, opened.ciphertext or {}, to=(party,), message=message)).ok[party]
            states.append(answer["state"])
        assert f.clients[0].aggregator.to_bytes() == f.clients[1].aggregator.to_bytes(), "they are the same"
        tags = []
        for state in states:
            replies = yield Ask(FINISH, {"rounds": 1, "state": state})
            assert replies.failed == {}
            tags.append({bytes(answer[TAG]) for answer in replies.ok.values()})  # type: ignore[arg-type]  # as above
        assert [len(each) for each in tags] == [1, 1], "one question, one answer"
        assert tags[0] != tags[1], "and nothing of whether two states are equal"

    f.engine.run(cheat())


def sealed_run(level: str) -> Federation:
    asked = config(
        system={"kind": "fedavg"},
        privacy=None,
        sealing={"kind": level},
        schedule={"rounds": 2, "sampling_rate": None, "expected_batch": None, "min_survivors": 4},
    )
    return federation(asked, split(examples(50), 5), trainer=WideTrainer)


def refusals(replies: Replies) -> dict[int, str]:
    return {party: reason.removeprefix("refused: ").split(":")[0] for party, reason in replies.failed.items()}


def test_the_same_round_is_not_opened_again_without_one_client() -> None:
    """Rounded anew, or trained in another order, a client's values differ: their difference would still tell."""
    f = masked()
    seen = contributions(f)
    f.engine.run(f.server._enrol())

    def attempt(number: int, parties: tuple[int, ...]) -> Steps[Any]:
        round_id = RoundId(0, number)
        yield from f.server.sealing.prepare(round_id)
        question: Any = {"number": 0, "attempt": number, **f.server._broadcast(parties)}
        message = replace(f.server.messages[ROUND], reply=f.server.answer(DIMENSION))
        replies = yield Ask(ROUND, question, to=parties, message=message)
        return (yield from f.server.sealing.open(round_id, DIMENSION, dict(replies.ok), digest(question)))

    first = f.engine.run(attempt(0, tuple(f.clients)))
    assert first.survivors == (0, 1, 2, 3, 4)
    np.testing.assert_array_equal(first.total, np.sum(list(seen.values()), axis=0))
    for client in f.clients.values():
        honest = client.sealing.seal
        client.sealing.seal = lambda r, v, *rest, honest=honest: honest(r, v + 1, *rest)  # type: ignore[method-assign]  # rounds anew
    with pytest.raises(RoundAborted, match="opened-before"):
        f.engine.run(attempt(1, tuple(p for p in f.clients if p != TARGET)))
    assert f.engine.run(attempt(2, tuple(f.clients))).survivors == first.survivors, (
        "the same set tells nothing new"
    )


@pytest.mark.parametrize("faithful", [True, False])
def test_exact_statistics_beside_noisy_codes_are_not_opened_again_without_one_client(faithful: bool) -> None:
    """The noise of stage 2 does not make another contribution of what stage 1 sends as it is."""
    system = {"kind": "dr_encoder", "faithful": faithful}
    f = encoder_federation(encoder(system=system, schedule={"min_survivors": 4}), parties=5)
    f.engine.run(f.server._enrol())

    def attempt(number: int, parties: tuple[int, ...]) -> Steps[Any]:
        round_id = RoundId(0, number)
        yield from f.server.sealing.prepare(round_id)
        question: Any = {"number": 0, "attempt": number, **f.server._broadcast(parties)}
        message = replace(f.server.messages[ROUND], reply=f.server.answer(f.server.size))
        replies = yield Ask(ROUND, question, to=parties, message=message)
        return (yield from f.server.sealing.open(round_id, f.server.size, dict(replies.ok), digest(question)))

    everybody = tuple(f.clients)
    others = tuple(p for p in everybody if p != TARGET)
    assert f.engine.run(attempt(0, everybody)).survivors == everybody
    for client in f.clients.values():
        honest = client.sealing.seal
        client.sealing.seal = lambda r, v, *rest, honest=honest: honest(r, v + 1, *rest)  # type: ignore[method-assign]  # rounds anew
    if faithful:
        with pytest.raises(RoundAborted, match="opened-before"):
            f.engine.run(attempt(1, others))
    else:
        assert f.engine.run(attempt(1, others)).survivors == others, "fresh noise, and another charge"
