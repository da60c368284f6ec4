"""What an audit of canaries could have found: how visible they are with half of the noise, computed and tried.

An audit looks at opened sums, the account at its worst observer, who may see less noise: one who takes off a share of
its own, or opens a contribution by itself, or is held against one client's noise where the sum has that of all. So the
power is computed from the noise that *is* in what was scored.

The control runs the same configuration, with half of every noise share, through the same protocol and scores: an
attacker who sees less than was computed fails it."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from privet.attacks.canary_scores import Scores, known_shares
from privet.attacks.gdp import power_at, visible_mu
from privet.attacks.planting import with_canaries
from privet.attacks.rehearsal import Rehearsed
from privet.attacks.transcript import RoundSeen
from privet.mechanism import GaussianMechanism
from privet.pipeline import Pipeline, Share
from privet.privacy.events import Release
from privet.systems import System
from privet.work import LocalDpSgd

HALF = 0.5
ENOUGH = 0.8
"""Least share of the computed mu that a control must show as possible: rounding of many canaries adds some noise."""


def noise_in_view(rehearsed: Rehearsed, seen: RoundSeen) -> float:
    """Standard deviation of the noise that a round's canaries are scored in, over that of the declared floor.

    Without a seal that is one client's message, else the sum of all shares but those that colluders take off; each
    share is 1/sqrt(floor) of the whole, and all of it where the noise is local. A canary is as long as its client's
    public weight, and noise is not weighted.
    """
    config, mechanism = rehearsed.resolved.config, seen.system.mechanism
    assert mechanism is not None, "a release with an epsilon has a mechanism"
    known, weights = known_shares(config), config.schedule.weights
    shares = 1 if config.sealing.kind == "none" else len(seen.handed) - known
    length = max(weights[known:]) if weights else 1.0
    return mechanism.observer_multiplier(shares) / mechanism.noise_multiplier / length


def shown_mu(scored: Scores, remaining: float = 1.0) -> float:
    """mu that scores show when ``remaining`` of the standard deviation of all noise is there."""
    rehearsed, squares = scored.rehearsed, []
    privacy = rehearsed.resolved.config.privacy
    for seen in rehearsed.transcript.rounds:
        release = seen.system.release
        if seen.total is None or not isinstance(release, Release):
            continue
        sigma = remaining * release.effective_noise_multiplier * noise_in_view(rehearsed, seen)
        squares.append(visible_mu(release.sampling.rate, sigma, release.count) ** 2)
    doubled = 2 if privacy is not None and privacy.relation == "replace-one" else 1
    return doubled * math.sqrt(math.fsum(squares))


def power(scored: Scores, promised: float, alarm: float) -> float:
    """Probability that half of the noise would have raised an alarm of error probability ``alarm``.

    Args:
        scored: The audit.
        promised: mu of the accounted epsilon.
        alarm: Probability at most that an honest run raises the alarm.
    """
    return power_at(shown_mu(scored, HALF), promised, scored.root, len(scored.seen) - 2, alarm)


def noise_beyond_account(scored: Scores) -> float:
    """Noise in what was scored over that which the account counts on against its worst observer; the least of all
    rounds."""
    trust = scored.rehearsed.ledger.trust
    counted = trust.promised(trust.worst)
    return min(
        noise_in_view(scored.rehearsed, seen) / counted
        for seen in scored.rehearsed.transcript.rounds
        if seen.total is not None
    )


class _Halved(GaussianMechanism):
    """A mechanism that draws half of the noise that it is charged for."""

    def share(self, key: bytes) -> NDArray[np.int64]:
        """Half of a share."""
        share: NDArray[np.int64] = np.rint(super().share(key) * HALF).astype(np.int64)
        return share


def with_half_noise(system: System) -> System:
    """The system with canaries in the place of its units, and half of every noise share: the control's bug."""
    return _halved(with_canaries(system))


def _halved(system: System) -> System:
    work, preparation = system.work, system.preparation
    if isinstance(work, LocalDpSgd):
        work = replace(work, step=_thinned(work.step))
    if preparation is not None:
        preparation = replace(preparation, system=_halved(preparation.system))
    return replace(system, work=work, pipeline=_thinned(system.pipeline), preparation=preparation)


def _thinned(pipeline: Pipeline) -> Pipeline:
    """The pipeline with half shares; what is declared and charged stays."""
    return Pipeline([Share(_half(s.mechanism)) if isinstance(s, Share) else s for s in pipeline.stages])


def _half(mechanism: GaussianMechanism) -> _Halved:
    return _Halved(**{field.name: getattr(mechanism, field.name) for field in fields(mechanism)})
