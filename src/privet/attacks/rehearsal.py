"""A run again, for an audit: the configuration's own parties, protocol and noise, with records of the auditor's
choice.

Nothing is trained for anybody: the adapter lives in memory, no folder of a run is written, and so there is
nothing that `privet export` or `privet report` could hand out. Clients have real secrets in a temporary folder,
unless the configuration sets ``insecure_test_seed``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from privet.attacks.transcript import Transcript
from privet.codec_config import AutoencoderCodec
from privet.codec_schedule import CodecSchedule
from privet.codecs import Layout
from privet.config import Config, check
from privet.federation import Federation, Secrets, federate, sum_field
from privet.pipeline import CodecLike, Floats
from privet.privacy.ledger import Ledger
from privet.resolve import Factors, Resolved, resolve
from privet.systems import System
from privet.work import Trainer, Workplace

APART = 1_000_003
"""Between the test seeds of several rehearsals of one audit."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where clients' secrets of a rehearsal lie: in memory if there is such a folder; they are worth nothing after."""


@dataclass(frozen=True)
class Stage:
    """What a rehearsal is set up from.

    Attributes:
        config: What runs. Noise multiplier and clip norm are those of the run under audit.
        trainer: Gradients of the records.
        initial: Trained values at the start, float32 [D].
        schedule: The codec of each round.
        factors: Positions of each kind of factor.
    """

    config: Config
    trainer: Trainer
    initial: Floats
    schedule: CodecSchedule
    factors: Factors = ()


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal that was run.

    Attributes:
        transcript: What was sent and opened.
        ledger: What it was charged.
        resolved: What ran.
        flat: The adapter in the end, float32 [D].
        stopped: Why it ended early, if it did.
    """

    transcript: Transcript
    ledger: Ledger
    resolved: Resolved
    flat: Floats
    stopped: str | None


@dataclass(frozen=True)
class _Rehearsal(Resolved):
    """A resolved configuration whose systems have something in the place of their work, run for a few of its rounds.

    The configuration keeps all of its planned rounds: the noise of a first stage is composed from them.
    """

    change: Callable[[System], System] = lambda system: system
    moving: int | None = None

    def compose(self, codec: CodecLike | None) -> System:
        return self.change(super().compose(codec))

    @property
    def rounds(self) -> int:
        """Rounds of the protocol: those of the preparation, and those asked for that move the adapter."""
        return super().rounds if self.moving is None else self.config.system.preparation_rounds + self.moving


def rehearse(
    stage: Stage,
    records: Mapping[str, Sequence[Any]],
    *,
    rounds: int | None = None,
    change: Callable[[System], System] = lambda system: system,
    prepare: Callable[[Federation], None] = lambda federation: None,
    micro_batch: int | None = None,
) -> Rehearsed:
    """Run the configuration of a stage over ``records``, watched.

    Args:
        stage: What runs.
        records: Records by silo, in the order of party numbers.
        rounds: Rounds after a preparation, where not all of the configuration's. Nothing else follows from it: codecs,
            rates and every mechanism are those of the whole run.
        change: Replaces the work of each system that is composed, e.g. by canaries.
        prepare: Told of the federation before it runs, e.g. to let a client misbehave.
        micro_batch: Units in memory at once; the configuration's when absent.

    Raises:
        ConfigError: if the configuration, changed for the rehearsal, is one that no run could have.
    """
    config = without_budget(stage.config)
    check(config, "the configuration of a rehearsal")
    known = resolve(
        config,
        dimension=len(stage.initial),
        parties=len(records),
        factors=stage.factors,
        layout=stage.schedule.layout,
    )
    facts = {name: getattr(known, name) for name in ("config", "facts", "trust")}
    resolved = _Rehearsal(**facts, system=change(known.system), change=change, moving=rounds)
    size = micro_batch or config.engine.micro_batch
    places = [Workplace(name, stage.trainer, list(own), size) for name, own in records.items()]
    transcript = Transcript(sum_field(resolved, len(stage.initial)).bits)
    with tempfile.TemporaryDirectory(prefix="privet-audit-", dir=MEMORY) as folder:
        federation = federate(
            resolved,
            places,
            _secrets(config, len(places), Path(folder)),
            stage.initial,
            replace(stage.schedule, rounds=config.schedule.rounds),
            run="audit",
            tap=transcript.tap,
        )
        transcript.watch(federation)
        prepare(federation)
        progress = federation.engine.run(federation.server.steps())
    return Rehearsed(transcript, federation.server.ledger, resolved, federation.flat, progress.stopped)


def plain_schedule(config: Config, layout: Layout, rounds: int, *, train: bool = False) -> CodecSchedule:
    """The codecs of a rehearsal without public records; one that is learned is hardly trained unless ``train``.

    What is promised does not depend on the encoder, since the clip comes after it.
    """
    codec = config.codec
    if isinstance(codec, AutoencoderCodec) and not train:
        short = {"epochs": 1, "samples": 8, "holdout": 2, "batch_size": 8}
        codec = codec.model_copy(update=short)
    codec = codec.model_copy(update={"allow_useless": True})
    return CodecSchedule(
        codec,
        layout,
        config.seed,
        rounds,
        private=config.privacy is not None and not getattr(config.system, "faithful", False),
        sealed=config.sealing.kind != "none",
        learns=config.system.preparation_rounds > 0,
    )


def without_budget(config: Config) -> Config:
    """A rehearsal is charged to its own ledger and must not stop where the run would."""
    if config.privacy is None:
        return config
    return config.model_copy(update={"privacy": config.privacy.model_copy(update={"max_epsilon": None})})


def of_another_run(config: Config, number: int) -> Config:
    """The configuration for one of several rehearsals, which must not share their noise.

    Only ``insecure_test_seed`` could make them: without it every rehearsal has secrets of its own.
    """
    seed = config.insecure_test_seed
    return config if seed is None else config.model_copy(update={"insecure_test_seed": seed + number * APART})


def with_schedule(config: Config, **changes: Any) -> Config:
    """The configuration with changes in its schedule."""
    return config.model_copy(update={"schedule": config.schedule.model_copy(update=changes)})


def everybody_in(config: Config, batch: float) -> Config:
    """The configuration with every record in every round: where a canary test has its full power.

    Args:
        config: What would run.
        batch: Public denominator for the sums that come of it.
    """
    if config.schedule.sampling_rate is None:
        return config
    return with_schedule(config, sampling_rate=1.0, expected_batch=batch)


def _secrets(config: Config, parties: int, folder: Path) -> list[Secrets]:
    seed = config.insecure_test_seed
    if seed is not None:
        return [Secrets.of_test_seed(seed, party) for party in range(parties)]
    return [Secrets.of_folder(folder / f"{party}") for party in range(parties)]


def colluding_shares(rehearsed: Rehearsed, parties: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    """What colluders without records contributed to each opened sum: their noise shares, which they know."""
    return [
        sum((seen.handed[party] for party in parties if party in seen.handed), np.zeros(1, np.int64))
        for seen in rehearsed.transcript.rounds
        if seen.total is not None
    ]
