"""What one client of an encrypted run can spoil: its own part, and not the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.toy import DIMENSION, config, examples, federation, split

from privet import wire
from privet.aggregate import state_schema
from privet.codecs import pack
from privet.codecs.random_projection import RandomProjection
from privet.config import Dropout
from privet.errors import PrivetError
from privet.federation import Federation
from privet.messages import FINISH, OPEN, ROUND, TAG
from privet.protocol import Replies, RoundId
from privet.sealing.base import SealingRefused
from privet.server import OTHER_STATE, _mostly_refused
from privet.wire import Body

CHEAT = 0
"""The lowest number is asked first to open the sum."""


class Account:
    """A site's guard that counts what it is charged."""

    def __init__(self) -> None:
        self.charged: list[RoundId] = []

    def admit(self, due: RoundId) -> None:
        self.charged.append(due)


def encrypted(
    cheat: Callable[[str, Body, dict[str, Any]], Body], codec: dict[str, Any] | None = None, **schedule: Any
) -> Federation:
    """Five clients, of which four are demanded; ``cheat`` changes the answers of one of them."""
    asked = config(
        sealing={"kind": "encrypted"},
        schedule={"rounds": 3, "min_survivors": 4, **schedule},
        codec=codec or {"kind": "identity"},
    )
    f = federation(asked, split(examples(60), 5))
    for client in f.clients.values():
        client.guard = Account()
    honest = f.clients[CHEAT].handle
    f.clients[CHEAT].handle = lambda op, body: cheat(op, body, dict(honest(op, body)))  # type: ignore[method-assign]  # cheats
    return f


def told_by(f: Federation) -> list[tuple[str, dict[str, Any]]]:
    """What the server tells while it runs."""
    told: list[tuple[str, dict[str, Any]]] = []
    f.server.observe = lambda kind, facts: told.append((kind, facts))
    f.engine.run(f.server.steps())
    return told


def rounds(told: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [facts for kind, facts in told if kind == "round"]


def charges(f: Federation) -> list[list[int]]:
    """Rounds that each honest site was charged for."""
    accounts = [client.guard for party, client in f.clients.items() if party != CHEAT]
    return [[due.number for due in each.charged] for each in accounts if isinstance(each, Account)]


def agree(f: Federation) -> bool:
    flats = [client.aggregator.flat for party, client in f.clients.items() if party != CHEAT]
    return all(np.array_equal(flats[0], flat) for flat in flats)


@pytest.mark.parametrize("size", [1 << 62, 0, -1])
def test_a_size_that_no_codec_has_is_refused_and_another_client_opens(size: int) -> None:
    def lie(op: str, body: Body, answer: dict[str, Any]) -> Body:
        return {**answer, "size": size} if op == OPEN else answer

    f = encrypted(lie)
    told = told_by(f)
    assert [row["attempt"] for row in rounds(told)] == [0, 0, 0]
    assert f.server.size == f.clients[1].aggregator.size
    assert agree(f)


@pytest.mark.parametrize(
    ("lie", "since", "attempts", "openers"),
    [
        ({"state": bytes(400)}, 0, [0, 1, 0], [0, 1, 1, 1]),
        ({"size": 1 << 20}, 0, [0, 1, 0], [0, 1, 1, 1]),
        ({"state": bytes(400)}, 2, [0, 0, 0], [0, 0, 0, 1]),
    ],
)
def test_a_state_that_the_others_refuse_is_opened_anew_by_the_next(
    lie: dict[str, Any], since: int, attempts: list[int], openers: list[int]
) -> None:
    """Also the last one, which no round follows. Whoever lied is asked last from then on, and no site is charged."""
    f = encrypted(
        lambda op, body, answer: {**answer, **lie} if op == OPEN and body["number"] >= since else answer
    )
    asked: list[tuple[str, int]] = []
    f.engine.tap = lambda op, party, question, answer: asked.append((op, party))  # type: ignore[attr-defined]  # local
    told = told_by(f)
    assert f.server.progress.number == 3
    assert [row["attempt"] for row in rounds(told)] == attempts
    reasons = [facts["reason"] for kind, facts in told if kind == "aborted"]
    assert len(reasons) == sum(attempts)
    assert all(reason.endswith("opened the last sum") for reason in reasons)
    assert [party for op, party in asked if op == OPEN] == openers
    assert f.server.doubted == [CHEAT]
    assert set(told[-1][1]["holders"]) >= {1, 2, 3, 4}
    assert charges(f) == [[0, 1, 2]] * 4
    assert agree(f)


def test_the_doubted_are_asked_after_all_others_and_whoever_lied_last_comes_last() -> None:
    f = encrypted(lambda op, body, answer: answer, rounds=1)
    f.server.doubted = [1, 0]
    asked: list[int] = []
    for party, client in f.clients.items():

        def handle(op: str, body: Body, party: int = party, honest: Any = client.handle) -> Body:
            if op == OPEN:
                asked.append(party)
                if party != 0:
                    raise SealingRefused("busy")
            answer: Body = honest(op, body)
            return answer

        client.handle = handle  # type: ignore[method-assign]  # watches
    told_by(f)
    assert asked == [2, 3, 4, 1, 0]
    assert f.server.progress.number == 1


PROJECTION: dict[str, Any] = {"kind": "random_projection", "ratio": 4, "allow_useless": True}
BROKEN_CODEC: dict[str, Any] = {**pack(RandomProjection(DIMENSION, 5, 1)), "codec": b"{}"}
ONES = np.ones(DIMENSION, np.float32)


@pytest.mark.parametrize(
    ("lie", "codec"),
    [
        ({"rounds": 1 << 40}, None),
        ({"rounds": 1 << 40, **BROKEN_CODEC}, None),
        ({"rounds": 0}, None),
        ({"steps": (1 << 63) - 1}, None),
        ({"flat": ONES * np.inf}, None),
        ({"first": ONES * np.nan}, None),
        ({"second": -ONES}, None),
        ({"gathered": np.ones(DIMENSION + 1, np.float32)}, None),
        ({"gathered": ONES}, None),
        (pack(RandomProjection(DIMENSION, 5, 1)), None),
        (pack(RandomProjection(DIMENSION + 7, 6, 1)), PROJECTION),
        ({"codec": b"[" * 200_000}, PROJECTION),
    ],
)
def test_one_state_that_cannot_be_gone_on_with_costs_one_attempt_and_no_charge(
    lie: dict[str, Any], codec: dict[str, Any] | None
) -> None:
    """Whoever sealed it is silent from then on: the others have to find their way back by themselves."""
    gone: list[str] = []

    def cheat(op: str, body: Body, answer: dict[str, Any]) -> Body:
        if gone:
            raise SealingRefused("gone")
        if op != OPEN or body["number"] != 1:
            return answer
        gone.append(op)
        cheater = f.clients[CHEAT]
        state = wire.decode(cheater.aggregator.to_bytes(), state_schema(DIMENSION))
        assert cheater.sealing.states is not None
        return {**answer, "state": cheater.sealing.states.seal(wire.encode({**state, **lie}), 2)}

    f = encrypted(cheat, codec, rounds=4)
    told = told_by(f)
    assert f.server.progress.number == 4
    assert [row["attempt"] for row in rounds(told)] == [0, 0, 1, 0]
    assert charges(f) == [[0, 1, 2, 3]] * 4
    assert told[-1] == ("finished", {"holders": [1, 2, 3, 4]})
    assert agree(f)


def test_a_state_that_makes_most_clients_fail_is_opened_anew_too() -> None:
    """What no check foresaw: an engine tells no more than the type of an error."""
    assert _mostly_refused(Replies({0: {}}, {1: "failed: ValueError", 2: "failed: ValueError"}))
    assert not _mostly_refused(Replies({0: {}}, {1: "failed: ValueError", 2: "no answer"}))


def test_a_client_that_a_settled_sum_waits_for_is_named() -> None:
    """Without noise a sum is made of the same clients or not at all; one of them answers no more."""

    def cheat(op: str, body: Body, answer: dict[str, Any]) -> Body:
        if op == ROUND and body["attempt"]:
            raise SealingRefused("busy")
        return answer

    f = encrypted(cheat, rounds=1)
    f.server.sealing._fresh_noise = False  # type: ignore[attr-defined]  # as in a run without noise
    for client in f.clients.values():

        def handle(op: str, body: Body, honest: Any = client.handle) -> Body:
            if op == OPEN:
                raise SealingRefused("busy")
            answer: Body = honest(op, body)
            return answer

        client.handle = handle  # type: ignore[method-assign]  # nobody opens the sum of the first attempt
    reasons = [facts["reason"] for kind, facts in told_by(f) if kind == "aborted"]
    busy = "".join(f"; party {party}: refused: busy" for party in range(5))
    assert reasons[0] == f"no survivor opened the sum{busy}"
    assert set(reasons[1:]) == {
        "a survivor that was settled before is missing now; it is party 0; party 0: refused: busy"
    }


def test_the_silent_are_not_taken_for_clients_that_refuse_the_state() -> None:
    f = encrypted(lambda op, body, answer: answer)
    f.engine.dropouts = [Dropout(round=1, party=party, before="round") for party in (0, 1, 2)]  # type: ignore[attr-defined]  # local
    opened: list[int] = []
    f.engine.tap = lambda op, party, question, answer: opened.append(party) if op == OPEN else None  # type: ignore[attr-defined]  # local
    told = told_by(f)
    assert [kind for kind, _ in told].count("aborted") == 3
    assert opened == [0]


def test_a_client_that_names_another_state_is_left_out_alone() -> None:
    def lie(op: str, body: Body, answer: dict[str, Any]) -> Body:
        return {**answer, TAG: bytes(32)} if op in (ROUND, FINISH) else answer

    f = encrypted(lie)
    told = told_by(f)
    assert [row["survivors"] for row in rounds(told)] == [[1, 2, 3, 4]] * 3
    assert [row["missing"] for row in rounds(told)] == [{"0": OTHER_STATE}] * 3
    assert told[-1] == ("finished", {"holders": [1, 2, 3, 4]})
    assert agree(f)


@pytest.mark.parametrize(("demanded", "blamed"), [(5, "client 0 says so"), (3, "a client says so")])
def test_states_that_differ_stop_the_run_where_too_few_agree(demanded: int, blamed: str) -> None:
    """Nobody can be left out, or nobody knows whom: the error lists what each said, so that people can."""

    def lie(op: str, body: Body, answer: dict[str, Any]) -> Body:
        return {**answer, TAG: bytes(32)} if op == ROUND else answer

    f = encrypted(lie, min_survivors=demanded)
    if demanded == 3:
        for party, tag in ((1, bytes([1]) * 32), (2, bytes([2]) * 32)):
            honest = f.clients[party].handle

            def other(op: str, body: Body, tag: bytes = tag, honest: Any = honest) -> Body:
                return {**honest(op, body), TAG: tag} if op == ROUND else honest(op, body)

            f.clients[party].handle = other  # type: ignore[method-assign]  # cheats
    with pytest.raises(PrivetError, match="different adapters") as caught:
        f.engine.run(f.server.steps())
    assert "0: 00000000, 1: " in str(caught.value.given)
    assert str(caught.value.hint).startswith(blamed)
