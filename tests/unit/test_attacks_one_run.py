"""One-run lower bounds on epsilon, beside a public implementation's numbers and on honest coins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from privet.attacks.audit_one_run import (
    Guesses,
    epsilon_lower_bound,
    epsilon_lower_bound_fdp,
    guess,
    p_value,
)
from privet.attacks.gdp import epsilon_of_mu

CASES = json.loads((Path(__file__).parents[1] / "cases" / "one_run.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['right']}of{c['guesses']}of{c['canaries']}")
def test_bounds_are_those_of_jax_privacy(case: dict[str, float]) -> None:
    g = Guesses(int(case["canaries"]), int(case["guesses"]), int(case["right"]))
    level = 1 - case["significance"]
    assert epsilon_lower_bound(g, case["delta"], level) == pytest.approx(case["one_run"], abs=1e-4)
    assert epsilon_lower_bound_fdp(g, case["delta"], level) == pytest.approx(case["f_dp"], abs=1e-4)


def test_a_guess_takes_the_highest_scores_and_no_coin() -> None:
    g = guess(np.array([0.0, 3.0, 1.0, 2.0]), np.array([True, True, False, False]), share=0.5)
    assert g == Guesses(4, 2, 1)


def test_no_guess_right_refutes_nothing() -> None:
    assert epsilon_lower_bound(Guesses(64, 16, 0), 1e-5) == 0
    assert epsilon_lower_bound_fdp(Guesses(64, 16, 0), 1e-5) == 0
    assert p_value(Guesses(64, 16, 8), 0.0, 0.0) > 0.5


@pytest.mark.parametrize("bound", [epsilon_lower_bound, epsilon_lower_bound_fdp])
def test_honest_gaussian_scores_are_seldom_called_more_visible_than_they_are(bound: object) -> None:
    """At 95 % no more than 5 % of honest audits exceed the true epsilon: 200 of them, false alarm below 1e-3."""
    assert callable(bound)
    mu, delta, canaries = 1.0, 1e-5, 128
    truth, generator = epsilon_of_mu(mu, delta), np.random.default_rng(4)
    over = 0
    for _ in range(200):
        inside = generator.random(canaries) < 0.5
        over += bound(guess(generator.standard_normal(canaries) + mu * inside, inside), delta) > truth
    assert over <= binom.ppf(1 - 1e-3, 200, 0.05)
