from __future__ import annotations

import math

import numpy as np
import pytest

from privet import fixed_point
from privet.clip import clip_rows
from privet.errors import PrivetError
from privet.fixed_point import Field, Grid, norms_within, project_range, round_units
from privet.keys import ClientKeys, derive
from privet.protocol import RoundId

ROOT = bytes(range(32))


def keys(count: int, label: str = "") -> list[bytes]:
    return [derive(ROOT, label, i) for i in range(count)]


def hardest(grid: Grid, clip_norm: float, dimension: int) -> np.ndarray:
    """A vector of full length with as many coordinates as possible halfway between two grid values."""
    vector = np.full(dimension, 0.5 * grid.step)
    rest = clip_norm**2 - 0.25 * grid.step**2 * (dimension - 1)
    vector[0] = math.sqrt(rest) * (1 - 1e-12)
    return vector[None]


@pytest.mark.parametrize("dimension", [1, 2, 64, 12_288, 1_000_000])
@pytest.mark.parametrize("inflation", [0.001, 0.01, 0.1])
def test_grid_keeps_the_promised_inflation_and_room_for_rounding(dimension: int, inflation: float) -> None:
    grid = Grid.for_clip(0.7, dimension, inflation)
    radius = 0.7 / grid.step
    assert 1 < grid.sensitivity / 0.7 <= 1 + inflation + 1e-12
    t = math.sqrt(2 * math.log(2.0**20))
    assert grid.bound**2 >= radius**2 + dimension / 4 + t * (radius + math.sqrt(dimension) / 2)
    # and it is the coarsest: with 1 % longer steps there is no integer bound left
    shorter = radius / 1.01
    needed = math.sqrt(shorter**2 + dimension / 4 + t * (shorter + math.sqrt(dimension) / 2)) + 1
    assert needed > (1 + inflation) * shorter


def test_a_finer_grid_on_request() -> None:
    assert Grid.for_clip(1.0, 64).bound < 5000 <= Grid.for_clip(1.0, 64, min_bound=5000).bound < 5100


@pytest.mark.parametrize(
    ("clip_norm", "dimension", "inflation", "min_bound", "word"),
    [
        (0.0, 1, 0.01, 1, "clip_norm"),
        (math.nan, 1, 0.01, 1, "clip_norm"),
        (1.0, 0, 0.01, 1, "dimension"),
        (1.0, 1, 0.0, 1, "inflation"),
        (1.0, 1, 0.01, 2**31, "finer"),
    ],
)
def test_impossible_grids_are_refused(
    clip_norm: float, dimension: int, inflation: float, min_bound: int, word: str
) -> None:
    with pytest.raises(PrivetError, match=word):
        Grid.for_clip(clip_norm, dimension, inflation, min_bound)
    for step, bound in ((0.0, 1), (math.inf, 1), (1.0, 0), (1.0, 2**31)):
        with pytest.raises(PrivetError, match="grid"):
            Grid(step, bound)


@pytest.mark.parametrize("dimension", [64, 12_288])
def test_hardest_vectors_survive_rounding(dimension: int) -> None:
    """A try is rejected with probability at most 2**-20, so 200 units lose none; false alarm below 2e-22."""
    grid = Grid.for_clip(1.0, dimension)
    zeroed: list[int] = []
    rounded = round_units(np.repeat(hardest(grid, 1.0, dimension), 200, axis=0), grid, keys(200), zeroed)
    assert zeroed == []
    norms = (rounded**2).sum(axis=1)
    assert norms.max() <= grid.bound**2
    assert norms.min() > 0


def test_rejected_rows_are_rounded_again_and_then_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound at the mean norm rejects half of the tries: 1/16 of the rows end as zero, none too long."""
    dimension = 2 * 44**2
    vector = np.full((400, dimension), 0.5)
    grid = Grid(step=1.0, bound=math.isqrt(dimension // 2))
    zeroed: list[int] = []
    rounded = round_units(vector, grid, keys(400), zeroed)
    norms = (rounded**2).sum(axis=1)
    assert norms.max() <= grid.bound**2
    assert (np.flatnonzero(norms == 0) == zeroed).all()
    assert 10 < len(zeroed) < 100
    monkeypatch.setattr(fixed_point, "TRIES", 1)
    once: list[int] = []
    round_units(vector, grid, keys(400), once)
    assert set(zeroed) < set(once)
    assert 120 < len(once) < 320


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e300])
def test_trap_08_whatever_comes_in_only_bounded_rows_come_out(bad: float) -> None:
    grid = Grid.for_clip(1.0, 100)
    batch = np.zeros((3, 100))
    batch[:, 0] = 0.9
    batch[1, 50] = bad
    zeroed: list[int] = []
    rounded = round_units(batch, grid, keys(3), zeroed)
    assert zeroed == [1]
    assert (rounded[1] == 0).all()
    assert (rounded[[0, 2]] != 0).any(axis=1).all()


def test_a_row_depends_on_its_vector_and_key_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid.for_clip(1.0, 1000)
    batch, _ = clip_rows(
        np.random.Generator(np.random.PCG64(0)).standard_normal((50, 1000)).astype("f4"), 1.0
    )
    together = round_units(batch, grid, keys(50))
    order = np.random.Generator(np.random.PCG64(1)).permutation(50)
    assert (round_units(batch[order], grid, [keys(50)[i] for i in order]) == together[order]).all()
    monkeypatch.setattr(fixed_point, "_BLOCK", 1)
    assert (round_units(batch, grid, keys(50)) == together).all()
    assert (round_units(batch, grid, keys(50, "other")) != together).any()
    assert np.abs(together - batch.astype(np.float64) / grid.step).max() < 1 + 1e-9


@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (4, 3)])
def test_one_key_for_each_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row for each of 5 keys"):
        round_units(np.zeros(shape), Grid(1.0, 1), keys(5))


def test_any_split_over_silos_opens_the_same_integers() -> None:
    """1, 2 and 4 silos and one pool sum to equal integers, round after round."""
    dimension, units = 200, [f"record-{i}" for i in range(60)]
    vectors, _ = clip_rows(
        np.random.Generator(np.random.PCG64(2)).standard_normal((60, dimension)).astype("f4") * 0.1, 1.0
    )
    grid = Grid.for_clip(1.0, dimension)
    previous = None
    for number in range(3):
        sums = []
        for silos in (1, 2, 4):
            total = np.zeros(dimension, dtype=np.int64)
            for party in range(silos):
                client = ClientKeys.from_insecure_test_seed(5, party)
                rows = list(range(party, 60, silos))
                unit_keys = client.unit_keys("rounding", RoundId(number), [units[i] for i in rows])
                total += round_units(vectors[rows], grid, unit_keys).sum(axis=0)
            sums.append(total)
        assert (sums[0] == sums[1]).all()
        assert (sums[0] == sums[2]).all()
        assert previous is None or (sums[0] != previous).any()
        previous = sums[0]


@pytest.mark.parametrize("bound", [5, 94_906_265, 2**31 - 1])
def test_norms_are_compared_exactly(bound: int) -> None:
    """Rows one unit of squared norm apart on either side of the bound, where float64 sums would round."""
    width = 40_000
    values = np.zeros((4, width))
    values[0, 0] = bound
    values[1, 0], values[1, 1] = bound, 1
    values[2, 0], values[2, 1:3] = bound - 1, -1
    values[3] = bound
    assert norms_within(values, bound).tolist() == [True, False, True, False]
    exact = [sum(int(v) ** 2 for v in row if v) <= bound**2 for row in values]
    assert norms_within(values, bound).tolist() == exact


def test_norms_of_large_sums_do_not_overflow() -> None:
    """2**62 a coordinate: int64 would wrap to zero after four of them and let the row pass."""
    values = np.full((1, 4), 2.0**31 - 1)
    values[0] = 2.0**31 - 1
    assert norms_within(np.repeat(values, 2, axis=0), 2**31 - 1).tolist() == [False, False]
    wrapped = np.square(np.full(8, 2**31 - 1, dtype=np.int64)).sum()
    assert wrapped < (2**31 - 1) ** 2  # what a naive sum would have said


def test_norms_of_nothing() -> None:
    assert norms_within(np.empty((0, 5)), 1).shape == (0,)
    assert norms_within(np.empty((2, 0)), 1).all()


def test_projection_is_onto_the_box_and_leaves_the_inside_alone() -> None:
    total = np.array([-(2**40), -7, -6, 0, 6, 7, 2**40])
    assert project_range(total, 6).tolist() == [-6, -6, -6, 0, 6, 6, 6]


@pytest.mark.parametrize(("parties", "dimension", "std"), [(1, 1, 0.0), (3, 12_288, 317.0), (64, 10**6, 4.0)])
def test_field_holds_the_largest_sum_and_all_but_2_to_minus_40_of_the_noise(
    parties: int, dimension: int, std: float
) -> None:
    limit = 40_000
    field = Field.for_sum(parties=parties, limit=limit, share_std_steps=std, dimension=dimension)
    room = 2 ** (field.bits - 1) - 1 - parties * limit - parties / 2
    if std:
        z = room / (math.sqrt(parties) * std)
        assert dimension * math.erfc(z / math.sqrt(2)) <= 2.0**-40
    assert (
        2 ** (field.bits - 2) - 1 < parties * (limit + 0.5) + 13 * math.sqrt(parties) * std
    )  # no bit too many


def test_field_sums_as_integers_do() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    field = Field.for_sum(parties=5, limit=1000, share_std_steps=50.0, dimension=300)
    values = rng.integers(-1000, 1001, (5, 300))
    total = np.zeros(300, dtype=np.uint64)
    for row in values:
        residues = field.encode(row)
        assert residues.max() < field.modulus
        total += residues
    assert (field.decode(total) == values.sum(axis=0)).all()
    assert (field.decode(total & np.uint64(field.modulus - 1)) == values.sum(axis=0)).all()
    low, high = -(2 ** (field.bits - 1)), 2 ** (field.bits - 1) - 1
    edge = np.array([low, high, -1, 0, 1])
    assert (field.decode(field.encode(edge)) == edge).all()


def test_fields_that_no_word_holds_are_refused() -> None:
    with pytest.raises(PrivetError, match="fewer bits"):
        Field.for_sum(parties=1000, limit=2**55, share_std_steps=1.0, dimension=1)
    for bits, parties, limit in ((0, 1, 1), (63, 1, 1), (8, 0, 1), (8, 1, -1)):
        with pytest.raises(PrivetError, match="field"):
            Field(bits, parties, limit)
