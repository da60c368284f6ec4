"""Rows over runs of candidates keep their level although the scores of one run hang together: simulations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from privet.attacks.client_updates import subsets
from privet.attacks.finding import Finding
from privet.attacks.gdp import epsilon_of_mu
from privet.attacks.named_runs import Guessed, findings, scores_of

DELTA, CANDIDATES = 1e-5, 4
SETS = subsets(CANDIDATES)
Floats = NDArray[np.float64]


def rows(
    scores: list[Floats], inside: list[Any], epsilon: float | None, alarm: float = 0.05
) -> list[Finding]:
    epsilons = SimpleNamespace(value=epsilon, reason=None if epsilon else "nothing is noised")
    trust = SimpleNamespace(worst=SimpleNamespace(name="server"))
    ledger = SimpleNamespace(
        epsilon=lambda: epsilons, delta=DELTA, unit="client", relation="zero-out", trust=trust
    )
    rehearsed: Any = SimpleNamespace(ledger=ledger)
    found = Guessed(np.stack(scores), np.stack(inside), rehearsed)
    return findings(found, "simulated", attack="mia.codec", sees="numbers", alarm=alarm)


@pytest.mark.parametrize("runs", [4, 16])
@pytest.mark.parametrize("names", [0.0, 0.2, 0.4, 0.6])
def test_the_interval_covers_the_share_of_named_runs_where_one_run_decides_all_its_candidates(
    names: float, runs: int
) -> None:
    """A run names the true set with probability ``names``, else a random one; 95 % of 400 intervals hold the truth.

    An interval for the area under the curve that took all candidates for independent missed up to a quarter.
    """
    generator = np.random.default_rng(1)
    truth, missed, audits = names + (1 - names) / len(SETS), 0, 400
    for _ in range(audits):
        scores, inside = [], []
        for _ in range(runs):
            true = generator.integers(len(SETS))
            nearest = true if generator.random() < names else generator.integers(len(SETS))
            apart = 1 + 0.3 * generator.random(len(SETS))
            apart[nearest] = 0.2 + 0.1 * generator.random()
            scores.append(scores_of(apart, SETS))
            inside.append(SETS[true])
        found = rows(scores, inside, None)[0]
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= truth <= found.high
    assert missed <= binom.ppf(0.999, audits, 0.05)


@pytest.mark.parametrize("shape", ["apart", "alike", "opposite"])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_an_honest_sum_raises_an_alarm_no_more_often_than_it_may(shape: str, sigma: float) -> None:
    """Candidates that point apart, all the same way (one noise decides all), or against each other; level 0.2."""
    vectors = {
        "apart": np.eye(CANDIDATES),
        "alike": np.eye(CANDIDATES)[[0, 0, 0, 0]],
        "opposite": np.array([[1.0], [-1.0], [1.0], [-1.0]]) * np.eye(CANDIDATES)[[0, 0, 1, 1]],
    }[shape]
    generator = np.random.default_rng(2)
    epsilon, audits, alarms = epsilon_of_mu(1 / sigma, DELTA), 150, 0
    for _ in range(audits):
        inside = [generator.random(CANDIDATES) < 0.5 for _ in range(6)]
        opened = [who @ vectors + sigma * generator.standard_normal(CANDIDATES) for who in inside]
        scores = [scores_of(np.linalg.norm(SETS @ vectors - seen, axis=1), SETS) for seen in opened]
        alarms += rows(scores, inside, epsilon, alarm=0.2)[0].verdict == "alarm"
    assert alarms <= binom.ppf(0.999, audits, 0.2)


def test_a_sum_with_a_twentieth_of_its_noise_raises_an_alarm() -> None:
    generator = np.random.default_rng(3)
    inside = [generator.random(CANDIDATES) < 0.5 for _ in range(6)]
    opened = [who + 0.1 * generator.standard_normal(CANDIDATES) for who in inside]
    scores = [scores_of(np.linalg.norm(SETS - seen, axis=1), SETS) for seen in opened]
    found, proved = rows(scores, inside, epsilon_of_mu(1 / 2, DELTA))
    assert found.verdict == proved.verdict == "alarm"
    assert found.value == 1.0
    assert proved.low is not None
    assert proved.compared is not None
    assert proved.low > proved.compared


def test_the_text_of_few_candidates_says_that_no_alarm_was_possible() -> None:
    blind = [np.ones(CANDIDATES)] * 2
    found, _ = rows(blind, [SETS[3], SETS[5]], epsilon_of_mu(1.0, DELTA))
    assert found.verdict == "holds"
    assert "this row could raise no alarm" in found.text


def test_a_bound_that_exceeds_the_account_at_95_percent_alone_is_in_doubt() -> None:
    """24 of 24 coins prove 5.2 at 95 %, and 2.7 at the level of a suite's alarm."""
    right = [np.where(SETS[i], 1.0, -1.0) for i in (1, 6, 7, 9, 12, 14)]
    found, proved = rows(right, [SETS[i] for i in (1, 6, 7, 9, 12, 14)], 4.0, alarm=0.05 / 12)
    assert found.verdict == proved.verdict == "in doubt"
    assert proved.low == pytest.approx(5.18, abs=0.01)
