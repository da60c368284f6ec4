"""``mia.statistics``: was this client, or record, in it? Asked of the statistics that stage 1 of ``dr_encoder`` opens.

The attacker knows every candidate's update, so every candidate's message, and solves for which of them the
opened sum is made of. Without noise that is exact for as many candidates as a message has numbers. So a run has
that many candidates, and there are several runs, each with noise and coins of its own. A handful of means and
standard deviations, however few, is no protection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.attacks.client_updates import Cohort
from privet.attacks.finding import Finding
from privet.attacks.mia_gradient import Membership
from privet.attacks.mia_gradient import findings as membership_findings


def scores(cohorts: Sequence[Cohort]) -> Membership:
    """Scores of all candidates from the rounds of the first stage of each run."""
    found = [_solved(cohort) for cohort in cohorts]
    inside = np.concatenate([cohort.inside for cohort in cohorts])
    return Membership(np.concatenate(found), inside, cohorts[0].rehearsed)


def findings(cohorts: Sequence[Cohort], setting: str, alarm: float) -> list[Finding]:
    """AUC, advantage and TPR at 1 % FPR."""
    sees = "the opened statistics, and all candidates' updates"
    return membership_findings(scores(cohorts), setting, sees=sees, alarm=alarm, attack="mia.statistics")


def _solved(cohort: Cohort) -> NDArray[np.float64]:
    codes = cohort.messages()
    total = np.zeros(len(codes))
    for seen in cohort.rehearsed.transcript.rounds[: cohort.preparation.rounds]:
        if seen.total is None:
            continue
        opened = seen.total * seen.system.pipeline.rounding.grid.step
        total += np.linalg.lstsq(codes.T.astype(np.float64), opened, rcond=None)[0]
    return total
