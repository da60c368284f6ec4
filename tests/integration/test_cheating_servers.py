"""What a server gains that cheats in whole runs without noise, where the sum of few shows a contribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.encoder import encoder, encoder_federation
from support.toy import DIMENSION, Floats, WideTrainer, config, examples, federation, split

from privet.federation import Federation
from privet.messages import ROUND, digest
from privet.protocol import Ask, RoundAborted, RoundId, Steps

TARGET = 2


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
