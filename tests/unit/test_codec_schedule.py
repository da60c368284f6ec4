"""When a run's codec is computed anew, and from what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privet.codec_config import PublicSubspaceCodec, RandomProjectionCodec, RowPcaCodec
from privet.codec_schedule import CodecSchedule
from privet.codecs import Codec

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
