"""What holds for every input: bounded norms, non-expansive projection, lossless packing, clipped rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from privet.clip import clip_rows
from privet.fixed_point import Field, Grid, norms_within, project_range, round_units
from privet.keys import derive
from privet.packing import pack, packed_size, unpack

any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=any_float32)
norms = st.floats(min_value=1e-6, max_value=1e6)
grids = st.builds(Grid, step=st.floats(1e-9, 1e6), bound=st.integers(1, 2**31 - 1))


def exact_norms(rows: np.ndarray) -> list[int]:
    return [sum(int(v) ** 2 for v in row) for row in rows]


@given(matrices, grids, st.integers(0, 2**32))
def test_no_rounded_row_exceeds_the_bound(batch: np.ndarray, grid: Grid, seed: int) -> None:
    keys = [derive(bytes(32), seed, i) for i in range(batch.shape[0])]
    zeroed: list[int] = []
    rounded = round_units(batch, grid, keys, zeroed)
    assert rounded.shape == batch.shape
    assert all(norm <= grid.bound**2 for norm in exact_norms(rounded))
    assert all(not rounded[i].any() for i in zeroed)
    kept = np.setdiff1d(np.arange(batch.shape[0]), zeroed)
    scaled = batch[kept].astype(np.float64) / grid.step
    assert (np.abs(rounded[kept] - scaled) <= 1 + np.spacing(np.abs(scaled))).all()


@given(matrices, norms, st.integers(0, 2**32))
def test_clipped_rows_always_survive_on_their_grid(batch: np.ndarray, norm: float, seed: int) -> None:
    grid = Grid.for_clip(norm, batch.shape[1])
    clipped, _ = clip_rows(batch, norm)
    zeroed: list[int] = []
    rounded = round_units(clipped, grid, [derive(bytes(32), seed, i) for i in range(batch.shape[0])], zeroed)
    assert zeroed == []
    assert all(n <= grid.bound**2 for n in exact_norms(rounded))


@given(
    arrays(
        np.int64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-(2**31), 2**31)
    ),
    st.integers(1, 2**31 - 1),
)
def test_norm_check_equals_exact_integers(values: np.ndarray, bound: int) -> None:
    expected = [norm <= bound**2 for norm in exact_norms(values)]
    assert norms_within(values.astype(np.float64), bound).tolist() == expected


@given(matrices, norms)
def test_clipped_rows_are_no_longer_than_the_norm(batch: np.ndarray, norm: float) -> None:
    clipped, zeroed = clip_rows(batch, norm)
    lengths = np.linalg.norm(clipped.astype(np.float64), axis=1)
    assert (lengths <= norm * (1 + 1e-14)).all()
    finite = np.isfinite(batch).all(axis=1)
    assert zeroed == (~finite).sum()
    assert not clipped[~finite].any()
    before = np.linalg.norm(batch[finite].astype(np.float64), axis=1)
    short = before <= norm * (1 - 1e-12)
    assert (clipped[finite][short] == batch[finite][short]).all()
    # direction is kept: each entry shrinks by the same factor, to float32's precision and range
    factor = np.minimum(1.0, norm / np.maximum(before, 1e-300))
    wanted = batch[finite].astype(np.float64) * factor[:, None]
    assert np.allclose(clipped[finite], wanted, rtol=1e-6, atol=1e-44)


@given(
    st.integers(1, 12).flatmap(
        lambda k: st.tuples(*[arrays(np.int64, k, elements=st.integers(-(2**25), 2**25)) for _ in range(2)])
    ),
    st.integers(0, 2**25),
)
def test_projection_moves_no_two_sums_apart(pair: tuple[np.ndarray, np.ndarray], limit: int) -> None:
    a, b = pair
    before = int(((a - b) ** 2).sum())
    p, q = project_range(a, limit), project_range(b, limit)
    assert int(((p - q) ** 2).sum()) <= before
    assert np.abs(p).max() <= limit
    assert (project_range(p, limit) == p).all()


@given(st.integers(1, 64), st.integers(0, 300), st.integers(0, 2**32))
def test_packing_loses_nothing(bits: int, count: int, seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    values = rng.integers(0, 2**bits - 1, count, dtype=np.uint64, endpoint=True)
    data = pack(values, bits)
    assert len(data) == packed_size(count, bits)
    assert (unpack(data, bits, count) == values).all()


@given(st.integers(1, 64), st.binary(max_size=100))
def test_every_accepted_string_has_one_meaning(bits: int, data: bytes) -> None:
    count = len(data) * 8 // bits
    try:
        values = unpack(data, bits, count)
    except ValueError:
        return
    assert pack(values, bits) == data


@given(
    st.integers(1, 62),
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_residues_add_up_to_the_sum_modulo_the_field(bits: int, rows: list[list[int]]) -> None:
    field = Field(bits, len(rows), 0)
    total = np.zeros(3, dtype=np.uint64)
    for row in rows:
        total = total + field.encode(np.array(row, dtype=np.int64))
    half = field.modulus // 2
    for found, column in zip(field.decode(total).tolist(), zip(*rows, strict=True), strict=True):
        assert -half <= found < half
        assert (found - sum(column)) % field.modulus == 0
