"""``invert.tokens`` under noise: what counts as an alarm, and what breaks no promise."""

from __future__ import annotations

import pytest

from privet.attacks.invert_tokens import Trial, against_prior

TELLING = [Trial(0.9, 0.3, tuple([0.1] * 99))] * 4
BLIND = [Trial(0.1, 0.3, tuple([0.1] * 99))] * 4


@pytest.mark.parametrize(
    ("trials", "reason", "verdict"),
    [
        (TELLING, None, "alarm"),
        (TELLING, "nothing is noised", "leaks"),
        (BLIND, None, "holds"),
        (BLIND, "nothing is noised", "holds"),
    ],
)
def test_more_tokens_than_without_the_message_are_an_alarm_where_an_epsilon_is_claimed(
    trials: list[Trial], reason: str | None, verdict: str
) -> None:
    found = against_prior("this run", trials, sees="the opened sum", alarm=0.0125, reason=reason)
    assert found.verdict == verdict
    assert found.value == pytest.approx(trials[0].recall)
    assert found.compared == pytest.approx(0.3)
    assert reason is None or verdict != "leaks" or reason in found.text
