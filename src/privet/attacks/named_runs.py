"""What several runs over candidates in or out by coin show: how many runs were named whole, and which epsilon so many
right guesses refute.

Scores of one run hang together: one codec that is nearest to the opened one decides all of them. So no candidate counts
as a trial of its own here. Runs are independent, so those are counted whose candidates were all named (Clopper and
Pearson). Coins are fair and independent whatever the scores are, which is all that the bound on epsilon of
`audit_one_run.py` needs: every coin of every run is one canary's, and every one of them is guessed. The first stages in
question have every unit in every release, so it holds the guesses against the curve of a Gaussian mechanism."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.audit_canary import promise
from privet.attacks.audit_one_run import Guesses, epsilon_lower_bound_fdp
from privet.attacks.client_updates import Cohort
from privet.attacks.finding import IN_DOUBT, LEVEL, Finding, Verdict
from privet.attacks.rehearsal import Rehearsed

CHANCE = 0.025
"""Probability at most that coins are guessed so well by an attacker who learns nothing, where the attack works."""


@dataclass(frozen=True)
class Guessed:
    """Guesses of several runs with as many candidates each.

    Attributes:
        scores: Positive where a candidate is guessed in, float64 [runs, m].
        inside: The coins, bool [runs, m].
        rehearsed: One of the runs; all were charged the same, and no candidate is in two of them.
    """

    scores: NDArray[np.float64]
    inside: NDArray[np.bool_]
    rehearsed: Rehearsed

    @classmethod
    def of(cls, cohorts: Sequence[Cohort], scores: Sequence[NDArray[np.float64]]) -> Guessed:
        """Scores [m] of each run."""
        inside = np.stack([cohort.inside for cohort in cohorts])
        return cls(np.stack(scores), inside, cohorts[0].rehearsed)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which coins were guessed right, bool [runs, m]."""
        right: NDArray[np.bool_] = (self.scores > 0) == self.inside
        return right

    @property
    def coins(self) -> Guesses:
        """All coins of all runs."""
        return Guesses(self.inside.size, self.inside.size, int(self.right.sum()))


def scores_of(apart: NDArray[np.float64], sets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much nearer the nearest set with a candidate is than the nearest one without it, float64 [m].

    Args:
        apart: How far what was opened is from what each set would give, float64 [n].
        sets: Who is in each, bool [n, m].
    """
    return np.array([apart[~within].min() - apart[within].min() for within in sets.T])


def findings(found: Guessed, setting: str, *, attack: str, sees: str, alarm: float) -> list[Finding]:
    """Runs that were named whole, and the lower bound on epsilon, which is held against the ledger.

    Args:
        found: The guesses.
        setting: What was attacked.
        attack: Name of the attack.
        sees: What the attacker sees.
        alarm: Probability that an honest mechanism raises an alarm, at most.
    """
    ledger = found.rehearsed.ledger
    epsilons, delta = ledger.epsilon(), ledger.delta
    claimed = None if epsilons.reason else epsilons.value
    low, surely = (epsilon_lower_bound_fdp(found.coins, delta, level) for level in (LEVEL, 1 - alarm))
    verdict, text = _open(found) if claimed is None else _held(found, claimed, low, surely, alarm)
    runs, candidates = found.inside.shape
    named = statistics.share(int(found.right.all(axis=1).sum()), runs)
    base = Finding(
        attack,
        setting,
        sees,
        "runs whose candidates were all named, in or out",
        named.value,
        named.low,
        named.high,
        "95 %, Clopper-Pearson over whole runs",
        f"{runs} runs of {candidates} candidates",
        verdict,
        0.5**candidates,
        text,
        control=claimed is None,
    )
    bound = replace(
        base,
        metric=f"95 % lower bound on epsilon at delta {delta:g}",
        value=low,
        low=low,
        high=None,
        interval="against the curve of a Gaussian mechanism with that epsilon (arXiv 2410.22235)",
        samples=f"{found.coins.right} of {found.coins.guesses} coins guessed right",
        compared=claimed,
    )
    return [base, bound]


def _open(found: Guessed) -> tuple[Verdict, str]:
    """Where no epsilon is claimed, the attack has to work."""
    chance = _chance(found.coins)
    if chance <= CHANCE:
        return "leaks", "Members are told from others, and the run claims no epsilon."
    return "not applicable", (
        "The run claims no epsilon; this attack did not succeed all the same, which proves nothing. "
        f"Who knows nothing guesses so many coins right with probability {chance:.2g}."
    )


def _held(found: Guessed, claimed: float, low: float, surely: float, alarm: float) -> tuple[Verdict, str]:
    """Where one is claimed: the bounds at 95 % and at the level of an alarm against it."""
    if surely > claimed:
        return "alarm", "More coins are guessed right than the accounted epsilon allows."
    if low > claimed:
        return "in doubt", IN_DOUBT
    coins = found.coins.canaries
    all_right = Guesses(coins, coins, coins)
    most = epsilon_lower_bound_fdp(all_right, found.rehearsed.ledger.delta, 1 - alarm)
    power = (
        f"All coins guessed right would have raised an alarm; that would prove {most:.2f}."
        if most > claimed
        else f"Even all coins guessed right prove no more than {most:.2f}: this row could raise no alarm."
    )
    return "holds", f"Within {promise(found.rehearsed)}. {power}"


def _chance(g: Guesses) -> float:
    """Probability that fair coins are guessed so well by somebody who knows nothing of them, however he guesses."""
    from scipy.stats import binom

    return float(binom.sf(g.right - 1, g.guesses, 0.5))
