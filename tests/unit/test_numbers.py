"""How numbers are written: never better than they are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.report import numbers


@given(st.floats(1e-6, 1e4))
def test_epsilon_is_rounded_up_to_four_digits(value: float) -> None:
    written = float(numbers.epsilon(value))
    assert written >= value * (1 - 1e-9)
    assert written <= value * 1.0011


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.0, "8.000"),
        (7.99601, "7.997"),
        (0.0, "0"),
        (12.3401, "12.35"),
        (0.29127, "0.2913"),
        (1.3601, "1.361"),
    ],
)
def test_epsilon_examples(value: float, text: str) -> None:
    assert numbers.epsilon(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-5"),
        (1.449e-5, "1.5e-5"),
        (1.0499e-5, "1.1e-5"),
        (1 / 69000, "1.5e-5"),
        (2.5e-6, "2.5e-6"),
        (9.91e-6, "1e-5"),
        (0.01, "0.01"),
        (1e-12, "1e-12"),
        (0.0, "0"),
        (None, "–"),
    ],
)
def test_delta_is_rounded_up_to_two_digits(value: float | None, text: str) -> None:
    assert numbers.delta(value) == text


@given(st.floats(1e-15, 0.5))
def test_no_delta_is_written_smaller_than_it_is(value: float) -> None:
    assert value <= float(numbers.delta(value)) <= 1.11 * value


@pytest.mark.parametrize("value", [None, math.inf])
def test_no_finite_epsilon_is_the_word_none(value: float | None) -> None:
    assert numbers.epsilon(value) == "none"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (52_300, "52.3 kB"),
        (2_080_000, "2.08 MB"),
        (3.2e9, "3.2 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert numbers.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.52, "0.5 s"), (42.4, "42 s"), (301.0, "5 min"), (7500.0, "2 h 5 min"), (None, "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


def test_the_rest() -> None:
    assert numbers.delta(1e-5) == "1e-5"
    assert numbers.percent_interval(0.881, 0.86, 0.9) == "88.1 % [86.0, 90.0]"
    assert numbers.percent_interval(0.881, None, None) == "88.1 %"
    assert numbers.loss(0.3, 0.0139) == "0.300 ± 0.014"
    assert numbers.change(0.42, 0.30) == "−0.120"
    assert numbers.change(None, 0.30) == "–"
