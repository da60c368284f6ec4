"""A codec goes out when it is new or a client may lack it; else its digest does, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.encoder import RELEASES, encoder, encoder_federation

from privet import wire
from privet.aggregate import CODEC_DIGEST, UNKNOWN_CODEC, Aggregator
from privet.codecs.message import HEADER, POOLS
from privet.federation import Federation
from privet.messages import digest
from privet.sealing.base import SealingRefused
from privet.wire import Body

ROUNDS = 5


def run(seal: str = "none", dropouts: list[Any] | None = None) -> tuple[Federation, list[tuple[int, bool]]]:
    """A finished run, and for each question of party 0 its round and whether the codec went along."""
    seen: list[tuple[int, bool]] = []

    def tap(op: str, party: int, question: bytes, answer: bytes) -> None:
        if op == "round" and party == 0:
            body = wire.decode(question, f.engine.messages["round"].request)
            seen.append((int(body["number"]), HEADER in body))
            assert (CODEC_DIGEST in body) == (body["number"] >= RELEASES)

    asked = encoder(
        schedule={"rounds": ROUNDS, "min_survivors": 3},
        sealing={"kind": seal},
        engine={"kind": "local", "dropouts": dropouts or []},
    )
    f = encoder_federation(asked, tap=tap)
    f.engine.run(f.server.steps())
    return f, seen


@pytest.mark.parametrize("seal", ["none", "masked"])
def test_it_is_sent_when_it_is_new(seal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, seen = run(seal)
    last = RELEASES + ROUNDS - 1
    assert seen == [(number, number == RELEASES) for number in range(last + 1)]
    whole = Aggregator.broadcast
    monkeypatch.setattr(Aggregator, "broadcast", lambda self, *, with_codec: whole(self, with_codec=True))
    always, seen = run(seal)
    assert [sent for _, sent in seen] == [False] * RELEASES + [True] * ROUNDS
    np.testing.assert_array_equal(always.flat, f.flat)
    assert f.engine.bytes_down < always.engine.bytes_down


def test_it_is_sent_once_more_when_a_client_is_silent() -> None:
    _, seen = run(dropouts=[{"round": RELEASES + 1, "party": 3}])
    assert seen[RELEASES:] == [(2, True), (3, False), (4, True), (5, False), (6, False)]


def question(f: Federation, *, with_codec: bool = True) -> Body:
    """What a round would ask that no client here has answered."""
    assert f.server.aggregator is not None
    return {
        "number": RELEASES + ROUNDS - 1,
        "attempt": 9,
        **f.server.aggregator.broadcast(with_codec=with_codec),
    }


def test_a_restarted_client_says_that_it_lacks_the_codec() -> None:
    f, _ = run()
    fresh = encoder_federation(encoder(schedule={"rounds": ROUNDS}, sealing={"kind": "none"})).clients[1]
    with pytest.raises(SealingRefused) as refused:
        fresh.handle("round", question(f, with_codec=False))
    assert refused.value.reason == UNKNOWN_CODEC
    whole = question(f)
    broken = {**whole, "codec_float32": np.zeros_like(whole["codec_float32"])}
    unnamed = {name: value for name, value in whole.items() if name != CODEC_DIGEST}
    for body in (broken, unnamed):
        with pytest.raises(SealingRefused) as refused:
            fresh.handle("round", body)
        assert refused.value.reason == "malformed"


def test_a_question_is_the_same_with_and_without_the_codec_and_another_with_another() -> None:
    f, _ = run()
    whole, named = question(f), question(f, with_codec=False)
    assert set(whole) - set(named) == {HEADER, *POOLS.values()}
    assert digest(whole) == digest(named)
    other = {**named, CODEC_DIGEST: bytes(32)}
    assert digest(other) != digest(named)
