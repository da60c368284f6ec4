"""Server optimisers against sums done by hand, and their state through a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from privet.config import OptimiserConfig
from privet.optimiser import Optimiser, rate_share


def steps(directions: list[list[float]], start: list[float], **options: Any) -> list[list[float]]:
    optimiser = Optimiser.fresh(OptimiserConfig(**options), len(start), len(directions))
    values, seen = np.array(start, np.float32), []
    for direction in directions:
        values = optimiser.step(values, np.array(direction, np.float32))
        assert values.dtype == np.float32
        seen.append(values.tolist())
    return seen


def test_average_adds_the_direction() -> None:
    found = steps([[1, -2], [0.5, 0]], [10, 20], kind="average", learning_rate=0.5)
    assert found == [[10.5, 19.0], [10.75, 19.0]]


def test_momentum_by_hand() -> None:
    """m1 = 0.25 * 4 = 1, m2 = 0.75 * 1 + 0.25 * 8 = 2.75; steps of half of it."""
    found = steps([[4], [8]], [0], kind="momentum", momentum=0.75, learning_rate=0.5)
    assert found == [[0.5], [0.5 + 1.375]]


def test_adam_by_hand() -> None:
    """Kingma and Ba, Algorithm 1, with its bias corrections; epsilon large enough to show where it stands."""
    b1, b2, eps, rate = 0.5, 0.75, 0.1, 2.0
    first = second = value = 0.0
    expected = []
    for t, g in enumerate([3.0, -1.0, 0.5], start=1):
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g * g
        value += rate * (first / (1 - b1**t)) / (math.sqrt(second / (1 - b2**t)) + eps)
        expected.append([value])
    options = {"momentum": b1, "beta2": b2, "epsilon": eps, "learning_rate": rate, "normalise": False}
    found = steps([[3], [-1], [0.5]], [0], kind="adam", **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("dimension", [4, 100, 10_000])
def test_a_normalised_first_step_has_the_length_of_the_rate(dimension: int) -> None:
    direction = np.random.default_rng(1).standard_normal(dimension).tolist()
    found = np.array(steps([direction], [0.0] * dimension, kind="adam", learning_rate=0.3)[0])
    assert np.linalg.norm(found) == pytest.approx(0.3, rel=1e-4)
    assert np.array_equal(np.sign(found), np.sign(direction)), "it moves along the direction"


def test_warm_up_rises_linearly_and_stays() -> None:
    found = steps([[1]] * 5, [0], kind="average", learning_rate=1.0, warmup_rounds=4)
    np.testing.assert_allclose(np.diff([0, *[row[0] for row in found]]), [0.25, 0.5, 0.75, 1, 1])


def rates(**options: Any) -> list[float]:
    """The rate of each of six steps."""
    found = steps([[1]] * 6, [0], kind="average", learning_rate=1.0, **options)
    return np.diff([0, *[row[0] for row in found]]).tolist()


def test_linear_decay_ends_one_step_before_zero() -> None:
    np.testing.assert_allclose(rates(decay="linear"), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=1e-5)


def test_cosine_decay_by_hand() -> None:
    """(1 + cos(pi i/6)) / 2 for i = 0..5."""
    root = math.sqrt(3) / 2
    expected = [1, (1 + root) / 2, 0.75, 0.5, 0.25, (1 - root) / 2]
    np.testing.assert_allclose(rates(decay="cosine"), expected, rtol=1e-5)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_decay_starts_after_the_warm_up(decay: str) -> None:
    found = rates(decay=decay, warmup_rounds=2)
    np.testing.assert_allclose(found[:3], [0.5, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(found[4], 0.5, rtol=1e-5)
    assert 0 < found[5] < found[4] < found[3] < 1


def test_a_run_without_decay_does_not_need_its_length() -> None:
    assert rate_share(OptimiserConfig(), step=7, rounds=0) == 1
    assert rate_share(OptimiserConfig(decay="linear"), step=9, rounds=6) == 0


def test_the_input_is_left_alone() -> None:
    for kind in ("average", "momentum", "adam"):
        optimiser = Optimiser.fresh(OptimiserConfig(kind=kind), 3, 1)
        values, direction = np.ones(3, np.float32), np.full(3, 2, np.float32)
        moved = optimiser.step(values, direction)
        assert values.tolist() == [1, 1, 1]
        assert direction.tolist() == [2, 2, 2]
        assert not np.shares_memory(moved, values)


def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened() -> None:
    directions = [np.random.default_rng(i).standard_normal(6).astype(np.float32) for i in range(6)]
    for kind in ("momentum", "adam"):
        config = OptimiserConfig(kind=kind, warmup_rounds=2, decay="cosine")
        one, values = Optimiser.fresh(config, 6, 6), np.zeros(6, np.float32)
        other, moved = Optimiser.fresh(config, 6, 6), np.zeros(6, np.float32)
        for i, direction in enumerate(directions):
            values = one.step(values, direction)
            if i == 3:
                saved, other = other.to_body(), Optimiser.fresh(config, 6, 6)
                other.restore(saved)
            moved = other.step(moved, direction)
        np.testing.assert_array_equal(values, moved)
