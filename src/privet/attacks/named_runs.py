"""What several runs over candidates in or out by coin show: how many runs were named whole, and which epsilon so many
right guesses refute.

Scores of one run hang together: one codec that is nearest to the opened one decides all of them. So no candidate counts
as a trial of its own here. Runs are independent, so those are counted whose candidates were all named (Clopper and
Pearson). Every coin of every run is guessed, and `guessed_coins` holds the guesses against the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.audit_one_run import Guesses
from privet.attacks.client_updates import Cohort
from privet.attacks.finding import Finding
from privet.attacks.guessed_coins import judge
from privet.attacks.rehearsal import Rehearsed


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
    judged = judge(found.coins, found.rehearsed.ledger, alarm)
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
        judged.verdict,
        0.5**candidates,
        judged.text,
        control=judged.control,
    )
    return [base, judged.row(base)]
