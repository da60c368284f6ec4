"""``privet audit``: all attacks on one run, each beside its positive control.

``quick`` is sized for a few minutes on one thread with the embedded model; ``full`` has more canaries, rounds,
records and batch sizes. The rows that can raise an alarm share one error probability: by the levels of their tests,
some of them asymptotic, the whole suite raises one on a run that keeps its promises with probability at most
``FALSE_ALARM`` (`make audit-calibration` counts it over honest seeds)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from privet import __version__
from privet.attacks import (
    audit_canary,
    control,
    first_stage,
    mia_gradient,
    mia_model,
    poison_norm,
)
from privet.attacks.finding import Finding, not_applicable
from privet.attacks.inversions import Inversions, own_layout
from privet.attacks.rehearsal import Stage, everybody_in, plain_schedule
from privet.codec_schedule import CodecSchedule, follows_public
from privet.config import Config
from privet.errors import PrivetError
from privet.lora import factors_of
from privet.material import Material, codec_schedule, gather, layout_of
from privet.pipeline import Floats
from privet.public_clip import public_clip_norm
from privet.report.record import RunRecord
from privet.resolve import resolve
from privet.run_folder import config_hash
from privet.sealing.base import FEWEST_PARTIES
from privet.tokenise import Example

SCHEMA = 1
FALSE_ALARM = 0.05
KINDS = 4
"""Kinds of rows that can raise an alarm: canaries, membership, sealed bytes, inversion under noise."""
MEMBERSHIPS = 3
"""Attacks that share the alarm of membership: `mia.gradient`, `mia.statistics`, `mia.codec`."""
SILENT = "The attack fails in its control, so it shows nothing here."
FEW_RECORDS = "The silos have too few records for this attack."
FILE = "audit.json"
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
        clients: Candidate clients for `mia.statistics` and `mia.codec`.
        batches: Records of a message in the clear for `invert.tokens`.
        trials: Trials of inversion under noise.
        texts: Records of each silo for `invert.sequence`.
    """

    canaries: int
    work: float
    candidates: int
    rounds: int
    records: int
    clients: int
    batches: tuple[int, ...]
    trials: int
    texts: int


SIZES: Mapping[str, Sizes] = {
    "quick": Sizes(256, 3e7, 12, 2, 150, 24, (1, 4), 4, 1),
    "full": Sizes(1024, 1e9, 32, 8, 600, 96, (1, 2, 4, 8), 12, 4),
}


def audit(
    config: Config,
    *,
    record: RunRecord | None = None,
    suite: Suite = "quick",
    seed: int = 0,
    only: Sequence[str] = (),
    material: Material | None = None,
    observe: Observe = lambda kind, facts: None,
) -> dict[str, Any]:
    """Attack a configuration, and the adapter of a run that it made.

    Args:
        config: The configuration; of a run, the resolved one.
        record: The finished run, or ``None`` to attack the configuration alone.
        suite: ``quick`` or ``full``.
        seed: Draws coins, canaries and candidates; not the clients' secrets.
        only: Names of attacks, or their beginnings; all when empty.
        material: What `gather` gives for the configuration, where it is there already; its model is changed.
        observe: Told what goes on.

    Returns:
        What ``audit.json`` holds; docs/schemas.md describes it.

    Raises:
        PrivetError: for data or models that do not work.
    """
    started = time.monotonic()
    plain = {"dropouts": (), "deterministic_units": False}
    config = config.model_copy(update={"engine": config.engine.model_copy(update=plain)})
    material = material or gather(config, observe)
    config = resolved(config, material)
    auditor = Auditor(config, material, SIZES[suite], seed, tuple(only), observe)
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


def resolved(config: Config, material: Material) -> Config:
    """The configuration with noise multiplier and clip norm filled in."""
    clip = 1.0
    if config.privacy is not None and config.privacy.clip_norm == "public":
        clip = public_clip_norm(config, material)
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
class Auditor:
    """One configuration under attack.

    Attributes:
        config: What is attacked, with noise multiplier and clip norm filled in.
        material: What it runs on.
        sizes: How much is done.
        seed: Draws coins, canaries and candidates.
        only: Beginnings of names of attacks; all when empty.
        observe: Told what goes on.
        alarm: Error probability of each kind of row that can raise an alarm.
    """

    config: Config
    material: Material
    sizes: Sizes
    seed: int
    only: tuple[str, ...]
    observe: Observe
    alarm: float = FALSE_ALARM / KINDS

    def findings(self, adapter: Floats | None) -> list[Finding]:
        """Everything on the run's own adapters first, since inversion takes them out of the model."""
        rows: list[Finding] = []
        for name, make in (
            ("audit", self.canary_rows),
            ("poison", self._poison),
            ("mia.gradient", self.membership_rows),
            ("mia.statistics", self.first_stage_rows),
            ("mia.model", lambda: self._model(adapter)),
            ("invert", self._inversion),
        ):
            if not self.only or any(name.startswith(o) or o.startswith(name) for o in self.only):
                self.observe("stage", {"name": name})
                rows += make()
        return without_silence(rows)

    @property
    def _parties(self) -> int:
        return len(self.material.silos)

    def pick(
        self, count: int, offset: int = 0, silos: int = MOST_SILOS, least: int = 1
    ) -> dict[str, list[Example]]:
        """``count`` records, chosen by the seed, of each of the first silos that have ``least``; no record comes twice.

        A silo that has fewer gives all: were one repeated, it could be a member and another at once.
        """
        picked: dict[str, list[Example]] = {}
        for number, (name, own) in enumerate(self.material.silos.items()):
            if len(own) >= least and len(picked) < silos:
                order = np.random.default_rng([self.seed, 3, number]).permutation(len(own))
                picked[name] = [own[i] for i in np.roll(order, -offset)[:count]]
        return picked

    def canary_rows(self) -> list[Finding]:
        """``audit.canary`` and ``audit.one_run``."""
        trainer, schedule = self.material.trainer, self._schedule()
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
            self.config,
            trainer.dimension,
            self._parties,
            factors=factors,
            schedule=self._schedule(),
            seed=self.seed,
        )

    def _schedule(self) -> CodecSchedule:
        """The codecs of planted units: the run's own where they follow from public records."""
        if follows_public(self.config.codec):
            return codec_schedule(self.config, self.material)
        return plain_schedule(self.config, layout_of(self.material), self.config.schedule.rounds)

    def membership_rows(self) -> list[Finding]:
        """``mia.gradient``: the control and the run's own protections."""
        candidates, rounds = self._candidates(), self.sizes.rounds
        setting = f"one plain step, {rounds} rounds, no seal, no noise"
        sees = "every client's message"
        if candidates is None:
            return [not_applicable("mia.gradient", setting, sees, FEW_RECORDS), *self.protected_membership()]
        plain = mia_gradient.attack(
            self._stage(control.clear(self.config)), candidates, rounds=rounds, seed=self.seed
        )
        rows = mia_gradient.findings(plain, setting, sees=sees, alarm=self.alarm / MEMBERSHIPS)
        return [*rows, *self.protected_membership()]

    def protected_membership(self) -> list[Finding]:
        """``mia.gradient`` under the run's own protections."""
        candidates, rounds = self._candidates(), self.sizes.rounds
        setting = f"this run's system, seal and noise, every record in every round, {rounds} rounds"
        sees = "every client's message" if self.config.sealing.kind == "none" else "the opened sums"
        if candidates is None:
            return [not_applicable("mia.gradient", setting, sees, FEW_RECORDS)]
        batch = sum(map(len, candidates.values())) / 2
        stage = self._stage(everybody_in(self.config, batch))
        # All of the run's clients: its floor and its weights are for so many.
        everyone = {name: candidates.get(name, []) for name in self.material.silos}
        found = mia_gradient.attack(stage, everyone, rounds=rounds, seed=self.seed)
        return mia_gradient.findings(found, setting, sees=sees, alarm=self.alarm / MEMBERSHIPS)

    def _candidates(self) -> dict[str, list[Example]] | None:
        """Records of each silo that has one to be in and one to be out; ``None`` if such silos are too few to seal."""
        candidates = self.pick(self.sizes.candidates, least=2)
        return candidates if len(candidates) >= min(self._parties, FEWEST_PARTIES) else None

    def first_stage_rows(self) -> list[Finding]:
        """``mia.statistics`` and ``mia.codec``, where a first stage makes the codec."""
        alarm = self.alarm / MEMBERSHIPS
        return first_stage.findings(self.config, self.material, self.sizes.clients, self.seed, alarm)

    def _stage(self, config: Config) -> Stage:
        trainer = self.material.trainer
        backbone = trainer.backbone
        schedule = replace(codec_schedule(config, self.material), held_out=None)
        if config.system.preparation_rounds:
            schedule = plain_schedule(config, layout_of(self.material), config.schedule.rounds)
        return Stage(config, trainer, backbone.initial_flat(), schedule, factors_of(backbone.layout))

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
        members = [e for own in self.pick(each, silos=self._parties).values() for e in own]
        order = np.random.default_rng([self.seed, 4]).permutation(len(others))[: self.sizes.records]
        return mia_model.findings(
            self.material.trainer.backbone,
            adapter,
            members,
            [others[i] for i in order],
            private=self.config.privacy is not None,
        )

    def inversions(self) -> Inversions:
        """Inversion on the control's adapters, which take the place of the run's own for good."""
        prepared = control.prepare(self.config, self.material)
        return Inversions(self.config, prepared, self.pick, self._parties, self.alarm)

    def _inversion(self) -> list[Finding]:
        rows = own_layout(self.material.trainer.backbone.layout)
        made = self.inversions()
        if made.prepared.inputs.depends_on_position():
            reason = (
                "In this model a layer's input depends on positions, so there is no dictionary of tokens."
            )
            return [*rows, not_applicable("invert.tokens", "any", "a message", reason)]
        return [
            *rows,
            *made.clear(self.sizes.batches),
            *made.sealed(),
            *made.noised(self.sizes.trials),
            *made.codes(),
            *made.sequences(self.sizes.texts),
        ]


def without_silence(rows: Sequence[Finding]) -> list[Finding]:
    """The rows, where none counts as withstood whose own positive controls all failed.

    A control that stands for one setting speaks for that one only, and for it no other control does.
    """
    worked: dict[tuple[str, str], bool] = {}
    for row in rows:
        if row.control:
            key = (row.attack, row.stands_for)
            worked[key] = worked.get(key, False) or row.verdict == "leaks"

    def silent(row: Finding) -> bool:
        own = (row.attack, row.setting)
        return not worked.get(own if own in worked else (row.attack, ""), True)

    return [
        row.judged("not applicable", f"{SILENT} {row.text}", row.compared)
        if row.verdict == "holds" and silent(row)
        else row
        for row in rows
    ]


def code_size(schedule: CodecSchedule, initial: Floats) -> int:
    """Values of the first round's code; 0 without a codec, or where it is still to be learned."""
    codec = schedule.first(initial)
    return int(codec.size) if codec is not None else 0
