"""``mia.codec``: was this client in it? Asked of the codec that a first stage made, from its weights alone.

A codec that was fitted to exact updates keeps more of the updates that it was fitted to. The score is the cosine
between a candidate's update and what the codec gives back of it. A codec that learned from noisy statistics is
post-processing of them, and its weights are covered by what they cost."""

from __future__ import annotations

import numpy as np

from privet.attacks.client_updates import Cohort
from privet.attacks.finding import Finding
from privet.attacks.mia_gradient import Membership
from privet.attacks.mia_gradient import findings as membership_findings


def scores(cohort: Cohort) -> Membership:
    """How much the codec keeps of each candidate's update."""
    codec = cohort.rehearsed.transcript.rounds[-1].codec
    assert codec is not None, "the first stage made a codec"
    kept = np.stack([codec.decode(code) for code in codec.encode(cohort.updates)]).astype(np.float64)
    rows = cohort.updates.astype(np.float64)
    lengths = np.linalg.norm(kept, axis=1) * np.linalg.norm(rows, axis=1)
    cosine = (kept * rows).sum(axis=1) / np.maximum(lengths, 1e-30)
    return Membership(cosine, cohort.inside, cohort.rehearsed)


def findings(cohort: Cohort, setting: str, alarm: float) -> list[Finding]:
    """AUC, advantage and TPR at 1 % FPR."""
    sees = "the codec, and all candidates' updates"
    return membership_findings(scores(cohort), setting, sees=sees, alarm=alarm, attack="mia.codec")
