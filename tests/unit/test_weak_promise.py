"""Promises that say little are named in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from support.toy import config

from privet.errors import PrivetError
from privet.plan import with_target
from privet.weak_promise import weak_promises


def notes(records: int = 1000, **privacy: Any) -> list[str]:
    given = {"target_epsilon": 2.0, "noise_multiplier": None, "delta": 1e-5, **privacy}
    return weak_promises(config(insecure_test_seed=None, privacy=given), records, 4)


def test_an_ordinary_promise_needs_no_note() -> None:
    assert notes() == []
    assert notes(0, delta=0.01) == []  # how many there are is not known


def test_a_delta_that_lets_one_unit_out_is_named() -> None:
    (note,) = notes(100_000)
    assert "1/100000, one over the number of records" in note


def test_an_epsilon_that_bounds_nothing_is_named() -> None:
    (note,) = notes(target_epsilon=30.0)
    assert "ε = 30 is above 20" in note


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_target_names_the_option(epsilon: float) -> None:
    with pytest.raises(PrivetError) as caught:
        with_target(config(), epsilon)
    assert caught.value.field == "--epsilon"
