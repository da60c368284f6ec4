"""``privet audit``: all attacks on one run, each beside its positive control.

``quick`` is sized for a few minutes on one thread with the embedded model; ``full`` has more canaries, rounds,
records and batch sizes. The rows that can raise an alarm share one error probability: on a run that keeps its
promises the whole suite raises one with probability at most ``FALSE_ALARM`` (`make audit-calibration` counts it
over honest seeds)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from privet import __version__
from privet.attacks import (
    audit_canary,
    control,
    invert_aggregate,
    invert_tokens,
    mia_gradient,
    mia_model,
    poison_norm,
)
from privet.attacks.finding import Finding, not_applicable
from privet.attacks.rehearsal import Stage, everybody_in, plain_schedule
from privet.codec_config import PublicSubspaceCodec, RowPcaCodec
from privet.codec_schedule import CodecSchedule
from privet.config import Config
from privet.errors import PrivetError
from privet.lora import factors_of
from privet.material import Material, codec_schedule, gather, layout_of, public_clip_norm
from privet.pipeline import Floats
from privet.report.record import RunRecord
from privet.resolve import resolve
from privet.run_folder import config_hash
from privet.tokenise import Example

SCHEMA = 1
FALSE_ALARM = 0.05
FILE = "audit.json"
DECOYS = 99
MOST_SILOS = 4
"""Silos that membership and inversion look at: what they cost goes with the number of messages."""
Suite = Literal["quick", "full"]
Observe = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Sizes:
    """How much a suite does.

    Attributes:
        canaries: Canaries at most.
        work: Values that canary audits round in all.
        candidates: Candidates of each silo for `mia.gradient`.
        rounds: Rounds of `mia.gradient`.
        records: Members, and others, for `mia.model`.
        batches: Records of a message in the clear for `invert.tokens`.
        trials: Trials of inversion under noise.
        sequences: Records whose order `invert.sequence` recovers.
    """

    canaries: int
    work: float
    candidates: int
    rounds: int
    records: int
    batches: tuple[int, ...]
    trials: int
    sequences: int


SIZES: Mapping[str, Sizes] = {
    "quick": Sizes(256, 3e7, 12, 2, 150, (1, 4), 4, 4),
    "full": Sizes(1024, 1e9, 32, 8, 600, (1, 2, 4, 8), 12, 16),
}


def audit(
    config: Config,
    *,
    record: RunRecord | None = None,
    suite: Suite = "quick",
    seed: int = 0,
    only: Sequence[str] = (),
    observe: Observe = lambda kind, facts: None,
) -> dict[str, Any]:
    """Attack a configuration, and the adapter of a run that it made.

    Args:
        config: The configuration; of a run, the resolved one.
        record: The finished run, or ``None`` to attack the configuration alone.
        suite: ``quick`` or ``full``.
        seed: Draws coins, canaries and candidates; not the clients' secrets.
        only: Names of attacks, or their beginnings; all when empty.
        observe: Told what goes on.

    Returns:
        What ``audit.json`` holds; docs/schemas.md describes it.

    Raises:
        PrivetError: for data or models that do not work.
    """
    started = time.monotonic()
    plain = {"dropouts": (), "deterministic_units": False}
    config = config.model_copy(update={"engine": config.engine.model_copy(update=plain)})
    material = gather(config, observe)
    config = _resolved(config, material)
    auditor = _Auditor(config, material, SIZES[suite], seed, tuple(only), observe)
    found = auditor.findings(None if record is None else _adapter(record, material))
    return {
        "schema": SCHEMA,
        "version": __version__,
        "suite": suite,
        "run": record.name if record else None,
        "config": config_hash(config),
        "seed": seed,
        "false_alarm": FALSE_ALARM,
        "alarms": sum(row.verdict == "alarm" for row in found),
        "seconds": round(time.monotonic() - started, 1),
        "findings": [row.as_dict() for row in found],
    }


def _resolved(config: Config, material: Material) -> Config:
    """The configuration with noise multiplier and clip norm filled in."""
    clip = 1.0
    if config.privacy is not None and config.privacy.clip_norm == "public":
        clip = public_clip_norm(material)
    trainer = material.trainer
    return resolve(
        config,
        dimension=trainer.dimension,
        parties=len(material.silos),
        clip_norm=clip,
        factors=factors_of(trainer.backbone.layout),
        layout=layout_of(material),
    ).config


def _adapter(record: RunRecord, material: Material) -> Floats:
    if record.result is None:
        raise PrivetError(
            "has not ended",
            field=str(record.folder.path),
            given=record.state_text,
            hint="finish the run first",
        )
    return material.trainer.backbone.layout.load_peft(record.adapter)


@dataclass
class _Auditor:
    config: Config
    material: Material
    sizes: Sizes
    seed: int
    only: tuple[str, ...]
    observe: Observe
    alarm: float = FALSE_ALARM / 5
    """Five kinds of rows can raise an alarm; each has its own share."""

    def findings(self, adapter: Floats | None) -> list[Finding]:
        """Everything on the run's own adapters first, since inversion takes them out of the model."""
        rows: list[Finding] = []
        for name, make in (
            ("audit", self._canaries),
            ("poison", self._poison),
            ("mia.gradient", self._membership),
            ("mia.model", lambda: self._model(adapter)),
            ("invert", self._inversion),
        ):
            if not self.only or any(name.startswith(o) or o.startswith(name) for o in self.only):
                self.observe("stage", {"name": name})
                rows += make()
        return rows

    @property
    def _parties(self) -> int:
        return len(self.material.silos)

    def _pick(self, count: int, offset: int = 0, silos: int = MOST_SILOS) -> dict[str, list[Example]]:
        """``count`` records of each of the first silos, chosen by the seed."""
        picked = {}
        for number, (name, own) in enumerate(list(self.material.silos.items())[:silos]):
            order = np.random.default_rng([self.seed, 3, number]).permutation(len(own))
            picked[name] = [own[i] for i in np.resize(np.roll(order, -offset), count)]
        return picked

    def _canaries(self) -> list[Finding]:
        trainer = self.material.trainer
        follows = isinstance(self.config.codec, RowPcaCodec | PublicSubspaceCodec)
        layout = layout_of(self.material)
        schedule = (
            codec_schedule(self.config, self.material)
            if follows
            else plain_schedule(self.config, layout, self.config.schedule.rounds)
        )
        code = code_size(schedule, trainer.backbone.initial_flat())
        rounds = self.config.schedule.rounds
        plan = audit_canary.Plan.within(
            trainer.dimension, rounds, self.sizes.work, self.sizes.canaries, self.seed, code
        )
        factors = factors_of(trainer.backbone.layout)
        return audit_canary.findings(
            self.config,
            trainer.dimension,
            self._parties,
            plan,
            factors=factors,
            schedule=schedule,
            alarm=self.alarm,
        )

    def _poison(self) -> list[Finding]:
        trainer = self.material.trainer
        factors = factors_of(trainer.backbone.layout)
        return poison_norm.findings(
            self.config, trainer.dimension, self._parties, factors=factors, seed=self.seed
        )

    def _membership(self) -> list[Finding]:
        candidates = self._pick(self.sizes.candidates)
        trainer = self.material.trainer
        initial, factors = trainer.backbone.initial_flat(), factors_of(trainer.backbone.layout)

        def stage(config: Config) -> Stage:
            return Stage(config, trainer, initial, codec_schedule(config, self.material), factors)

        rounds = self.sizes.rounds
        plain = stage(control.clear(self.config))
        rows = mia_gradient.findings(
            mia_gradient.attack(plain, candidates, rounds=rounds, seed=self.seed),
            f"one plain step, {rounds} rounds, no seal, no noise",
            sees="every client's message",
            alarm=self.alarm,
        )
        batch = sum(map(len, candidates.values())) / 2
        as_run = stage(everybody_in(self.config, batch))
        sees = "every client's message" if self.config.sealing.kind == "none" else "the opened sums"
        return rows + mia_gradient.findings(
            mia_gradient.attack(as_run, candidates, rounds=rounds, seed=self.seed),
            f"this run's system, seal and noise, every record in every round, {rounds} rounds",
            sees=sees,
            alarm=self.alarm,
        )

    def _model(self, adapter: Floats | None) -> list[Finding]:
        if adapter is None:
            reason = "There is no adapter: a configuration was audited, not a run."
            return [not_applicable("mia.model", "the final adapter", mia_model.SEES, reason)]
        others = [question.example for own in self.material.test.values() for question in own]
        if not others:
            reason = (
                "The test records are not public, so there are no records that surely were not trained on."
            )
            return [not_applicable("mia.model", "the final adapter", mia_model.SEES, reason)]
        each = -(-self.sizes.records // self._parties)
        members = [e for own in self._pick(each, silos=self._parties).values() for e in own]
        order = np.random.default_rng([self.seed, 4]).permutation(len(others))[: self.sizes.records]
        return mia_model.findings(
            self.material.trainer.backbone,
            adapter,
            members,
            [others[i] for i in order],
            private=self.config.privacy is not None,
        )

    def _inversion(self) -> list[Finding]:
        rows = self._own_layout()
        prepared = control.prepare(self.config, self.material)
        if prepared.inputs.depends_on_position():
            reason = (
                "In this model a layer's input depends on positions, so there is no dictionary of tokens."
            )
            return [*rows, not_applicable("invert.tokens", "any", "a message", reason)]
        rows += self._clear_messages(prepared)
        rows += self._sealed(prepared)
        rows += self._noised(prepared)
        return rows

    def _own_layout(self) -> list[Finding]:
        layout = self.material.trainer.backbone.layout
        first = layout.decoder_layers is None or 0 in layout.decoder_layers
        if layout.spec.factors == "both" and first:
            return []
        reason = (
            "This run trains "
            + ("no factor A" if layout.spec.factors != "both" else "no adapter on the first layer")
            + ", and the pursuit needs both: it fails even without protection. That is no "
            "safety; other attacks may exist. The rows below use adapters on which it works."
        )
        return [not_applicable("invert.tokens", "this run's own adapters", "a message", reason)]

    def _clear_messages(self, prepared: control.Prepared) -> list[Finding]:
        rows = []
        sees = "one client's message, not sealed, no noise"
        for batch in self.sizes.batches:
            records = self._pick(batch, 10)
            done = prepared.rehearse(control.clear(self.config), records)
            recalls = invert_tokens.message_recalls(prepared, done, records)
            setting = f"batch {batch}, both factors, first layers, second round"
            rows.append(invert_tokens.finding(setting, recalls, sees=sees, control=True))
        records = self._pick(1, 20)
        done = prepared.rehearse(control.coded(self.config, control.pruned(0.5)), records)
        recalls = invert_tokens.message_recalls(prepared, done, records)
        setting = "batch 1, half of the coordinates pruned by a public mask"
        return [*rows, invert_tokens.finding(setting, recalls, sees=sees, control=True)]

    def _sealed(self, prepared: control.Prepared) -> list[Finding]:
        level = self.config.sealing.kind if self.config.sealing.kind != "none" else "masked"
        if self._parties < 3:
            reason = "With fewer than three parties no seal hides anything."
            return [not_applicable("invert.aggregate", "the opened sum", "the opened sum", reason)]
        sealing = self.config if self.config.sealing.kind != "none" else control.masked(self.config)
        records = self._pick(1, 30)
        done = prepared.rehearse(control.sealed(self.config, sealing), records)
        recall = invert_aggregate.sum_recall(prepared, done, records)
        count = sum(map(len, records.values()))
        setting = f"{count} records of {len(records)} clients, no noise"
        rows = [invert_aggregate.sum_finding(setting, [recall], level)]
        if self.config.sealing.kind == "none":
            return rows
        empty = dict(records)
        empty[list(empty)[-1]] = []
        done = prepared.rehearse(control.sealed(self.config, sealing), empty)
        return rows + invert_aggregate.message_findings(done, level, self.alarm)

    def _noised(self, prepared: control.Prepared) -> list[Finding]:
        if self.config.privacy is None:
            return []
        trials = []
        clip = control.clip_norm(prepared)
        config = control.noised(self.config, clip, float(min(self._parties, MOST_SILOS)))
        for number in range(self.sizes.trials):
            records = self._pick(1, 40 + number)
            victims = [e for own in records.values() for e in own]
            seen = control.last_round(prepared.rehearse(config, records))
            assert seen.total is not None, "the last opened round has a sum"
            decoys = [self._pick(1, 100 + DECOYS * number + i) for i in range(DECOYS)]
            others = [[e for own in each.values() for e in own] for each in decoys]
            trials.append(invert_tokens.trial(prepared, seen.direction(seen.total), victims, others))
        setting = (
            f"this run's system, seal and noise; a record of each client in every round, batch {len(records)}"
        )
        return [invert_tokens.against_prior(setting, trials, sees="the opened sum", alarm=self.alarm)]


def code_size(schedule: CodecSchedule, initial: Floats) -> int:
    """Values of the first round's code; 0 without a codec, or where it is still to be learned."""
    codec = schedule.first(initial)
    return int(codec.size) if codec is not None else 0
