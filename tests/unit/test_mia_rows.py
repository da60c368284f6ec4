"""The rows of membership: what they are held against, and what they may say of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from privet.attacks import mia_gradient, statistics
from privet.attacks.finding import Finding
from privet.attacks.mia_gradient import Membership
from privet.privacy.events import Release
from privet.privacy.ledger import Ledger


def rows(scores: Any, inside: Any, sigma: float = 2.0, alarm: float = 0.05 / 12) -> list[Finding]:
    """Rows of an attack with these scores on one release with this noise."""
    ledger = Ledger("client", "zero-out", 1.4491e-5, releases=[Release("sums", sigma)])
    rehearsed: Any = SimpleNamespace(ledger=ledger)
    found = Membership(np.asarray(scores, np.float64), np.asarray(inside, np.bool_), rehearsed)
    return mia_gradient.findings(found, "this run", sees="the sums", alarm=alarm)


def separated(count: int, share: float) -> tuple[Any, Any]:
    """So many members and others; ``share`` of the members score above all others, the rest among them."""
    generator = np.random.default_rng(0)
    members, others = generator.random(count), generator.random(count)
    members[: int(share * count)] += 1
    return np.concatenate([members, others]), np.arange(2 * count) < count


@pytest.mark.parametrize(("share", "verdict"), [(0.1, "holds"), (0.6, "in doubt"), (1.0, "alarm")])
def test_an_advantage_whose_printed_bound_is_above_what_is_allowed_is_not_called_within_it(
    share: float, verdict: str
) -> None:
    found = rows(*separated(60, share))
    advantage = found[1]
    assert advantage.compared is not None
    assert advantage.low is not None
    assert (advantage.low > advantage.compared) == (verdict != "holds")
    assert {row.verdict for row in found} == {verdict}
    assert ("Within" in advantage.text) == (verdict == "holds")


def test_an_epsilon_is_told_rounded_up_with_what_it_is_about() -> None:
    """It was 1.84 for 1.8446, without unit, relation, delta and observer; delta is 1.4491e-5."""
    (text,) = {row.text for row in rows(*separated(60, 0.1), sigma=2.1)}
    assert "epsilon 1.845 at delta 1.5e-5 (unit client, relation zero-out, against the server)" in text


def test_no_rate_is_told_that_so_few_others_cannot_show() -> None:
    """It was called TPR at 1 % FPR, at a threshold of 1/(n + 1), beside the bound for 1 %."""
    positives = rows(*separated(24, 0.5))[2]
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
