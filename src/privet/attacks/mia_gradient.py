"""``mia.gradient``: was this record in it? Asked of messages and opened sums, by an attacker who knows the record.

The attacker knows the model, the adapter of every round, and a set of candidate records, each in or out by a
fair coin. It computes every candidate's contribution as an honest client would, and estimates by ridge
regression which of them the opened values are a sum of: the linear estimator of least squared error for coins
and Gaussian noise of the accounted size. Every record takes part in every round, so what comes out is held
against what the ledger charges for that: the advantage against delta(0), the curve against e^eps FPR + delta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.audit_canary import accounted_delta_at_zero, promise
from privet.attacks.finding import IN_DOUBT, LEVEL, Finding
from privet.attacks.rehearsal import Rehearsed, Stage, rehearse
from privet.attacks.transcript import RoundSeen
from privet.clip import clip_rows
from privet.pipeline import Clip, Floats
from privet.systems import System
from privet.work import LocalDpSgd

CLEAR_RIDGE = 1e-6
"""Ridge where nothing is noised, over the mean squared norm of the candidates."""


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
    for coin in coins.values():
        coin[:2] = (True, False)[: len(coin)]  # of a silo's candidates some are in and some are out
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


def findings(
    found: Membership, setting: str, *, sees: str, alarm: float, attack: str = "mia.gradient"
) -> list[Finding]:
    """AUC, advantage beside what the ledger allows, and TPR above all others."""
    members, others = found.scores[found.inside], found.scores[~found.inside]
    epsilons = found.rehearsed.ledger.epsilon()
    claimed = None if epsilons.reason else epsilons.value
    delta = found.rehearsed.ledger.delta
    samples = f"{len(members)} members, {len(others)} others"
    area = statistics.area(members, others)
    best = statistics.advantage(members, others)
    positives = statistics.above_all(members, others)
    allowed = None if claimed is None else accounted_delta_at_zero(found.rehearsed)
    # Two tests share the error probability; of a two-sided interval only the lower end can raise an alarm.
    surely = statistics.advantage(members, others, 1 - alarm).low
    over = (claimed is not None and (allowed is not None and surely > allowed)) or (
        claimed is not None and statistics.above_bound(members, others, claimed, delta, 1 - alarm / 2) > 0
    )
    doubtful = allowed is not None and best.low > allowed
    verdict: Any = "leaks" if claimed is None else "alarm" if over else "in doubt" if doubtful else "holds"
    text = (
        "Members are told from others, and the run claims no epsilon."
        if claimed is None and area.low > 0.5
        else "The run claims no epsilon; this attack did not succeed all the same, which proves nothing."
        if claimed is None
        else "Members stand out more than the accounted epsilon allows."
        if over
        else IN_DOUBT
        if doubtful
        else f"Within {promise(found.rehearsed)}, which allows an advantage of {_up(allowed or 0.0):.2f}. "
        + _power_text(len(members), len(others), (claimed, delta, allowed or 0.0), alarm)
    )
    if claimed is None and area.low <= 0.5:
        verdict = "not applicable"
    at = f"at the largest score of the others, whose FPR is 1/{len(others) + 1} on average"
    rows = [
        ("AUC", area, "95 %, DeLong on the logit scale (asymptotic)", None),
        ("advantage TPR - FPR", best, "95 %, Dvoretzky-Kiefer-Wolfowitz, all thresholds at once", allowed),
        (f"TPR at none of {len(others)} false positives", positives, f"95 %, Clopper-Pearson {at}", None),
    ]
    return [
        Finding(
            attack, setting, sees, metric, i.value, i.low, i.high, how, samples, verdict, compared, text,
            control=claimed is None,
        )
        for metric, i, how, compared in rows
    ]  # fmt: skip


def _up(value: float) -> float:
    """To two digits, up: what is allowed must not look smaller than it is."""
    return math.ceil(100 * value) / 100


def _power_text(members: int, others: int, promised: tuple[float, float, float], alarm: float) -> str:
    """What a perfect attack would have shown on so many candidates; ``promised`` are epsilon, delta and delta(0)."""
    perfect = np.ones(members), np.zeros(others)
    epsilon, delta, allowed = promised
    most = statistics.advantage(*perfect, 1 - alarm).low
    if most > allowed or statistics.above_bound(*perfect, epsilon, delta, 1 - alarm / 2) > 0:
        return f"A perfect attack on these candidates would have raised an alarm; it would prove {most:.2f}."
    return f"Even a perfect attack on so few candidates proves no more than {most:.2f}: this row could raise no alarm."


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


__all__ = ["LEVEL", "Membership", "attack", "findings"]
