from __future__ import annotations

import numpy as np
import pytest

from privet.clip import clip_rows
from privet.errors import PrivetError


def test_long_rows_are_scaled_and_short_ones_pass_bit_for_bit() -> None:
    batch = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-30.0, 40.0]], dtype=np.float32)
    clipped, zeroed = clip_rows(batch, 1.0)
    assert zeroed == 0
    assert clipped.dtype == np.float32
    assert clipped == pytest.approx(np.array([[0.6, 0.8], [0.3, 0.4], [0, 0], [-0.6, 0.8]]), rel=1e-6)
    assert (clipped[1] == batch[1]).all()
    assert batch[0, 0] == 3.0  # the input is left alone


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_trap_08_a_unit_that_is_not_finite_contributes_zero(bad: float) -> None:
    batch = np.ones((3, 1000), dtype=np.float32)
    batch[1, 77] = bad
    clipped, zeroed = clip_rows(batch, 2.0)
    assert zeroed == 1
    assert (clipped[1] == 0).all()
    assert np.linalg.norm(clipped[[0, 2]].astype(np.float64), axis=1) == pytest.approx([2.0, 2.0])
    assert np.isfinite(clipped).all()


def test_the_largest_floats_are_clipped_and_not_lost() -> None:
    batch = np.full((1, 100_000), np.finfo(np.float32).max, dtype=np.float32)
    clipped, zeroed = clip_rows(batch, 1.0)
    assert zeroed == 0
    assert np.linalg.norm(clipped.astype(np.float64)) == pytest.approx(1.0)


@pytest.mark.parametrize("excess", [1e-6, 1e-4, 1e-2, 1.0])
def test_a_row_a_little_too_long_is_clipped_too(excess: float) -> None:
    row = np.random.Generator(np.random.PCG64(4)).standard_normal((1, 300))
    row *= (1 + excess) / np.linalg.norm(row)
    clipped, _ = clip_rows(row.astype(np.float32), 1.0)
    assert 1 - 1e-6 < np.linalg.norm(clipped.astype(np.float64)) <= 1.0


def test_rows_do_not_depend_on_their_neighbours() -> None:
    batch = np.random.Generator(np.random.PCG64(0)).standard_normal((7, 100_001)).astype(np.float32)
    together = clip_rows(batch, 3.0)[0]
    alone = np.concatenate([clip_rows(row[None], 3.0)[0] for row in batch])
    assert (together == alone).all()


def test_an_empty_batch_is_a_batch() -> None:
    clipped, zeroed = clip_rows(np.empty((0, 5), dtype=np.float32), 1.0)
    assert clipped.shape == (0, 5)
    assert zeroed == 0


@pytest.mark.parametrize("norm", [0.0, -1.0, np.nan, np.inf])
def test_a_norm_that_bounds_nothing_is_refused(norm: float) -> None:
    with pytest.raises(PrivetError, match="clip_norm"):
        clip_rows(np.ones((1, 2), dtype=np.float32), norm)


def test_only_matrices_have_rows() -> None:
    with pytest.raises(ValueError, match="shape"):
        clip_rows(np.ones(3, dtype=np.float32), 1.0)
