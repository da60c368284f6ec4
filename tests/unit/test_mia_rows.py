"""The rows of membership: what they are held against, and what they may say of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from privet.attacks import mia_gradient, statistics
from privet.attacks.finding import Finding
from privet.attacks.mia_gradient import Membership
from privet.privacy.events import Release
from privet.privacy.ledger import Ledger


def rows(
    scores: Any, inside: Any, sigma: float = 2.0, alarm: float = 0.05 / 12, unit: Any = "record"
) -> list[Finding]:
    """Rows of an attack with these scores on one release with this noise."""
    ledger = Ledger(unit, "add-remove", 1.4491e-5, releases=[Release("sums", sigma)])
    rehearsed: Any = SimpleNamespace(ledger=ledger)
    found = Membership(np.asarray(scores, np.float64), np.asarray(inside, np.bool_), rehearsed)
    return mia_gradient.findings(found, "this run", sees="the sums", alarm=alarm)


def separated(count: int, share: float) -> tuple[Any, Any]:
    """So many members and others; ``share`` of the members score above all others, the rest among them."""
    generator = np.random.default_rng(0)
    members, others = generator.random(count), generator.random(count)
    members[: int(share * count)] += 1
    return np.concatenate([members, others]), np.arange(2 * count) < count


@pytest.mark.parametrize(("wrong", "verdict"), [(10, "holds"), (1, "in doubt"), (0, "alarm")])
def test_guesses_whose_printed_bound_is_above_the_account_are_not_called_within_it(
    wrong: int, verdict: str
) -> None:
    """24 of 48 coins are guessed; ``wrong`` members have the lowest scores of all."""
    inside = np.arange(48) < 24
    scores = np.where(inside, 1.0, 0.0)
    scores[:wrong] = -1.0
    found = rows(scores, inside)
    bound = found[2]
    assert bound.compared is not None
    assert bound.low is not None
    assert (bound.low > bound.compared) == (verdict != "holds")
    assert {row.verdict for row in found} == {verdict}
    assert ("Within" in bound.text) == (verdict == "holds")


def test_an_epsilon_is_told_rounded_up_with_what_it_is_about() -> None:
    """It was 1.84 for 1.8446, without unit, relation, delta and observer; delta is 1.4491e-5."""
    (text,) = {row.text for row in rows(*separated(60, 0.1), sigma=2.1)}
    assert "epsilon 1.845 at delta 1.5e-5 (unit record, relation add-remove, against the server)" in text


def test_records_of_clients_are_held_against_no_epsilon_of_clients() -> None:
    """Two of one client come and go together there; however well they are told apart, no promise is broken."""
    found = rows(*separated(60, 1.0), unit="client")
    assert {row.verdict for row in found} == {"reported"}
    assert {row.compared for row in found} == {None}
    assert not any(row.control for row in found)


@pytest.mark.parametrize("inside", [True, False])
def test_coins_that_all_fell_alike_leave_the_bound(inside: bool) -> None:
    (bound,) = rows(np.arange(8.0), np.full(8, inside))
    assert bound.samples == "2 of 4 coins guessed right"


@pytest.mark.parametrize(("sigma", "alike"), [(0.5, 0.0), (1.0, 0.9), (2.0, 1.0)])
def test_an_honest_sum_raises_an_alarm_no_more_often_than_it_may(sigma: float, alike: float) -> None:
    """Candidates that point more or less the same way, so that one noise moves all scores; level 0.2."""
    generator = np.random.default_rng(2)
    number, audits, alarms = 16, 100, 0
    directions = np.sqrt(1 - alike) * np.eye(number, number + 1, 1)
    directions[:, 0] = np.sqrt(alike)
    for _ in range(audits):
        inside = generator.random(number) < 0.5
        opened = inside @ directions + sigma * generator.standard_normal(number + 1)
        ridge = 4 * sigma**2 * np.eye(number)
        scores = np.linalg.solve(directions @ directions.T + ridge, directions @ opened)
        alarms += rows(scores, inside, sigma, alarm=0.2)[0].verdict == "alarm"
    assert alarms <= binom.ppf(0.999, audits, 0.2)


def test_no_rate_is_told_that_so_few_others_cannot_show() -> None:
    """It was called TPR at 1 % FPR, at a threshold of 1/(n + 1), beside the bound for 1 %."""
    positives = rows(*separated(24, 0.5))[1]
    assert positives.metric == "TPR at none of 24 false positives"
    assert "1/25 on average" in positives.interval
    assert positives.compared is None
    assert positives.value is not None
    assert positives.value >= 0.5


@pytest.mark.parametrize(("count", "gain"), [(12, 0.0), (24, 0.0), (24, 1.0)])
def test_the_interval_of_a_true_positive_rate_holds_the_rate_at_its_own_threshold(
    count: int, gain: float
) -> None:
    """Normal scores, members ``gain`` higher: the truth at each threshold is known.

    It is missed in 5 % of 2,000 trials at most; so many as 6.6 % would be counted with probability 1e-3.
    """
    generator, missed, told = np.random.default_rng(1), 0, []
    for _ in range(2000):
        members, others = generator.normal(gain, 1, count), generator.normal(0, 1, count)
        found = statistics.above_all(members, others)
        missed += not found.low <= norm.sf(others.max() - gain) <= found.high
        told.append(found.value)
    assert missed / 2000 < 0.066
    if gain == 0:
        assert np.mean(told) == pytest.approx(1 / (count + 1), abs=0.01)
