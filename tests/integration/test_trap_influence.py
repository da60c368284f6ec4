"""What one record can do to an opened sum: two runs that differ in one record, all other randomness equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2
from support.planted import Integers, Planted, federation, run
from support.toy import config

from privet.clip import clip_rows
from privet.codec_config import CodecConfig, CountSketchCodec, IdentityCodec, RandomProjectionCodec
from privet.config import Config, Dropout
from privet.errors import PrivetError
from privet.federation import Federation
from privet.fixed_point import round_units
from privet.keys import ClientKeys
from privet.mechanism import GaussianMechanism
from privet.pipeline import Clip, Encode, Pipeline, Round, Share
from privet.privacy.events import Release
from privet.protocol import RoundId

DIMENSION = 96
CODECS: dict[str, CodecConfig] = {
    "identity": IdentityCodec(),
    "random_projection": RandomProjectionCodec(ratio=4),
    "count_sketch": CountSketchCodec(ratio=4),
}


def once(codec: CodecConfig | None = None, **schedule: Any) -> Config:
    c = config(schedule={"rounds": 1, "sampling_rate": 1.0, **schedule})
    return c if codec is None else c.model_copy(update={"codec": codec})


def ordinary(count: int) -> list[Planted]:
    rows = np.random.default_rng(5).standard_normal((count, DIMENSION)).astype(np.float32)
    return [Planted(f"r{i}", row) for i, row in enumerate(rows)]


def difference(c: Config, others: list[Planted], canary: Planted) -> tuple[Integers, Federation]:
    """What a canary adds to the first opened sum, and the federation that it was in."""
    thirds = [others[i::3] for i in range(3)]
    without = run(federation(c, [*thirds, []], DIMENSION))
    f = federation(c, [[canary, *thirds[0]], *thirds[1:], []], DIMENSION)
    return run(f).sums[0] - without.sums[0], f


@pytest.mark.parametrize("stretch", [1.0, 3.0])
@pytest.mark.parametrize("kind", CODECS)
def test_trap_07_one_record_moves_the_opened_sum_by_the_sensitivity_at_most(
    kind: str, stretch: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that the codec stretches most, 10^4 clip norms long: |moved|² <= Δ² in exact integers, and near it.

    The codecs of the product stretch nothing; ``stretch`` is one that does.
    """
    encode = Encode.forward
    monkeypatch.setattr(
        Encode, "forward", lambda stage, *given: (encode(stage, *given) * stretch).astype(np.float32)
    )
    c = once(CODECS[kind])
    aggregator = federation(c, [[], [], [], []], DIMENSION).server.aggregator
    assert aggregator is not None
    codec = aggregator.codec
    encoder = np.eye(DIMENSION) if codec is None else codec.encode(np.eye(DIMENSION, dtype=np.float32))
    _, _, directions = np.linalg.svd(encoder.T)
    canary = Planted("canary", (1e4 * directions[0]).astype(np.float32))
    moved, f = difference(c, ordinary(20), canary)
    bound = f.server.system.pipeline.rounding.grid.bound
    length = sum(int(v) ** 2 for v in moved)
    assert length <= bound**2
    assert length >= (0.95 * bound) ** 2, "the clip shortens, it does not drop: else this would show nothing"


@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e38])
def test_trap_08_a_damaged_record_moves_the_opened_sum_by_the_sensitivity_at_most(scale: float) -> None:
    moved, f = difference(once(), ordinary(20), Planted("canary", np.full(DIMENSION, scale, np.float32)))
    assert sum(int(v) ** 2 for v in moved) <= f.server.system.pipeline.rounding.grid.bound**2
    assert moved.any() == np.isfinite(scale), "a record that is not finite counts as zero"


@pytest.mark.parametrize("others", [0, 7, 60])
def test_trap_06_a_record_counts_alike_in_every_batch(others: int) -> None:
    """Nothing divides by how many records were sampled: the canary adds the same integers beside 0, 7 or 60 others."""
    canary = Planted("canary", np.linspace(-1, 1, DIMENSION).astype(np.float32))
    moved, f = difference(once(), ordinary(others), canary)
    clipped, _ = clip_rows(canary.vector[None], 1.0)
    keys = ClientKeys.from_insecure_test_seed(7, 0).unit_keys("rounding", RoundId(0), ["canary"])
    expected = round_units(clipped, f.server.system.pipeline.rounding.grid, keys)[0]
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("survivors", [5, 4])
def test_trap_06_the_direction_is_the_sum_over_a_public_constant(survivors: int) -> None:
    """A dropout changes the sum, never what it is divided by."""
    c = once(min_survivors=4, server={"kind": "average", "learning_rate": 1.0})
    gone = (Dropout(round=0, party=1),) if survivors == 4 else ()
    c = c.model_copy(update={"engine": c.engine.model_copy(update={"dropouts": gone})})
    f = federation(c, [ordinary(9)[i::5] for i in range(5)], DIMENSION)
    seen = run(f)
    assert len(seen.survivors[0]) == survivors
    step = f.server.system.pipeline.rounding.grid.step
    assert c.schedule.expected_batch == 40
    np.testing.assert_allclose(f.flat, seen.sums[0] * step / 40, rtol=1e-5)


def test_trap_04_batches_are_the_poisson_draw_that_the_ledger_charges() -> None:
    """Sizes of 240 batches against the ledger's rate, mean and variance; false alarm 3e-6 in all.

    The micro-batch is far smaller than a batch, so a batch cut to it, a padded one or one of fixed size would show.
    """
    sizes, rounds = [150, 60, 200, 90], 60
    c = once(rounds=rounds, sampling_rate=0.3)
    f = federation(
        c, [[Planted(f"{p}/{i}", np.ones(8, np.float32)) for i in range(n)] for p, n in enumerate(sizes)], 8
    )
    run(f)
    (release,) = f.server.ledger.releases
    assert isinstance(release, Release)
    assert release.sampling.kind == "poisson"
    q = release.sampling.rate
    trainers: list[Any] = [f.clients[party].place.trainer for party in range(4)]
    asked = np.array([trainer.asked for trainer in trainers], np.float64)
    assert asked.shape == (4, rounds)
    expected = np.array(sizes)[:, None] * q
    z = (asked - expected) / np.sqrt(expected * (1 - q))
    assert abs(z.sum()) < 4.9 * np.sqrt(z.size)
    low, high = chi2.ppf([5e-7, 1 - 5e-7], z.size)
    assert low < float((z**2).sum()) < high


def test_trap_07_unsound_orders_of_stages_are_refused() -> None:
    """A clip before an encoder, noise before the clip or the rounding, two of a kind, noise of another mechanism."""

    class Codec:
        size = 4

        def encode(self, batch: Any) -> Any:
            return batch

        def decode(self, total: Any) -> Any:
            return total

    mechanism = GaussianMechanism(1.0, 1.0, 4)
    encode, clip = Encode(Codec()), Clip(1.0)
    rounding, share = Round(mechanism.grid, 1.0, 100), Share(mechanism)
    Pipeline([encode, clip, rounding, share])
    Pipeline([encode, rounding])
    for stages in (
        [clip, encode, rounding, share],
        [encode, rounding, clip, share],
        [encode, clip, share, rounding],
        [share, clip, rounding],
        [encode, rounding, share],
        [encode, clip, share],
        [clip, clip, rounding, share],
        [clip, rounding, share, share],
        [Clip(2.0), rounding, share],
        [clip, Round(GaussianMechanism(1.0, 1.0, 400).grid, 1.0, 100), share],
    ):
        with pytest.raises(PrivetError):
            Pipeline(stages)  # type: ignore[arg-type]  # lists of mixed stages
