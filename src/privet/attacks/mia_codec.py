"""``mia.codec``: was this client in it? Asked of the codec that a first stage made, from its weights alone.

Training is a function of what the first stage opened, and its seed is public. So the attacker, who knows all
candidates' updates, trains the codec again for every set of candidates that could have been in, and looks which one
treats updates as the opened codec does. Without noise that one is the truth. A codec that learned from noisy
statistics is post-processing of them: its weights are covered by what they cost.

(How well a codec keeps a candidate's update tells little: a network of a few kilobytes memorises nobody.)"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.attacks.client_updates import Cohort, subsets
from privet.attacks.finding import Finding
from privet.attacks.named_runs import Guessed, scores_of
from privet.attacks.named_runs import findings as findings_of_runs
from privet.pipeline import CodecLike

CANDIDATES = 4
"""Candidates of a run: any of 16 sets of them may be in, and the codec of each is trained again."""


def scores(cohorts: Sequence[Cohort]) -> Guessed:
    """How much closer the opened codec is to one that was made with each candidate than to any made without it."""
    return Guessed.of(cohorts, [_closeness(cohort) for cohort in cohorts])


def findings(cohorts: Sequence[Cohort], setting: str, alarm: float) -> list[Finding]:
    """Runs that were named whole, and what the guesses prove."""
    sees = "the codec, and all candidates' updates"
    return findings_of_runs(scores(cohorts), setting, attack="mia.codec", sees=sees, alarm=alarm)


def _closeness(cohort: Cohort) -> NDArray[np.float64]:
    opened = cohort.rehearsed.transcript.rounds[-1].codec
    assert opened is not None, "the first stage made a codec"
    seen = _kept(opened, cohort)
    sets = subsets(len(cohort.updates))
    apart = np.array([np.linalg.norm(_kept(made_of(cohort, inside), cohort) - seen) for inside in sets])
    return scores_of(apart, sets)


def made_of(cohort: Cohort, inside: NDArray[np.bool_]) -> CodecLike:
    """The codec that the run would have made, had these candidates, bool [m], been in and nobody added noise."""
    preparation = cohort.preparation
    if preparation.code is None:
        gathered = np.tile(cohort.updates * inside[:, None], (preparation.rounds, 1))
    else:
        scale = preparation.system.pipeline.rounding.denominator
        gathered = (inside @ cohort.messages())[None] / np.float32(scale)
    return cohort.schedule.learned(preparation, gathered.astype(np.float32), cohort.rehearsed.flat)


def _kept(codec: CodecLike, cohort: Cohort) -> NDArray[np.float64]:
    """What a codec gives back of all candidates' updates, float64 [m, D]."""
    return np.stack([codec.decode(code) for code in codec.encode(cohort.updates)]).astype(np.float64)
