"""What guesses of fair coins show: that an attack works, where nothing is promised; which epsilon they refute, else.

Coins are fair and independent whatever the scores are, which is all that the bound of `audit_one_run.py` needs: scores
of one run hang together, so none of them counts as a trial of its own. In the rehearsals in question every unit is in
every release, so guesses are held against the curve of a Gaussian mechanism."""

from __future__ import annotations

from dataclasses import dataclass, replace

from privet.attacks.audit_canary import promise
from privet.attacks.audit_one_run import Guesses, epsilon_lower_bound_fdp
from privet.attacks.finding import IN_DOUBT, LEVEL, Finding, Verdict
from privet.privacy.ledger import Ledger

CHANCE = 0.025
"""Probability at most that coins are guessed so well by an attacker who learns nothing, where the attack works."""


@dataclass(frozen=True)
class Judged:
    """What the guesses of an attack's coins say.

    Attributes:
        guesses: How guessing went.
        delta: Delta of the bound.
        low: 95 % lower bound on epsilon at that delta.
        claimed: Epsilon of the worst observer for what was charged; ``None`` if there is no finite one.
        verdict: Of all rows of the attack.
        text: What it means.
    """

    guesses: Guesses
    delta: float
    low: float
    claimed: float | None
    verdict: Verdict
    text: str

    @property
    def control(self) -> bool:
        """Whether nothing was promised, so that the attack has to work."""
        return self.claimed is None

    def row(self, like: Finding) -> Finding:
        """The bound on epsilon, as a row beside others of the attack."""
        return replace(
            like,
            metric=f"95 % lower bound on epsilon at delta {self.delta:g}",
            value=self.low,
            low=self.low,
            high=None,
            interval="against the curve of a Gaussian mechanism with that epsilon (arXiv 2410.22235)",
            samples=f"{self.guesses.right} of {self.guesses.guesses} coins guessed right",
            compared=self.claimed,
        )


def judge(guesses: Guesses, ledger: Ledger, alarm: float) -> Judged:
    """Hold guesses against what a ledger charged.

    Args:
        guesses: How guessing went; each coin says whether one unit of the ledger is in.
        ledger: What was charged for the releases that the guesses were made from.
        alarm: Probability that an honest mechanism raises an alarm, at most.
    """
    epsilons, delta = ledger.epsilon(), ledger.delta
    low, surely = (epsilon_lower_bound_fdp(guesses, delta, level) for level in (LEVEL, 1 - alarm))
    claimed = None if epsilons.reason else epsilons.value
    if claimed is None:
        verdict, text = _open(guesses)
    elif surely > claimed:
        verdict, text = "alarm", "More coins are guessed right than the accounted epsilon allows."
    elif low > claimed:
        verdict, text = "in doubt", IN_DOUBT
    else:
        power = _power(guesses, claimed, delta, alarm)
        verdict, text = "holds", f"Within {promise(ledger)}. {power}"
    return Judged(guesses, delta, low, claimed, verdict, text)


def _open(guesses: Guesses) -> tuple[Verdict, str]:
    """Where no epsilon is claimed, the attack has to work."""
    chance = _chance(guesses)
    if chance <= CHANCE:
        return "leaks", "Members are told from others, and the run claims no epsilon."
    return "not applicable", (
        "The run claims no epsilon; this attack did not succeed all the same, which proves nothing. "
        f"Who knows nothing guesses so many coins right with probability {chance:.2g}."
    )


def _power(guesses: Guesses, claimed: float, delta: float, alarm: float) -> str:
    """What the best of attacks would have shown with as many coins."""
    all_right = Guesses(guesses.canaries, guesses.guesses, guesses.guesses)
    most = epsilon_lower_bound_fdp(all_right, delta, 1 - alarm)
    if most > claimed:
        return f"All coins guessed right would have raised an alarm; that would prove {most:.2f}."
    return f"Even all coins guessed right prove no more than {most:.2f}: this row could raise no alarm."


def _chance(guesses: Guesses) -> float:
    """Probability that fair coins are guessed so well by somebody who knows nothing of them, however he guesses."""
    from scipy.stats import binom

    return float(binom.sf(guesses.right - 1, guesses.guesses, 0.5))
