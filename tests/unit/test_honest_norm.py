"""What a server that sees contributions refuses, and that it refuses no honest one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.toy import config

from privet.honest_norm import longest
from privet.protocol import RoundId
from privet.resolve import resolve
from privet.sealing import none
from privet.sealing.none import PlainClient, PlainServer
from privet.systems import System

DIMENSION = 512
BITS = 40


def system(kind: str, unit: str, **schedule: Any) -> System:
    sections: dict[str, Any] = {
        "system": {"kind": kind},
        "sealing": {"kind": "none"},
        "privacy": {"unit": unit, "noise_multiplier": 1.0, "clip_norm": 1.0},
        "schedule": schedule,
    }
    if unit == "client":
        sections["privacy"]["relation"] = "zero-out"
        sections["schedule"] |= {"sampling_rate": None, "expected_batch": None}
    if kind == "fedavg":
        sections["privacy"] = None
    return resolve(config(**sections), dimension=DIMENSION, parties=4).system


@pytest.mark.parametrize(("parties", "draws"), [(1, 2000), (4, 500)])
def test_the_longest_honest_sum_stays_below_the_bound_and_close_to_it(parties: int, draws: int) -> None:
    """False alarm: 1e-9 a draw by the lemma; the largest of the draws comes within 40 % of the bound."""
    made = system("dp_lora", "client")
    share = made.pipeline.stages[-1].mechanism  # type: ignore[union-attr]  # a pipeline of this system ends in its share
    generator = np.random.default_rng(0)
    most = float(made.pipeline.rounding.limit) * parties
    clipped = generator.standard_normal((draws, DIMENSION))
    clipped *= most / np.linalg.norm(clipped, axis=1, keepdims=True)
    noise = generator.standard_normal((draws, DIMENSION)) * share.share_std_steps * math.sqrt(parties)
    norms = np.linalg.norm(clipped + np.round(noise), axis=1)
    assert norms.max() < longest(made, parties) < 1.4 * norms.max()


def test_where_nothing_is_clipped_nothing_is_too_long() -> None:
    assert longest(system("fedavg", "client")) == math.inf


def test_the_bound_of_local_steps_grows_with_their_number() -> None:
    one, two = (
        system("dp_lora", "record", sampling_rate=0.1, expected_batch=8, local={"steps": steps})
        for steps in (1, 2)
    )
    assert 1.3 * longest(one) < longest(two) < math.inf


def opened(server: PlainServer, rows: dict[int, np.ndarray], number: int = 0) -> Any:
    client, due = PlainClient(BITS), RoundId(number, 0)
    count = len(next(iter(rows.values())))
    steps = server.open(due, count, {party: client.seal(due, row) for party, row in rows.items()})
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return ended.value.value


@pytest.fixture
def server() -> PlainServer:
    made = PlainServer(parties=4, bits=BITS, floor=2)
    made.longest = 1000.0
    return made


def rows(seed: int = 0) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {party: generator.integers(-40, 41, DIMENSION) for party in range(4)}


def test_a_long_contribution_is_refused_and_the_round_goes_on(server: PlainServer) -> None:
    sent = rows()
    found = opened(server, {**sent, 2: sent[2] * 100})
    assert found.survivors == (0, 1, 3)
    assert found.refused == {2: "longer than an honest contribution"}
    assert np.array_equal(found.total, sent[0] + sent[1] + sent[3])


def test_of_equal_contributions_one_counts(server: PlainServer) -> None:
    sent = rows()
    found = opened(server, {**sent, 3: sent[1]})
    assert found.refused == {3: "copied from another message"}
    assert np.array_equal(found.total, sent[0] + sent[1] + sent[2])


def test_a_message_of_an_earlier_round_is_refused_and_the_same_question_is_not(server: PlainServer) -> None:
    sent = rows()
    assert opened(server, sent).survivors == (0, 1, 2, 3)
    assert opened(server, sent).survivors == (0, 1, 2, 3), "an answer that is sent again is the same answer"
    assert opened(server, {**rows(1), 0: sent[2]}, 1).refused == {0: "copied from another message"}


def test_clients_that_have_nothing_to_add_are_no_copies(server: PlainServer) -> None:
    nothing = np.zeros(DIMENSION, np.int64)
    assert opened(server, {**rows(), 0: nothing, 1: nothing}).survivors == (0, 1, 2, 3)


def test_a_few_exact_statistics_that_are_rounded_alike_again_are_no_copy(server: PlainServer) -> None:
    few = {party: np.arange(8) + 100 * party for party in range(4)}
    for number in range(3):
        found = opened(server, few, number)
        assert found.survivors == (0, 1, 2, 3)
        assert found.refused == {}


def test_what_is_remembered_does_not_grow_with_the_run(
    server: PlainServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(none, "REMEMBERED", 8)
    for number in range(5):
        opened(server, rows(number), number)
    assert len(server._seen) == 8
    assert opened(server, {**rows(5), 0: rows(4)[2]}, 5).refused == {0: "copied from another message"}
