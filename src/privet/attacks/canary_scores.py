"""A run with canaries, and how an observer scores them; `audit_canary.py` says what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privet.attacks.gdp import MuEstimate, slope
from privet.attacks.planting import (
    LENGTH,
    Canary,
    CanaryTrainer,
    canaries,
    canaries_of_statistics,
    with_canaries,
    without_memory,
)
from privet.attacks.rehearsal import Rehearsed, Stage, of_another_run, plain_schedule, rehearse
from privet.attacks.transcript import RoundSeen
from privet.codec_schedule import CodecSchedule
from privet.codecs.prior import StatisticsCode, as_layout
from privet.config import Config
from privet.pipeline import Floats, Integers
from privet.privacy.events import Release
from privet.resolve import Factors
from privet.systems import System
from privet.work import LocalDpSgd

BATCH = 64
MOST_PARTIES = 8
MOST_CANARIES = 256
MOST_RUNS = 32


@dataclass(frozen=True)
class Plan:
    """How large an audit is.

    Attributes:
        canaries: Canaries m, half of them inside on average.
        rounds: Rounds; at most those of the configuration.
        seed: Draws coins and canaries.
    """

    canaries: int
    rounds: int
    seed: int = 0

    @classmethod
    def within(cls, size: int, rounds: int, work: float, most: int, seed: int = 0, code: int = 0) -> Plan:
        """An audit that rounds at most ``work`` values: all rounds if that leaves 64 canaries, else fewer of both.

        Args:
            size: Values D of a contribution before any codec.
            rounds: Rounds of the configuration.
            work: Values to round in all.
            most: Canaries at most.
            seed: Draws coins and canaries.
            code: Values of a code, where there is a codec: directions that overlap blur the scores.
        """
        room = max(16, (code or size) // (8 if code else 1))
        count = int(min(most, room, max(64, work / (size * rounds))))
        return cls(count, max(1, min(rounds, int(work / (size * count)))), seed)


@dataclass(frozen=True)
class Scores:
    """What an observer made of a run with canaries.

    Attributes:
        seen: Whitened components of all rounds along the canaries, over the noise that the ledger charges, float64 [n].
        shift: What the canaries inside add to them for mu = 1, float64 [n].
        offset: What all canaries together would add, float64 [n].
        ratios: Log-likelihood ratio of in and out of each canary, summed over rounds, float64 [m].
        inside: The coins, bool [m].
        rehearsed: The run; the last one, where there were several.
    """

    seen: NDArray[np.float64]
    shift: NDArray[np.float64]
    offset: NDArray[np.float64]
    ratios: NDArray[np.float64]
    inside: NDArray[np.bool_]
    rehearsed: Rehearsed

    @property
    def releases(self) -> list[Release]:
        """What the ledger was charged with a finite noise."""
        return [r for r in self.rehearsed.ledger.releases if isinstance(r, Release)]

    def estimate(self, alpha: float) -> MuEstimate:
        """mu with one-sided bounds of error probability ``alpha`` each."""
        counts = (int(self.inside.sum()), int((~self.inside).sum()))
        return slope(self.seen, self.shift, self.offset, alpha, counts)

    @property
    def root(self) -> float:
        """Length of the shift without the offset, which the power goes by."""
        unit = self.offset / np.linalg.norm(self.offset)
        return float(np.linalg.norm(self.shift - (self.shift @ unit) * unit))


def score(
    config: Config,
    dimension: int,
    parties: int,
    plan: Plan,
    *,
    factors: Factors = (),
    schedule: CodecSchedule | None = None,
    change: Callable[[System], System] = with_canaries,
) -> Scores:
    """Run a configuration with canaries and score them.

    Where a first stage releases statistics of few groups, few canaries can be told apart in it; the configuration then
    runs several times with fresh coins, and the scores of all runs are counted together.

    Args:
        config: What runs; its sampling rate stays.
        dimension: Trained values D.
        parties: Enrolled clients; at most `MOST_PARTIES` take part, with the same total noise.
        plan: Size of the audit.
        factors: Positions of each kind of factor.
        schedule: The codec of each round; one over a single tensor, without public records, when absent.
        change: Plants canaries into each system that is composed; a control breaks the system besides.
    """
    config = without_memory(config)
    schedule = schedule or plain_schedule(config, [("w", (dimension,))], plan.rounds)
    if config.schedule.min_survivors is None and config.schedule.weights is None:
        parties = min(parties, MOST_PARTIES)
    stage = Stage(config, CanaryTrainer(dimension), np.zeros(dimension, np.float32), schedule, factors)
    planted = _planted(config, dimension, plan, schedule)
    runs = max(1, min(MOST_RUNS, plan.canaries // len(planted)))
    parts = [
        _scored(replace(stage, config=of_another_run(config, number)), planted, parties, plan, number, change)
        for number in range(runs)
    ]
    joined = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("seen", "shift", "offset", "ratios", "inside")
    }
    return Scores(**joined, rehearsed=parts[-1].rehearsed)


def _planted(config: Config, dimension: int, plan: Plan, schedule: CodecSchedule) -> list[Canary]:
    length = length_for(config)
    if config.system.kind == "dr_encoder":
        asked = config.system.statistics
        code = StatisticsCode(as_layout(schedule.layout), asked.prior, asked.moments, asked.groups)
        if 2 * len(code.counts) < plan.canaries:
            return canaries_of_statistics(code, plan.seed, length)
    return canaries(plan.canaries, dimension, plan.seed, length)


def _scored(
    stage: Stage,
    planted: list[Canary],
    parties: int,
    plan: Plan,
    number: int,
    change: Callable[[System], System],
) -> Scores:
    """One run."""
    inside = np.random.default_rng([plan.seed, 1, number]).random(len(planted)) < 0.5
    if number == 0:  # two of each at least where there are so many, or there is nothing to compare
        inside[:4] = (True, False, True, False)[: len(planted)]
    colluders = known_shares(stage.config)
    # Where neighbours differ by a replaced unit, a coin is between a canary and its opposite: twice as far apart.
    replaced = stage.config.privacy is not None and stage.config.privacy.relation == "replace-one"
    weights = stage.config.schedule.weights
    heaviest = [p for p in range(colluders, parties) if not weights or weights[p] == max(weights[colluders:])]
    homes = {c.id: heaviest[i % len(heaviest)] for i, c in enumerate(planted)}
    records: dict[str, list[Canary]] = {f"silo{party}": [] for party in range(parties)}
    for canary, coin in zip(planted, inside, strict=True):
        if coin or replaced:
            records[f"silo{homes[canary.id]}"].append(canary if coin else canary.opposite)
    rehearsed = rehearse(stage, records, rounds=plan.rounds, change=change, micro_batch=BATCH)
    ratios = np.zeros(len(planted))
    rounds = [seen for seen in rehearsed.transcript.rounds if seen.total is not None]
    parts = [1 / _sigma(seen.system) for seen in rounds]
    whole = math.sqrt(math.fsum(part**2 for part in parts))  # mu of all rounds, were all units in all of them
    rows = []
    for seen, part in zip(rounds, parts, strict=True):
        found, gram = _components(rehearsed, seen, planted, homes, range(colluders))
        found = found / _response(seen.system)
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-6 * values.max()
        roots, basis = np.sqrt(values[kept]), vectors[:, kept]
        added = roots[:, None] * basis.T * (part / whole)
        rows.append((basis.T @ found / roots * part, added @ inside, added @ np.ones(len(inside))))
        ratios += _ratio(basis @ (basis.T @ found / values[kept]), seen.system)
    seen_, shift, offset = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Scores(seen_, shift, offset, ratios, inside, rehearsed)


def length_for(config: Config) -> float:
    """Norm of canaries: beyond any clip, or that of a unit where nothing clips."""
    return 1.0 if config.privacy is None else LENGTH


def known_shares(config: Config) -> int:
    """Parties that hold no canary and give their noise share away, where noise is shared."""
    shared = config.privacy is not None and config.system.kind not in {"dp_lora"}
    return config.privacy.trust.colluders if shared and config.privacy else 0


def _components(
    rehearsed: Rehearsed, seen: RoundSeen, planted: list[Canary], homes: dict[str, int], colluders: range
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Component of what was opened along each canary's own direction, and how these directions overlap.

    Returns:
        float64 [m], in the units of a code, and the Gram matrix [m, m] of the directions; zero where two canaries'
        messages are seen apart.
    """
    opened: dict[int, Floats] = {}
    if rehearsed.resolved.config.sealing.kind == "none":
        number = rehearsed.transcript.rounds.index(seen)
        opened = {p: seen.code(rehearsed.transcript.in_the_clear(number, p)) for p in seen.messages}
    else:
        assert seen.total is not None, "rounds that did not open are left out"
        known: Integers = sum((seen.handed[p] for p in colluders), np.zeros_like(seen.total))
        rest = seen.code(seen.total - known)
        opened = dict.fromkeys(seen.handed, rest)
    found = np.zeros(len(planted))
    directions = []
    for start in range(0, len(planted), BATCH):
        part = planted[start : start + BATCH]
        rows = np.stack([c.vector for c in part])
        if seen.codec is not None:
            rows = seen.codec.encode(rows)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        for offset, (canary, row) in enumerate(zip(part, rows, strict=True)):
            at = opened.get(homes[canary.id])
            found[start + offset] = 0.0 if at is None else float(row.astype(np.float64) @ at)
        if seen.codec is not None:
            directions.append(rows)
    if not directions:
        return found, np.eye(len(planted))
    vectors = np.concatenate(directions).astype(np.float64)
    gram = vectors @ vectors.T
    if rehearsed.resolved.config.sealing.kind == "none":
        silos = np.array([homes[c.id] for c in planted])
        gram = np.where(silos[:, None] == silos[None, :], gram, 0.0)
    return found, gram


def _response(system: System) -> float:
    """Component that one canary adds to a code along its own direction, without a codec's loss."""
    rounding = system.pipeline.rounding
    if isinstance(system.work, LocalDpSgd):
        step = system.work.step.rounding
        scale = system.work.local.learning_rate * system.work.local.steps / step.denominator
        return scale * step.grid.sensitivity / rounding.denominator
    clip = system.mechanism.clip_norm if system.mechanism else 1.0
    return clip / rounding.denominator


def _ratio(components: NDArray[np.float64], system: System) -> NDArray[np.float64]:
    """Log-likelihood ratio of a sampled unit's presence, from components in multiples of its own length."""
    if not isinstance(system.release, Release):
        return components
    sigma = _sigma(system)
    rate = min(system.release.sampling.rate, 1 - 1e-12)
    exponent = np.clip(components / sigma**2 - 1 / (2 * sigma**2), -700.0, 700.0)
    ratio: NDArray[np.float64] = np.log1p(rate * np.expm1(exponent))
    return ratio


def _sigma(system: System) -> float:
    """Noise of a round over a unit's own length; 1 where there is none."""
    release = system.release
    if not isinstance(release, Release):
        return 1.0
    return release.effective_noise_multiplier / math.sqrt(release.count)
