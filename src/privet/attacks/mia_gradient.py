"""``mia.gradient``: was this record in it? Asked of messages and opened sums, by an attacker who knows the record.

The attacker knows the model, the adapter of every round, and a set of candidate records, each in or out by a
fair coin. It computes every candidate's contribution as an honest client would, and estimates by ridge
regression which of them the opened values are a sum of: the linear estimator of least squared error for coins
and Gaussian noise of the accounted size. Every record takes part in every round, so what comes out is held
against what the ledger charges for that: the quarter of candidates with the highest scores is guessed in, the quarter
with the lowest out, and so many right guesses refute an epsilon (`guessed_coins`). Where the unit is a client, nothing
is promised of one record of it, and nothing is held against that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.audit_one_run import GUESSED, Guesses
from privet.attacks.finding import Finding
from privet.attacks.guessed_coins import judge
from privet.attacks.rehearsal import Rehearsed, Stage, rehearse
from privet.attacks.transcript import RoundSeen
from privet.clip import clip_rows
from privet.pipeline import Clip, Floats
from privet.systems import System
from privet.work import LocalDpSgd

CLEAR_RIDGE = 1e-6
"""Ridge where nothing is noised, over the mean squared norm of the candidates."""

OF_A_CLIENT = (
    "The run's epsilon is about whole clients. One record of a client is not its unit: held against nothing."
)


@dataclass(frozen=True)
class Membership:
    """Scores of candidates.

    Attributes:
        scores: float64 [m].
        inside: The coins, bool [m].
        rehearsed: The run.
    """

    scores: NDArray[np.float64]
    inside: NDArray[np.bool_]
    rehearsed: Rehearsed


def attack(stage: Stage, candidates: Mapping[str, Sequence[Any]], *, rounds: int, seed: int) -> Membership:
    """Run a configuration over a random half of the candidates, and score all of them.

    Args:
        stage: What runs, every record in every round.
        candidates: Records by silo, none of some: these take part with their noise alone.
        rounds: Rounds.
        seed: Draws the coins.
    """
    generator = np.random.default_rng([seed, 2])
    coins = {name: generator.random(len(own)) < 0.5 for name, own in candidates.items()}
    chosen = {n: [e for e, c in zip(own, coins[n], strict=True) if c] for n, own in candidates.items()}
    rehearsed = rehearse(stage, chosen, rounds=rounds)
    inside = np.concatenate([coins[name] for name in candidates])
    owners = np.concatenate([np.full(len(own), i) for i, own in enumerate(candidates.values())])
    scores = np.zeros(len(inside))
    for seen in rehearsed.transcript.rounds:
        if seen.total is not None:
            codes = _codes(stage, seen, candidates)
            scores += _scores(rehearsed, seen, codes, owners)
    return Membership(scores, inside, rehearsed)


def guess(scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> Guesses:
    """Guess the highest scores in and the lowest out; ties are broken by position, which coins know nothing of.

    Args:
        scores: float64 [m].
        inside: The coins, bool [m].
    """
    order = np.argsort(-scores, kind="stable")
    each = max(1, round(GUESSED * len(scores)))
    right = inside[order[:each]].sum() + (~inside[order[-each:]]).sum()
    return Guesses(len(scores), 2 * each, int(right))


def findings(
    found: Membership, setting: str, *, sees: str, alarm: float, attack: str = "mia.gradient"
) -> list[Finding]:
    """AUC, TPR above all others, and the epsilon that right guesses refute, which is held against the ledger."""
    members, others = found.scores[found.inside], found.scores[~found.inside]
    samples = f"{len(members)} members, {len(others)} others"
    judged = judge(guess(found.scores, found.inside), found.rehearsed.ledger, alarm)
    control = judged.control
    if not control and found.rehearsed.ledger.unit == "client":
        judged = replace(judged, verdict="reported", text=OF_A_CLIENT, claimed=None)
    base = Finding(
        attack, setting, sees, "AUC", None, None, None, "95 %, DeLong on the logit scale (asymptotic)", samples,
        judged.verdict, None, judged.text, control=control,
    )  # fmt: skip
    if not len(members) or not len(others):  # one in 2^(m - 1) audits
        return [judged.row(base)]
    area, positives = statistics.area(members, others), statistics.above_all(members, others)
    at = f"at the largest score of the others, whose FPR is 1/{len(others) + 1} on average"
    return [
        replace(base, value=area.value, low=area.low, high=area.high),
        replace(
            base,
            metric=f"TPR at none of {len(others)} false positives",
            value=positives.value,
            low=positives.low,
            high=positives.high,
            interval=f"95 %, Clopper-Pearson {at}",
        ),
        judged.row(base),
    ]


def _codes(stage: Stage, seen: RoundSeen, candidates: Mapping[str, Sequence[Any]]) -> Floats:
    """Each candidate's own contribution to a round, clipped and encoded as a client does it, float32 [m, k]."""
    trainer = stage.trainer
    trainer.set_flat(seen.flat)
    rows = []
    for own in candidates.values():
        by_id: dict[str, Floats] = {}
        for ids, gradients in trainer.per_unit_gradients(own, stage.config.engine.micro_batch):
            by_id |= dict(zip(ids, -gradients, strict=True))
        rows += [by_id[e.id] for e in own]
    values: Floats = np.stack(rows).astype(np.float32)
    if isinstance(seen.system.work, LocalDpSgd):
        values = _clipped(values, seen.system.work.step.stages)
    for stage_ in seen.system.pipeline.stages:
        if stage_.role == stage_.role.ENCODE:
            encode: Any = stage_
            values = encode.codec.encode(values)
    return _clipped(values, seen.system.pipeline.stages)


def _clipped(values: Floats, stages: Sequence[Any]) -> Floats:
    clip = next((s for s in stages if isinstance(s, Clip)), None)
    return clip_rows(values, clip.norm)[0] if clip else values


def _scores(
    rehearsed: Rehearsed, seen: RoundSeen, codes: Floats, owners: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Ridge estimates of which candidates are in what was opened."""
    scores = np.zeros(len(codes))
    if rehearsed.resolved.config.sealing.kind == "none":
        number = rehearsed.transcript.rounds.index(seen)
        for party in set(seen.messages) & set(owners.tolist()):
            mine = owners == party
            message = seen.code(rehearsed.transcript.in_the_clear(number, party))
            scores[mine] = _ridge(codes[mine], message, seen.system)
        return scores
    assert seen.total is not None, "rounds that did not open are left out"
    return _ridge(codes, seen.code(seen.total), seen.system)


def _ridge(codes: Floats, opened: Floats, system: System) -> NDArray[np.float64]:
    """Estimated weight of each code in ``opened``, whatever public scale it has."""
    rows = codes.astype(np.float64)
    gram = rows @ rows.T
    size = float(np.trace(gram) / max(1, len(gram)))
    mechanism = system.mechanism
    # Over coins of variance 1/4 the ridge is four times the noise's variance.
    ridge = 4 * mechanism.noise_std**2 if mechanism else CLEAR_RIDGE * size
    penalised = gram + (ridge + 1e-9 * size) * np.eye(len(gram))
    solved = np.asarray(np.linalg.solve(penalised, rows @ opened.astype(np.float64)), np.float64)
    spread = float(solved.std())
    return solved / spread if spread > 0 else solved
