"""What systems compose to: the paper's own numbers, and releases that cover every round's codec."""

from __future__ import annotations

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
from privet.config import parse
from privet.diagnostics import simulated
from privet.plan import first_size
from privet.resolve import Resolved, resolve


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
    planned = first_size(codec, 96, rounds)
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
    assert simulated(f.clients, f.server.system.mechanism, 1) == {"zeroed_nonfinite": 0}
