"""The pipeline's order, and what no record and no encoder can do to the sum."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from privet.errors import PrivetError
from privet.keys import ClientKeys
from privet.mechanism import GaussianMechanism
from privet.pipeline import Clip, Encode, Floats, Pass, Pipeline, Round, Share, Units
from privet.protocol import RoundId
from privet.randomness import RoundRandomness

DIMENSION, SIZE = 12, 5
MECHANISM = GaussianMechanism(1.0, 2.0, SIZE)


@dataclass(frozen=True)
class Spoiler:
    """An encoder that does its worst."""

    factor: float
    kind: str = "spoiler"
    dimension: int = DIMENSION
    size: int = SIZE

    def encode(self, batch: Floats) -> Floats:
        return (batch[:, :SIZE] * np.float32(self.factor)).astype(np.float32)

    def decode(self, total: Floats) -> Floats:
        return np.resize(total, DIMENSION)


class Sociable(Spoiler):
    """An encoder whose codes tell how many stand beside them, as the last bits of a matrix product do."""

    def encode(self, batch: Floats) -> Floats:
        return super().encode(batch) + np.float32(len(batch))


def passing() -> Pass:
    round_id = RoundId(0)
    return Pass(round_id, RoundRandomness(ClientKeys.from_insecure_test_seed(1, 0), round_id))


def stages(factor: float = 1.0, limit: int | None = None) -> dict[str, Any]:
    bound = MECHANISM.grid.bound
    return {
        "encode": Encode(Spoiler(factor)),
        "clip": Clip(1.0),
        "round": Round(MECHANISM.grid, 8.0, 16 * bound if limit is None else limit),
        "share": Share(MECHANISM),
    }


def units(rows: Floats) -> list[Units]:
    return [Units(tuple(f"r{i}" for i in range(len(rows))), rows)]


def test_a_unit_s_code_does_not_depend_on_its_company() -> None:
    encode, rows = (
        Encode(Sociable(1.0)),
        np.random.default_rng(0).normal(size=(5, DIMENSION)).astype(np.float32),
    )
    together = encode.forward(rows, tuple("abcde"), passing())
    for at in range(5):
        alone = encode.forward(rows[at : at + 1], ("a",), passing())
        assert together[at : at + 1].tobytes() == alone.tobytes()
    assert encode.forward(rows[:0], (), passing()).shape == (0, SIZE)


def test_trap_07_no_other_order_is_accepted() -> None:
    """Of all 24 orders of encode, clip, round and share only the sound one is built."""
    given = stages()
    accepted = []
    for order in permutations(given):
        refusal: PrivetError | None = None
        try:
            Pipeline([given[name] for name in order])
        except PrivetError as error:
            refusal = error
        if refusal is None:
            accepted.append(order)
        else:
            assert (refusal.field, refusal.given) == ("pipeline", " → ".join(order))
            assert refusal.allowed is not None
    assert accepted == [("encode", "clip", "round", "share")]


@pytest.mark.parametrize(
    "names",
    [
        ("encode", "clip", "share"),
        ("encode", "round", "share"),
        ("clip", "clip", "round"),
        ("clip", "round", "round"),
        ("clip", "round", "share", "share"),
        ("clip", "round", "share", "encode"),
        (),
    ],
)
def test_trap_07_nothing_is_missing_or_twice(names: tuple[str, ...]) -> None:
    with pytest.raises(PrivetError):
        Pipeline([stages()[name] for name in names])


@pytest.mark.parametrize("other", [GaussianMechanism(2.0, 2.0, SIZE), GaussianMechanism(1.0, 2.0, 40_000)])
def test_noise_of_another_mechanism_is_refused(other: GaussianMechanism) -> None:
    """The clip, the grid and the noise that the ledger counts are of one mechanism."""
    with pytest.raises(PrivetError, match="different mechanisms"):
        Pipeline([Clip(1.0), Round(MECHANISM.grid, 8.0, 100), Share(other)])


@pytest.mark.parametrize("factor", [1e6, 1e30, -1e6, np.nan, np.inf])
def test_trap_07_no_encoder_raises_the_norm_of_a_unit(factor: float) -> None:
    """Encoded, clipped and rounded, each unit is within the integer bound that the noise is made for."""
    given = stages(factor)
    pipeline = Pipeline([given["encode"], given["clip"], given["round"]])
    bound = MECHANISM.grid.bound
    rows = np.random.default_rng(3).standard_normal((200, DIMENSION)).astype(np.float32)
    observed = passing()
    with np.errstate(all="ignore"):
        for i, row in enumerate(rows):
            total = pipeline.forward([Units((f"r{i}",), row[None])], DIMENSION, observed)
            squared = sum(int(v) ** 2 for v in total)
            assert squared <= bound**2
            if np.isfinite(factor):
                assert squared > (0.9 * bound) ** 2, "it is clipped, not thrown away"
    assert observed.observed["zeroed_nonfinite"] == (0 if np.isfinite(factor) else 200)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("private", [True, False])
def test_trap_08_a_record_that_is_not_finite_contributes_zero_and_is_counted(
    value: float, private: bool
) -> None:
    """With a clip and, in systems without privacy, without one."""
    given = stages()
    kept = ["encode", "clip", "round"] if private else ["encode", "round"]
    pipeline = Pipeline([given[name] for name in kept])
    rows = np.random.default_rng(3).standard_normal((6, DIMENSION)).astype(np.float32) * 0.1
    good, seen = passing(), passing()
    expected = pipeline.forward(
        [Units(("r0", "r1", "r3", "r4", "r5"), np.delete(rows, 2, axis=0))], DIMENSION, good
    )
    rows[2, 1] = value
    with np.errstate(invalid="ignore"):
        total = pipeline.forward(units(rows), DIMENSION, seen)
    np.testing.assert_array_equal(total, expected)
    assert seen.observed["zeroed_nonfinite"] == 1
    assert good.observed["zeroed_nonfinite"] == 0
    assert np.abs(expected).sum() > 0


@pytest.mark.parametrize("width", [1, SIZE - 1, SIZE + 1])
def test_a_codec_that_gives_another_length_than_it_says_is_refused(width: int) -> None:
    """One clipped number, broadcast into k coordinates, would move the sum by sqrt(k) times the sensitivity."""

    class Narrow(Spoiler):
        def encode(self, batch: Floats) -> Floats:
            return batch[:, :width]

    given = stages()
    pipeline = Pipeline([Encode(Narrow(1.0)), given["clip"], given["round"], given["share"]])
    with pytest.raises(PrivetError, match="another length"):
        pipeline.forward(units(np.ones((3, DIMENSION), np.float32)), DIMENSION, passing())


def test_trap_05_no_record_still_gives_noise() -> None:
    given = stages()
    pipeline = Pipeline(list(given.values()))
    empty = pipeline.forward([], DIMENSION, passing())
    np.testing.assert_array_equal(
        empty,
        MECHANISM.share(RoundRandomness(passing().keys.keys, RoundId(0)).noise("share")),  # type: ignore[attr-defined]  # the real class
    )
    assert empty.any()


def test_trap_06_the_mean_divides_by_a_public_constant() -> None:
    """The same sum gives the same direction, however many units or clients were behind it."""
    pipeline = Pipeline([stages()["clip"], stages()["round"]])
    total = np.arange(SIZE, dtype=np.int64)
    np.testing.assert_allclose(pipeline.backward(total), total * MECHANISM.grid.step / 8.0, rtol=1e-6)


def test_the_range_is_projected_before_the_noise() -> None:
    """A sum beyond its range is cut, its noise is not."""
    given = stages(limit=3)
    pipeline = Pipeline([given["encode"], given["clip"], given["round"]])
    noisy = Pipeline(list(given.values()))
    rows = np.ones((50, DIMENSION), np.float32)
    seen = passing()
    cut = pipeline.forward(units(rows), DIMENSION, seen)
    assert np.abs(cut).max() == 3
    assert seen.observed["out_of_range"] == np.count_nonzero(np.abs(cut) == 3), "ten steps and more, each"
    with_noise = noisy.forward(units(rows), DIMENSION, passing())
    assert np.abs(with_noise).max() > 3
    np.testing.assert_array_equal(with_noise - cut, noisy.forward([], DIMENSION, passing()))


def test_micro_batches_do_not_matter() -> None:
    pipeline = Pipeline([stages()["clip"], stages()["round"]])
    rows = np.random.default_rng(5).standard_normal((9, SIZE)).astype(np.float32)
    whole = pipeline.forward(units(rows), SIZE, passing())
    single = [Units((f"r{i}",), rows[i : i + 1]) for i in range(9)]
    np.testing.assert_array_equal(pipeline.forward(single, SIZE, passing()), whole)
