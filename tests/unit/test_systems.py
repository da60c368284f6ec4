"""What systems compose to: the paper's own numbers, and releases that cover every round's codec."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from support.toy import DIMENSION, config, examples, federation, split

from privet.codec_config import (
    CountSketchCodec,
    IdentityCodec,
    PruneCodec,
    PublicSubspaceCodec,
    RandomProjectionCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs import Sources, build
from privet.config import EncryptedMaskedSealing, EncryptedSealing, MaskedSealing, parse
from privet.diagnostics import simulated
from privet.federation import sum_field
from privet.keys import ClientKeys
from privet.pipeline import Pass, Units
from privet.plan import round_sizes
from privet.protocol import RoundId
from privet.randomness import RoundRandomness
from privet.resolve import Resolved, resolve
from privet.sealing.levels import forecast
from privet.sealing.masked import key_traffic


def faithful(relation: str, factors: int, dimension: int = 40) -> Resolved:
    """The paper's setting: noise twice the bound of a factor, 50 steps."""
    asked = parse(
        {
            "system": {"kind": "dp_lora", "faithful": True},
            "model": {"name": "small"},
            "data": {"kind": "sentiment"},
            "schedule": {"rounds": 50},
            "privacy": {"unit": "client", "relation": relation, "noise_multiplier": 2.0, "clip_norm": 1.0},
        }
    )
    parts = tuple(np.array_split(np.arange(dimension, dtype=np.int64), factors))
    return resolve(asked, dimension=dimension, parties=4, factors=parts)


@pytest.mark.parametrize(
    ("relation", "factors", "epsilon"),
    [
        ("zero-out", 2, 33.1),
        ("replace-one", 2, 91.8),
        ("zero-out", 1, float(get_epsilon_gaussian(2 / 50**0.5, 1e-5))),
    ],
)
def test_the_faithful_dp_lora_has_the_epsilon_that_its_docstring_says(
    relation: str, factors: int, epsilon: float
) -> None:
    resolved = faithful(relation, factors)
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    assert ledger.epsilon().value == pytest.approx(epsilon, abs=0.05)


def test_noise_of_the_faithful_dp_lora_is_the_papers_on_each_coordinate() -> None:
    """sigma C on every coordinate, whatever the number of factors; 1 % is what rounding adds to the bound."""
    for factors in (1, 2):
        mechanism = faithful("zero-out", factors).system.mechanism
        assert mechanism is not None
        assert 2.0 <= mechanism.noise_std <= 2.0 * 1.011


@pytest.mark.parametrize("published", [False, True])
def test_a_client_s_weight_counts_once_in_its_local_steps(published: bool) -> None:
    """In each step and in the update it would count squared, against noise that keeps its size."""
    sections: dict[str, Any] = {
        "system": {"kind": "dp_lora", "faithful": published},
        "sealing": {"kind": "none"},
        "privacy": {"noise_multiplier": 1e-4, "clip_norm": 100.0},
        "schedule": {"sampling_rate": 0.9, "expected_batch": 10, "local": {"steps": 2}},
    }
    if published:
        sections["privacy"] |= {"unit": "client", "relation": "zero-out"}
    sent = {}
    for weight in (1.0, 0.25):
        weights = {"schedule": {**sections["schedule"], "weights": [weight, 1.0, 1.0]}}
        f = federation(config(**sections | weights), split(examples(60), 3))
        client = f.clients[0]
        passing = Pass(RoundId(0), RoundRandomness(client.keys, RoundId(0)), client.weight)
        system, flat = f.server.system, np.zeros(DIMENSION, np.float32)
        contributed = system.pipeline.forward(
            system.work.units(client.place, flat, passing.keys, passing), DIMENSION, passing
        )
        sent[weight] = contributed * system.pipeline.rounding.grid.step
    assert np.linalg.norm(sent[1.0]) > 0.1
    np.testing.assert_allclose(sent[0.25], 0.25 * sent[1.0], atol=2e-4)


CODECS: list[Any] = [
    IdentityCodec(),
    PruneCodec(mask="seed", start_round=0, start_rate=0.3),
    PruneCodec(mask="last_update", start_round=0, start_rate=0.3),
    RandomProjectionCodec(ratio=4),
    CountSketchCodec(ratio=6),
    TopKCodec(ratio=4),
    RowPcaCodec(ratio=2),
    PublicSubspaceCodec(size=5, updates=8),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{c.kind}-{getattr(c, 'mask', '')}")
def test_a_plan_knows_the_size_of_the_first_code(codec: Any) -> None:
    rounds = 9
    rows = np.random.default_rng(0).standard_normal((16, 96)).astype(np.float32)
    sources = Sources([("a", (8, 6)), ("b", (8, 6))], public_updates=rows)
    built = build(codec, sources, seed=0, round_number=0, rounds=rounds).size
    planned = round_sizes(codec, 96, rounds)[0]
    assert built <= planned if codec.kind == "row_pca" else built == planned


@pytest.mark.parametrize("size", [1, 5, 20])
def test_the_charged_release_covers_rounds_with_a_smaller_code(size: int) -> None:
    class Sized:
        def __init__(self) -> None:
            self.size = size

        def encode(self, batch: Any) -> Any:
            return batch

        def decode(self, total: Any) -> Any:
            return total

    resolved = resolve(config(), dimension=DIMENSION, parties=4)
    whole: Any = resolved.system.release
    part: Any = resolved.compose(Sized()).release
    assert part.noise_multiplier == whole.noise_multiplier
    assert part.sampling == whole.sampling
    assert part.delta_prime <= whole.delta_prime


def test_sampled_counts_are_the_records_and_nothing_else() -> None:
    """dp_lora's update is one unit more; it is no sampled record."""
    asked = config(
        system={"kind": "dp_lora"},
        sealing={"kind": "none"},
        schedule={"rounds": 1, "sampling_rate": 1.0, "local": {"steps": 2, "learning_rate": 0.1}},
    )
    parts = split(examples(60), 4)
    f = federation(asked, parts)
    f.engine.run(f.server.steps())
    row = simulated(f.clients, f.server.system.mechanism, 0)
    assert row["sampled"] == [2 * len(part) for part in parts]
    assert simulated(f.clients, f.server.system.mechanism, 1) == {"zeroed_nonfinite": 0, "out_of_range": 0}


@pytest.mark.parametrize("parties", [3, 4, 5, 16, 64, 95])
@pytest.mark.parametrize("kind", ["fedavg", "fedshield"])
def test_unclipped_updates_travel_in_what_float32_takes(kind: str, parties: int) -> None:
    asked = config(system={"kind": kind}, privacy=None, sealing={"kind": "encrypted+masked"})
    size = 1 << 17
    resolved = resolve(asked, dimension=size, parties=parties)
    field = sum_field(resolved, size)
    assert field.bits == 24
    for sealing, most in (
        (EncryptedMaskedSealing(), 1.05),
        (EncryptedSealing(), 1.05),
        (MaskedSealing(), 1.0),
    ):
        planned = forecast(sealing, size=size, field=field, parties=parties, survivors=parties)
        keys = key_traffic(parties, 8, 8).up if "masked" in sealing.kind else 0
        assert (planned.upload_bytes - keys) / (4 * size) <= most


@pytest.mark.parametrize("parties", [2, 3, 4, 5, 8, 9, 64, 1000])
def test_the_grid_of_unclipped_updates_is_the_documented_one(parties: int) -> None:
    resolved = resolve(
        config(system={"kind": "fedavg"}, privacy=None, sealing={"kind": "none"}),
        dimension=DIMENSION,
        parties=parties,
    )
    rounding = resolved.system.pipeline.rounding
    step = rounding.grid.step
    assert step == 2.0**-17 * 2.0 ** (math.ceil(math.log2(parties)) - 2)
    assert rounding.limit * step == 16.0 - step, "as near to the range as a sum of all parties allows"
    assert sum_field(resolved, DIMENSION).bits <= 24


def test_an_update_beyond_the_range_is_cut_and_counted() -> None:
    pipeline = resolve(
        config(system={"kind": "fedavg"}, privacy=None, sealing={"kind": "none"}), dimension=4, parties=4
    ).system.pipeline
    round_id = RoundId(0)
    passing = Pass(round_id, RoundRandomness(ClientKeys.from_insecure_test_seed(1, 0), round_id))
    update = np.array([[100.0, -16.5, 15.5, 0.25]], np.float32)
    total = pipeline.forward([Units(("a client",), update)], 4, passing)
    np.testing.assert_allclose(pipeline.backward(4 * total), [16, -16, 15.5, 0.25], atol=2.0**-16)
    assert passing.observed["out_of_range"] == 2
    assert passing.observed["zeroed_nonfinite"] == 0
    lost = pipeline.forward([Units(("a client",), update * np.float32(1e4))], 4, passing)
    assert not lost.any(), "a norm beyond what is added up exactly"
    assert passing.observed["zeroed_nonfinite"] == 1
