"""``mia.statistics``: was this client, or record, in it? Asked of the statistics that stage 1 of ``dr_encoder`` opens.

The attacker knows every candidate's update, so every candidate's message, and looks which candidates' messages add up
to what is nearest to the opened sum: under equal noise the likeliest. Without noise that is exact, for as many
candidates as a message has numbers in any case. So a run has that many candidates, and there are several runs, each
with noise and coins of its own. A handful of means and standard deviations, however few, is no protection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.attacks.client_updates import Cohort, subsets
from privet.attacks.finding import Finding
from privet.attacks.named_runs import Guessed, scores_of
from privet.attacks.named_runs import findings as findings_of_runs


def scores(cohorts: Sequence[Cohort]) -> Guessed:
    """Scores of all candidates from the rounds of the first stage of each run."""
    return Guessed.of(cohorts, [_nearness(cohort) for cohort in cohorts])


def findings(cohorts: Sequence[Cohort], setting: str, alarm: float) -> list[Finding]:
    """Runs that were named whole, and what the guesses prove."""
    sees = "the opened statistics, and all candidates' updates"
    return findings_of_runs(scores(cohorts), setting, attack="mia.statistics", sees=sees, alarm=alarm)


def _nearness(cohort: Cohort) -> NDArray[np.float64]:
    rounds = cohort.rehearsed.transcript.rounds[: cohort.preparation.rounds]
    sums = [seen.total * seen.system.pipeline.rounding.grid.step for seen in rounds if seen.total is not None]
    sets = subsets(len(cohort.updates))
    expected = sets @ cohort.messages().astype(np.float64)
    return scores_of(np.linalg.norm(expected - np.mean(sums, axis=0), axis=1), sets)
