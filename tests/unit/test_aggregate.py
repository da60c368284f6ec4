"""Federated averaging: the aggregate is the weighted mean of the clients' updates, and none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.toy import DIMENSION, Floats, ToyTrainer, config, examples, federation, split

from privet.aggregate import state_schema
from privet.config import LocalConfig
from privet.errors import PrivetError
from privet.federation import Federation
from privet.protocol import RoundAborted, RoundId
from privet.wire import WireError, decode, encode

PARTS = split(examples(60), 3)
LOCAL = {"steps": 3, "learning_rate": 0.05}


def fedavg(seal: str = "none", **schedule: Any) -> Federation:
    average = {"kind": "average", "learning_rate": 1.0}
    asked = {"rounds": 1, "sampling_rate": None, "expected_batch": None, "local": LOCAL, "server": average}
    return federation(
        config(system={"kind": "fedavg"}, privacy=None, sealing={"kind": seal}, schedule=asked | schedule),
        PARTS,
    )


def update(part: Any, start: Floats) -> Floats:
    """What one client sends, computed without the federation."""
    return ToyTrainer().train_locally(start, part, LocalConfig(**LOCAL), b"") - start


@pytest.mark.parametrize("seal", ["none", "masked", "encrypted", "encrypted+masked"])
@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 0.25)])
def test_the_aggregate_is_the_weighted_mean(seal: str, weights: tuple[float, ...] | None) -> None:
    """To a step of the grid a client, over two rounds; under every seal."""
    f = fedavg(seal, rounds=2, weights=weights)
    f.engine.run(f.server.steps())
    shares = np.array(weights or (1.0, 1.0, 1.0))
    expected = np.zeros(DIMENSION, np.float32)
    for _ in range(2):
        updates = np.stack([update(part, expected) for part in PARTS])
        expected = (expected + (shares[:, None] * updates).sum(axis=0) / shares.sum()).astype(np.float32)
    step = f.server.system.pipeline.rounding.grid.step
    assert step == 2.0**-17
    np.testing.assert_allclose(f.flat, expected, atol=2 * len(PARTS) * step / shares.sum())
    for part in PARTS:
        single = update(part, np.zeros(DIMENSION, np.float32))
        assert np.abs(f.flat - single).max() > 0.05, "no client's own"


def test_parties_share_no_memory() -> None:
    """A client that trains in place changes neither the server's adapter nor another client's."""
    f = fedavg()
    assert f.server.aggregator is not None
    flats = [f.server.aggregator.flat, *[client.aggregator.flat for client in f.clients.values()]]
    f.engine.run(f.server.steps())
    flats += [f.server.aggregator.flat, *[client.aggregator.flat for client in f.clients.values()]]
    for i, one in enumerate(flats):
        assert not any(np.shares_memory(one, other) for other in flats[i + 1 :])
    before = f.server.aggregator.flat.copy()
    f.clients[0].aggregator.flat += 1
    np.testing.assert_array_equal(f.server.aggregator.flat, before)


def test_a_round_counts_once() -> None:
    """However often its sum is opened, also after a restart."""
    aggregator = fedavg().server.aggregator
    assert aggregator is not None
    total = np.arange(DIMENSION, dtype=np.int64) << 18
    assert aggregator.apply(RoundId(0), total) is not None
    once, saved = aggregator.flat.copy(), aggregator.to_bytes()
    assert aggregator.apply(RoundId(0, 1), total) is None
    np.testing.assert_array_equal(aggregator.flat, once)
    other = fedavg().server.aggregator
    assert other is not None
    other.restore(saved)
    assert other.apply(RoundId(0), total) is None
    np.testing.assert_array_equal(other.flat, once)
    other.apply(RoundId(1), total)
    assert not np.array_equal(other.flat, once)
    assert other.flat.flags.writeable


def test_a_state_of_another_adapter_is_refused() -> None:
    aggregator = fedavg().server.aggregator
    assert aggregator is not None
    saved = aggregator.to_bytes()
    aggregator.flat = np.zeros(DIMENSION + 1, np.float32)
    with pytest.raises(WireError):
        aggregator.restore(saved)


@pytest.mark.parametrize("receives", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": b"{}"},
        {"codec": b'{"kind":"identity","dimension":25}'},
        {"steps": 7},
        {"gathered": np.ones(DIMENSION, np.float32)},
        {"gathered": np.ones(DIMENSION - 1, np.float32)},
        {"first": np.ones(0, np.float32)},
    ],
)
def test_a_state_that_is_refused_changes_nothing(wrong: dict[str, Any], receives: bool) -> None:
    """Not even a part of it: rounds that nobody has been in would be sealed for the others."""
    asked: dict[str, Any] = {"rounds": 3, "server": {"kind": "adam", "learning_rate": 1.0}}
    ahead, aggregator = (fedavg(**asked).server.aggregator for _ in range(2))
    assert ahead is not None
    assert aggregator is not None
    ahead.apply(RoundId(0), np.arange(DIMENSION, dtype=np.int64) << 18)
    numbers = {"codec_float32": np.float32, "codec_int32": np.int32, "codec_uint8": np.uint8}
    body = {**decode(ahead.to_bytes(), state_schema(DIMENSION)), **wrong}
    if "codec" in body:
        body |= {name: np.zeros(0, dtype) for name, dtype in numbers.items()}
    before = aggregator.to_bytes()
    with pytest.raises((WireError, RoundAborted, PrivetError)):
        aggregator.receive(encode(body), 1) if receives else aggregator.restore(encode(body))
    assert aggregator.to_bytes() == before
    aggregator.receive(ahead.to_bytes(), 1)
    assert aggregator.to_bytes() == ahead.to_bytes()


def test_a_state_of_other_rounds_or_with_infinities_is_not_received() -> None:
    """A run of one's own that diverged is taken up where it stands."""
    ahead, aggregator = (fedavg(rounds=3).server.aggregator for _ in range(2))
    assert ahead is not None
    assert aggregator is not None
    with pytest.raises(WireError, match="wrong-round"):
        aggregator.receive(ahead.to_bytes(), 1)
    ahead.flat[3] = np.nan
    with pytest.raises(WireError, match="not-finite"):
        aggregator.receive(ahead.to_bytes(), 0)
    assert np.isfinite(aggregator.flat).all()
    aggregator.restore(ahead.to_bytes())
    assert np.isnan(aggregator.flat[3])


@pytest.mark.parametrize(("kind", "moments"), [("average", 0), ("momentum", 1), ("adam", 2)])
def test_a_state_holds_the_moments_of_its_optimiser_and_no_others(kind: str, moments: int) -> None:
    """They travel to every client each round where the sum is encrypted."""
    states = {}
    for name in ("average", "momentum", "adam"):
        aggregator = fedavg(server={"kind": name, "learning_rate": 1.0}).server.aggregator
        assert aggregator is not None
        aggregator.apply(RoundId(0), np.arange(DIMENSION, dtype=np.int64) << 18)
        states[name] = aggregator.to_bytes()
    other = fedavg(server={"kind": kind, "learning_rate": 1.0}).server.aggregator
    assert other is not None
    assert len(states[kind]) - len(states["average"]) == moments * 4 * DIMENSION
    other.restore(states[kind])
    assert other.to_bytes() == states[kind]
    for name in {*states} - {kind}:
        with pytest.raises(WireError, match="wrong-shape"):
            other.restore(states[name])
