"""Codecs inside whole runs: what travels shrinks, sealed and unsealed runs stay equal, the norm bound holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.toy import config, examples, federation, split

from privet.codec_config import CodecConfig, CountSketchCodec, PruneCodec, RandomProjectionCodec
from privet.config import EncryptedMaskedSealing, MaskedSealing, NoSealing
from privet.federation import Federation

CODECS: dict[str, CodecConfig] = {
    "prune": PruneCodec(start_round=1, start_rate=0.25, end_rate=0.5),
    "random_projection": RandomProjectionCodec(ratio=4),
    "count_sketch": CountSketchCodec(ratio=4),
}


def run(codec: CodecConfig, sealing: Any) -> tuple[Federation, list[int]]:
    """A finished toy run, and the values in each round's contribution."""
    asked = config().model_copy(update={"codec": codec, "sealing": sealing})
    f = federation(asked, split(examples(300), 4))
    sizes: list[int] = []
    f.server.observe = lambda kind, facts: sizes.append(f.server.size) if kind == "round" else None
    sizes.append(f.server.size)
    f.engine.run(f.server.steps())
    return f, sizes[:-1]


@pytest.mark.parametrize("kind", CODECS)
def test_sealing_does_not_change_what_a_codec_gives(kind: str) -> None:
    plain, sizes = run(CODECS[kind], NoSealing())
    for sealing in (MaskedSealing(), EncryptedMaskedSealing()):
        sealed, same_sizes = run(CODECS[kind], sealing)
        np.testing.assert_array_equal(sealed.flat, plain.flat)
        assert same_sizes == sizes
    assert np.abs(plain.flat).max() > 0.05


def test_a_pruned_contribution_shrinks_with_the_schedule() -> None:
    _, sizes = run(CODECS["prune"], NoSealing())
    assert sizes == [24, 18, 15, 12]


def test_bytes_fall_with_the_kept_share() -> None:
    whole, _ = run(PruneCodec(start_round=0, start_rate=0.0, end_rate=0.0), NoSealing())
    half, _ = run(PruneCodec(mask="seed", start_round=0, start_rate=0.5, end_rate=0.5), NoSealing())
    framing = 40 * 16
    assert half.engine.bytes_up - framing < 0.5 * whole.engine.bytes_up


@pytest.mark.parametrize("scale", [1e6, np.nan])
def test_trap_07_no_encoder_raises_a_unit_above_the_bound(scale: float) -> None:
    """Clip after encode: whatever the encoder does, one unit's integers stay within the grid's bound."""
    from privet.pipeline import Clip, Encode, Pass, Pipeline, Round, Units

    f = federation(config(), split(examples(40), 4))
    rounding = f.server.system.pipeline.rounding

    class Wild:
        size = 24

        def encode(self, batch: Any) -> Any:
            return (batch * np.float32(scale)).astype(np.float32)

        def decode(self, total: Any) -> Any:
            return total

    class Keys:
        def noise(self, purpose: str) -> bytes:
            return bytes(32)

        def rounding(self, units: Any) -> list[bytes]:
            return [bytes(32) for _ in units]

    from privet.protocol import RoundId

    stages = [Encode(Wild()), Clip(1.0), Round(rounding.grid, 1.0, rounding.limit)]
    passing = Pass(RoundId(0), Keys())
    vectors = np.random.default_rng(0).standard_normal((1, 24)).astype(np.float32)
    total = Pipeline(stages).forward([Units(("a",), vectors)], 24, passing)
    assert int((total.astype(object) ** 2).sum()) <= rounding.grid.bound**2
    assert (passing.observed["zeroed_nonfinite"] == 1) == bool(np.isnan(scale))
