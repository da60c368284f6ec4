"""What a choice by what was told is worth: the calculation behind two figures of docs/privacy-ledger.md."""

from __future__ import annotations

import pytest
from experiments.stopping.run import (
    DELTA,
    at_start,
    before,
    calibrated,
    chosen,
    gaussian,
    sampled,
    stopped,
    won,
)

from privet.privacy.accountants import headline
from privet.privacy.events import Release, Sampling

Q = Sampling.poisson(0.02)
FIRST, SECOND = Release("stage 1", 0.411, 1, Q), Release("stage 2", 0.559, 1, Q)


def test_a_number_of_rounds_that_was_fixed_before_has_the_delta_that_is_printed() -> None:
    values, one = won(8.0), gaussian(1 / calibrated(5, 8.0))
    for _ in range(5):
        values = before(values, one)
    assert at_start(values) == pytest.approx(DELTA, rel=1e-3)


def test_so_have_sampled_ones() -> None:
    values, one = won(headline([SECOND.times(20)], DELTA, "add-remove")), sampled(0.559, 0.02)
    for _ in range(20):
        values = before(values, one)
    assert at_start(values) == pytest.approx(DELTA, rel=0.02)


def test_the_best_moment_to_stop_has_more() -> None:
    assert stopped(5, 8.0) > 2 * DELTA


def test_so_has_the_best_choice_between_two_stages() -> None:
    most, delta = chosen(FIRST, SECOND, 3, 8.0)
    assert most[3] == 50
    assert delta > 1.3 * DELTA
