"""When a run's codec is computed anew, and from what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privet.codec_config import AutoencoderCodec, PublicSubspaceCodec, RandomProjectionCodec, RowPcaCodec
from privet.codec_schedule import CodecSchedule
from privet.codecs import Codec, Identity, Provenance
from privet.codecs.allocation import PerTensor
from privet.codecs.autoencoder import Autoencoder
from privet.codecs.count_sketch import CountSketch
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.codecs.row_pca import RowPca
from privet.errors import PrivetError

LAYOUT = (("layers.0.q.lora_A", (4, 12)), ("layers.1.q.lora_A", (4, 12)))
DIMENSION, ROUNDS = 96, 7


@pytest.mark.parametrize(
    ("config", "due"),
    [
        (PublicSubspaceCodec(size=4, updates=12, refresh_rounds=3), [0, 3, 6]),
        (RowPcaCodec(ratio=4, updates=12, refresh_rounds=2), [0, 2, 4, 6]),
        (RowPcaCodec(ratio=4, updates=12, refresh_rounds=10), [0]),
        (RandomProjectionCodec(ratio=4), [0]),
    ],
)
def test_a_codec_of_public_gradients_is_computed_anew_every_r_rounds(config: Any, due: list[int]) -> None:
    """At the adapter of that round; between, the codec is the very same object, which does not travel again."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(12, DIMENSION)).astype(np.float32)
    asked: list[float] = []

    def gradients(flat: np.ndarray) -> np.ndarray:
        asked.append(float(flat[0]))
        return rows * (1 + flat)

    schedule = CodecSchedule(config, LAYOUT, 0, ROUNDS, private=True, sealed=True, public=gradients)
    current: Codec | None = None
    anew = []
    for number in range(ROUNDS):
        flat = np.full(DIMENSION, number, np.float32)
        codec = schedule.codec(number, flat, None, current)
        if codec is not current:
            anew.append(number)
        current = codec
    assert anew == due
    assert asked == ([] if isinstance(config, RandomProjectionCodec) else [float(n) for n in due])


ALL = np.arange(DIMENSION)[None]
LONG_CODE = RowPca(
    DIMENSION, (np.zeros((DIMENSION + 1, 1), np.int64),), (np.ones((1, 1), np.float32),), Provenance.PUBLIC
)


@pytest.mark.parametrize(
    ("config", "codec", "why"),
    [
        (RandomProjectionCodec(ratio=4), CountSketch(DIMENSION, 24, 0), "not the run's"),
        (
            RandomProjectionCodec(ratio=4),
            PerTensor(DIMENSION, ((CountSketch(DIMENSION, 24, 0), np.array([[0, DIMENSION]])),)),
            "not the run's",
        ),
        (RandomProjectionCodec(ratio=4), RandomProjection(DIMENSION + 7, 24, 0), "another adapter"),
        (RandomProjectionCodec(ratio=4), PerTensor(DIMENSION, ()), "no size"),
        (
            RandomProjectionCodec(ratio=4, error_feedback=True),
            RandomProjection(DIMENSION, 6, 0, "unbiased"),
            "does not stretch",
        ),
        (RowPcaCodec(ratio=4), LONG_CODE, "no size"),
        (
            PublicSubspaceCodec(size=1),
            PublicSubspace(np.full((1, DIMENSION), np.nan, np.float32)),
            "finite codes",
        ),
        (
            RowPcaCodec(ratio=4),
            RowPca(DIMENSION, (ALL,), (np.full((1, DIMENSION), np.inf, np.float32),), Provenance.PUBLIC),
            "finite codes",
        ),
        (
            AutoencoderCodec(ratio=4, network="mlp"),
            Autoencoder(DIMENSION, "mlp", 8, 2, (ALL.reshape(-1, 8),), {}, Provenance.STATISTICS),
            "fails",
        ),
    ],
)
def test_a_codec_that_would_fail_in_a_round_is_refused_before_it(config: Any, codec: Codec, why: str) -> None:
    """Whatever it says of itself: in the round it would fail at every client, after the charge."""
    schedule = CodecSchedule(config, LAYOUT, 0, ROUNDS, private=True, sealed=True)
    with pytest.raises(PrivetError, match=why):
        schedule.check(codec)


def test_codecs_of_the_run_s_own_kind_pass_alone_and_side_by_side_with_whole_tensors() -> None:
    schedule = CodecSchedule(RandomProjectionCodec(ratio=4), LAYOUT, 0, ROUNDS, private=True, sealed=True)
    schedule.check(RandomProjection(DIMENSION, 24, 0))
    halves = (Identity(48), np.array([[0, 48]])), (RandomProjection(48, 6, 0), np.array([[48, 96]]))
    schedule.check(PerTensor(DIMENSION, halves))
