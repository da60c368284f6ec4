"""``poison.norm``: what a client can do that does not follow the rules: too long a contribution, NaN, another's
message.

The attacking client is one of the run's own, changed where it hands values to its seal, or where its answer
leaves it.

- NaN and infinities never reach the wire, whose values are integers; a trainer that gives them contributes zero. Two
  rehearsals with the same secrets, hence the same noise, show whether it does: with the unit and without it.
- A contribution of a hundred times the longest honest one: without a seal the server sees it and refuses it, where
  something is clipped (`honest_norm.py`); under a seal nobody sees single contributions, so nothing stops it. What
  is left is the norm of the opened sum: with a public bound on honest contributions and known noise, a sum beyond it
  flags the round, not the client.
- Another client's message sent again: a seal binds messages to their sender, so the round fails or the reply is
  refused. Without one the server counts equal contributions once.

None of this weakens the others' guarantee: their clip and their noise are their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from privet.attacks.canary_scores import BATCH, length_for
from privet.attacks.finding import Finding
from privet.attacks.planting import Canary, CanaryTrainer, canaries, with_canaries, without_memory
from privet.attacks.rehearsal import Rehearsed, Stage, everybody_in, plain_schedule, rehearse
from privet.attacks.transcript import InFront
from privet.codec_schedule import CodecSchedule
from privet.config import Config
from privet.engines.local import LocalEngine
from privet.errors import PrivetError
from privet.federation import Federation
from privet.honest_norm import FALSE_REFUSAL, longest
from privet.messages import ROUND
from privet.pipeline import Clip, Integers
from privet.protocol import RoundId
from privet.resolve import Factors
from privet.systems import System
from privet.wire import Body

FACTOR = 100
UNITS = 8


@dataclass
class Replaying:
    """A client that sends the answer of another in place of its own."""

    own: Any
    victim: Any

    def handle(self, op: str, body: Body) -> Body:
        """The victim's answer to a round; its own to all else."""
        mine: Body = self.own.handle(op, body)
        if op != ROUND:
            return mine
        copied: Body = self.victim.handle(op, body)  # a client gives the same answer to the same question
        return copied


def findings(
    config: Config,
    dimension: int,
    parties: int,
    *,
    factors: Factors = (),
    schedule: CodecSchedule | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Three misbehaviours in one round each, and what became of the sum.

    Args:
        config: What runs, with its noise multiplier.
        dimension: Trained values D.
        parties: Enrolled clients.
        factors: Positions of each kind of factor.
        schedule: The codec of each round; one over a single tensor, without public records, when absent.
        seed: Draws directions.
    """
    config = without_memory(config)
    plain = config.model_copy(update={"engine": config.engine.model_copy(update={"dropouts": ()})})
    schedule = schedule or plain_schedule(config, [("w", (dimension,))], 1)
    trial = _Trial(everybody_in(plain, float(UNITS)), dimension, parties, factors, schedule, seed)
    return [trial.nan(), trial.long(), trial.replay()]


@dataclass(frozen=True)
class _Trial:
    config: Config
    dimension: int
    parties: int
    factors: Factors
    schedule: CodecSchedule
    seed: int

    @property
    def level(self) -> str:
        return self.config.sealing.kind

    def nan(self) -> Finding:
        """A unit whose gradient is not finite."""
        everywhere = np.arange(self.dimension)
        unit = Canary("nan", self.dimension, everywhere, np.full(self.dimension, np.nan, np.float32))
        # Of the same name, so that it would be rounded with the same randomness.
        length = np.float32(length_for(self.config) / math.sqrt(self.dimension))
        whole = replace(unit, values=np.full(self.dimension, length, np.float32))
        seed = self.config.insecure_test_seed
        known = self.config.model_copy(update={"insecure_test_seed": self.seed if seed is None else seed})
        same_noise = replace(self, config=known)
        without, poisoned, counted = (same_noise._run({0: own}) for own in ([], [unit], [whole]))
        what, reached = "a unit of NaN", _change(without, poisoned)
        if reached is None:
            return self._finding(what, None, "–", "alarm", "The round broke down.")
        if not _change(without, counted):
            text = "A unit that counts does not show in what its client sends either: nothing was compared."
            return self._finding(what, None, "–", "not applicable", text)
        text = "It counts as zero; the round goes on." if not reached else "It does not count as zero."
        return self._finding(what, reached, CHANGE, "alarm" if reached else "holds", text)

    def long(self) -> Finding:
        """A contribution of a hundred times the norm."""

        def misbehave(federation: Federation) -> None:
            client = federation.clients[0]
            length = FACTOR * _bound(client.aggregator.system)

            def poisoned(round: RoundId, values: Integers) -> Integers:
                row = np.random.default_rng(self.seed).choice([-1.0, 1.0], len(values))
                poison: Integers = np.round(row * length / math.sqrt(len(values))).astype(np.int64)
                return values + poison

            client.sealing = InFront(client.sealing, poisoned)

        done = self._run({0: []}, misbehave)
        seen = done.transcript.rounds[0] if done.transcript.rounds else None
        total = seen.total if seen else None
        if seen is None or total is None:
            return self._finding(LONG, None, "–", "holds", f"It was refused: {done.stopped}.")
        if np.array_equal(total, sum(values for party, values in seen.handed.items() if party)):
            text = "The server refuses it, and the round goes on without its client."
            return self._finding(LONG, 0.0, "times that it is in the sum", "holds", text)
        limit = longest(seen.system, self.parties)
        if not math.isfinite(limit):
            text = (
                "Nothing bounds a contribution in this system, so nothing could tell it from an honest one."
            )
            return self._finding(LONG, _norm(total) / _bound(seen.system), LENGTHS, "not covered", text)
        measured = _norm(total)
        flagged = measured > limit
        stopped = "Not covered: nothing stops a client that does not clip."
        text = (
            f"{stopped} The norm of the opened sum flags the round."
            if flagged
            else f"{stopped} The noise is so wide that the norm of the sum does not show it either."
        )
        return self._finding(LONG, measured / limit, RATIO, "not covered", text)

    def replay(self) -> Finding:
        """Another client's answer in place of one's own."""

        def misbehave(federation: Federation) -> None:
            engine = federation.engine
            assert isinstance(engine, LocalEngine), "rehearsals run in one process"
            engine.clients = {**engine.clients, 1: Replaying(engine.clients[1], engine.clients[0])}

        try:
            done = self._run({}, misbehave)
            opened = next((s for s in done.transcript.rounds if s.total is not None), None)
            reason = done.stopped or "the reply was refused"
        except PrivetError as error:
            opened, reason = None, error.message if hasattr(error, "message") else str(error)
        what = "another client's message, sent again"
        if opened is None or opened.total is None:
            return self._finding(what, None, "–", "holds", f"Nothing opens: {reason}.")
        once = sum(v for p, v in opened.handed.items() if p != 1)
        twice = once + opened.handed[0]
        if np.array_equal(opened.total, twice):
            text = "Not covered: the copy counts as the sender's own contribution."
            return self._finding(
                what, 2.0, "times that the copied contribution is in the sum", "not covered", text
            )
        kept = np.array_equal(opened.total, once)
        text = (
            "The reply is refused and the round goes on."
            if kept
            else "The sum is spoilt: integrity is not covered."
        )
        return self._finding(
            what, 1.0 if kept else None, "times in the sum", "holds" if kept else "not covered", text
        )

    def _run(
        self, own: Mapping[int, Sequence[Canary]], misbehave: Any = lambda federation: None
    ) -> Rehearsed:
        """One round; each client holds a few units unless ``own`` says otherwise."""
        units = canaries(UNITS * self.parties, self.dimension, self.seed, length_for(self.config))
        records = {
            f"silo{p}": list(own.get(p, units[p * UNITS : (p + 1) * UNITS])) for p in range(self.parties)
        }
        config = self.config
        initial = np.zeros(self.dimension, np.float32)
        stage = Stage(config, CanaryTrainer(self.dimension), initial, self.schedule, self.factors)
        return rehearse(stage, records, rounds=1, change=with_canaries, prepare=misbehave, micro_batch=BATCH)

    def _finding(self, what: str, value: float | None, metric: str, verdict: Any, text: str) -> Finding:
        return Finding(
            "poison.norm", f"{what}, sealing '{self.level}'", "it sends what it likes", metric, value, None, None,
            f"false alarm of the norm test {FALSE_REFUSAL:g}" if metric == RATIO else "–", "1 round", verdict,
            text=text,
        )  # fmt: skip


CHANGE = "largest change of a value that its client hands to the seal, in grid steps"
LONG = f"a contribution {FACTOR} times too long"
RATIO = "norm of the opened sum over what an honest one stays below"
LENGTHS = "norm of the opened sum over that of a step of norm one"


def _bound(system: System) -> float:
    """Longest honest contribution of one client before noise, in grid steps; a step of norm one where nothing clips."""
    rounding = system.pipeline.rounding
    return (
        float(rounding.limit)
        if any(isinstance(s, Clip) for s in system.pipeline.stages)
        else 1 / rounding.grid.step
    )


def _change(one: Rehearsed, other: Rehearsed) -> float | None:
    """Largest difference in what the first client handed to its seal in any round; ``None`` if one did not open."""
    rounds = one.transcript.rounds, other.transcript.rounds
    if not rounds[0] or len(rounds[0]) != len(rounds[1]):
        return None
    if any(seen.total is None or 0 not in seen.handed for own in rounds for seen in own):
        return None
    return float(max(np.abs(a.handed[0] - b.handed[0]).max() for a, b in zip(*rounds, strict=True)))


def _norm(values: Integers) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))
