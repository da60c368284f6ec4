"""The sensitivity of stage 1's message: never above the clip norm, for any shapes, scales and damage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.stage_one import statistics_message

from privet.clip import clip_rows
from privet.codecs import StatisticsCode
from privet.mechanism import GaussianMechanism
from privet.pipeline import Encode, Pass, Pipeline, Units
from privet.protocol import RoundId
from privet.system_config import Groups, Prior
from privet.systems.parts import noised

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)
NORMS = st.floats(1e-3, 1e3)
SCALES = st.sampled_from([1e-30, 1e-6, 1.0, 1e3, 1e6, 1e30])
SEEDS = st.integers(0, 2**32 - 1)


def updates(sizes: list[int], scale: float, seed: int, rows: int = 2) -> NDArray[np.float64]:
    """Rows with tensors of different offsets and spreads; some are constant, some are zero."""
    rng = np.random.default_rng(seed)
    parts = []
    for d in sizes:
        spread, offset = rng.choice([0.0, 1.0, 1e3]), rng.choice([0.0, -5.0, 1e2])
        parts.append(rng.normal(size=(rows, d)) * spread + offset)
    return np.concatenate(parts, axis=1) * scale


def sent(rows: NDArray[np.float64], sizes: list[int], norm: float) -> NDArray[np.float32]:
    """Stage 1's messages as a run makes them before it rounds: statistics, then the clip, client by client."""
    encode = Encode(StatisticsCode(tuple((f"tensor.{i}", (d,)) for i, d in enumerate(sizes))))
    code = encode.forward(rows.astype(np.float32), (), Pass(RoundId(0), _Keys()))
    return clip_rows(code, norm)[0]


@given(SIZES, NORMS, SCALES, SEEDS)
def test_zero_out_sensitivity_is_the_clip_norm(
    sizes: list[int], norm: float, scale: float, seed: int
) -> None:
    """||z|| = min(||update||, C) for any number of tensors: a client moves the sum by at most C."""
    rows = updates(sizes, scale, seed)
    z = sent(rows, sizes, norm).astype(np.float64)
    assert z.shape == (2, 2 * len(sizes))
    lengths = np.linalg.norm(z, axis=1)
    assert np.all(lengths <= norm * (1 + 1e-6))
    np.testing.assert_allclose(lengths, np.minimum(np.linalg.norm(rows, axis=1), norm), rtol=1e-5)


@given(SIZES, NORMS, SCALES, SCALES, SEEDS)
def test_replace_one_sensitivity_is_twice_the_clip_norm(
    sizes: list[int], norm: float, scale: float, other: float, seed: int
) -> None:
    rows = updates(sizes, scale, seed)
    rows[1] = updates(sizes, other, seed + 1)[1]
    z = sent(rows, sizes, norm)
    assert np.linalg.norm(z[0].astype(np.float64) - z[1]) <= 2 * norm * (1 + 1e-6)
    alone = sent(rows[:1], sizes, norm)
    np.testing.assert_array_equal(z[0], alone[0], err_msg="a client's message depends on that client only")


@given(SIZES, SEEDS, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_trap_08_a_damaged_update_contributes_zero(
    sizes: list[int], seed: int, damage: float, data: st.DataObject
) -> None:
    rows = updates(sizes, 1.0, seed)
    rows[0, data.draw(st.integers(0, rows.shape[1] - 1))] = damage
    z = sent(rows, sizes, 1.0)
    assert not z[0].any()
    np.testing.assert_array_equal(z[1], sent(rows[1:], sizes, 1.0)[0])


@given(SIZES, NORMS, SEEDS)
def test_clip_and_statistics_commute(sizes: list[int], norm: float, seed: int) -> None:
    """Clipping before the statistics, as the proof has it, or after them, as it runs, is the same."""
    rows = updates(sizes, 1.0, seed)
    before = statistics_message(rows, sizes, norm)
    np.testing.assert_allclose(sent(rows, sizes, norm), before, atol=3e-6 * norm, rtol=1e-4)


@given(
    st.lists(st.sampled_from([(1,), (3, 5), (8, 2), (40,)]), min_size=1, max_size=30),
    st.sampled_from(["mean", "mean_std", "moments"]),
    st.sampled_from(["tensor", "kind", "all"]),
    NORMS,
    SCALES,
    SEEDS,
)
def test_what_stage_one_sends_is_bounded_for_any_number_of_layers(
    shapes: list[tuple[int, ...]], prior: Prior, groups: Groups, norm: float, scale: float, seed: int
) -> None:
    """The pipeline that runs: integers within the accounted bound, which is C and at most 1 % for rounding."""
    layout = tuple((f"layer.{i}", shape) for i, shape in enumerate(shapes))
    code = StatisticsCode(layout, prior, 4, groups)
    mechanism = GaussianMechanism(norm, 2.0, code.size)
    assert mechanism.grid.bound * mechanism.grid.step <= 1.01 * norm * (1 + 1e-9)
    sizes = [int(np.prod(shape)) for shape in shapes]
    rows = updates(sizes, scale, seed).astype(np.float32)
    rows[1, 0] = np.nan
    clip, rounding, _ = noised(mechanism, 1.0, 1)
    stages = Pipeline([Encode(code), clip, rounding])
    for row, damaged in zip(rows, (False, True), strict=True):
        sent = stages.forward([Units(("a",), row[None])], sum(sizes), Pass(RoundId(0), _Keys()))
        assert sum(int(value) ** 2 for value in sent) <= mechanism.grid.bound**2
        assert not (damaged and sent.any())
    if scale == 1.0 and prior == "mean_std" and np.linalg.norm(rows[0]) > 2 * norm:
        sent = stages.forward([Units(("a",), rows[:1])], sum(sizes), Pass(RoundId(0), _Keys()))
        assert np.linalg.norm(sent) > 0.97 * mechanism.grid.bound, (
            "the bound is attained, for few layers as for many"
        )


class _Keys:
    """Fixed rounding; no noise is drawn here."""

    def noise(self, purpose: str) -> bytes:
        raise AssertionError(purpose)

    def rounding(self, units: Sequence[str]) -> list[bytes]:
        return [bytes(32) for _ in units]
