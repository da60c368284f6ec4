"""A run from its configuration to its folder: gather, resolve, federate, measure, write down.

Everything that a resumed run needs is on disk before it matters, so a kill at any instant loses at most the round that
was under way, and never leads to a second noise draw on the same answer.
"""

from __future__ import annotations

import errno
import secrets as system_secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet import checkpoint
from privet.cast import Cast, InOneProcess, Observe
from privet.config import Config
from privet.diagnostics import simulated
from privet.errors import PrivetError
from privet.federation import Federation
from privet.lora import factors_of
from privet.material import Material, codec_schedule, layout_of
from privet.measure import means, measure
from privet.not_covered import not_covered
from privet.pipeline import Floats
from privet.privacy.statement import privacy_statement
from privet.public_alone import NAME, train_on_public_alone, wants_control
from privet.public_clip import public_clip_norm
from privet.resolve import Resolved, resolve
from privet.run_folder import (
    CLAIM,
    CLIENTS,
    RunFolder,
    config_hash,
    describe_environment,
    unwritable,
    write_configs,
)
from privet.server import Server
from privet.so_far import TERMS, events, events_left
from privet.weak_promise import weak_promises

SCHEMA = 1
STATEMENTS = ("privacy.json", "dp_event.json", "result.json", "report.html", "audit.json")
_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
)


def default_folder(config: Config) -> Path:
    """``runs/<time>-<system>``."""
    return Path("runs") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.system.kind}"


def start(
    config: Config,
    source_text: str,
    out: Path | None = None,
    *,
    resume: bool = False,
    fresh: bool = False,
    observe: Observe = lambda kind, facts: None,
    cast: Cast | None = None,
) -> dict[str, Any]:
    """Run a configuration, or go on with a run that was interrupted.

    Args:
        config: A checked configuration.
        source_text: The YAML it came from, kept beside the result.
        out: The run's folder; a new one under ``runs/`` when absent.
        resume: Go on with the run in ``out``.
        fresh: Throw away the run in ``out`` first.
        observe: Told what happens: ``stage``, ``progress``, ``round``, ``aborted``, ``stopped``, ``result``.
        cast: Who takes part; all clients in this process when absent.

    Returns:
        What ``result.json`` says.

    Raises:
        PrivetError: for everything that a person can mend.
    """
    if resume and out is None:
        raise PrivetError(
            "does not say which run to go on with", field="--resume", hint="name its folder with --out"
        )
    path = out or default_folder(config)
    with _disk_errors(path):
        folder = RunFolder.open(path) if resume else RunFolder.create(path, fresh=fresh)
        with folder.alone():
            if not resume:
                # Asked again, now that nobody else can come in between.
                RunFolder.create(path, fresh=fresh).clear()
            if not (folder / "env.json").exists():
                folder.write_json("env.json", describe_environment())
            with events_left(folder, config.void):
                return _Run(config, source_text, folder, observe, cast or InOneProcess()).go()


class _Run:
    """One run on its way."""

    def __init__(
        self, config: Config, source_text: str, folder: RunFolder, observe: Observe, cast: Cast
    ) -> None:
        self.config, self.source_text, self.folder, self.observe = config, source_text, folder, observe
        self.cast = cast
        self.totals: dict[str, Any] = {"bytes_up": 0, "bytes_down": 0, "seconds": 0.0}

    def go(self) -> dict[str, Any]:
        """All of it, in order."""
        material = self.cast.gather(self.config, self.observe)
        resolved = self._resolve(material)
        self._claim(resolved.config, self.cast.names(material))
        self._rehearse(resolved, material)
        federation = self._federate(resolved, material)
        trainer = material.trainer
        if not any(row["when"] == "before" for row in self.folder.rows("metrics.jsonl")):
            self._measure(material, "before", None, trainer.backbone.initial_flat())
        self._run(federation, material)
        if federation.newest is not None:
            self._measure(material, "after", None, federation.flat)
            self._control(material)
        return self._finish(resolved, federation, material)

    def _claim(self, config: Config, clients: Sequence[str]) -> None:
        """Write configuration and clients down, before anything depends on them; a folder serves these only.

        With other clients a secret would meet records that are not its own, and the trust model would be another one
        than that of what was charged.
        """
        self.hash = config_hash(config)
        if (self.folder / CLAIM).exists() and (held := str(self.folder.read_json(CLAIM))) != self.hash:
            raise checkpoint.other_configuration(self.folder.path, held, self.hash)
        if (self.folder / CLIENTS).exists() and (began := self.folder.read_json(CLIENTS)) != list(clients):
            raise PrivetError(
                "belongs to other clients",
                field=str(self.folder.path),
                given=", ".join(clients),
                allowed=", ".join(began) + ", with which the run was started",
                hint="resume with the data as they were, or start a new run with --out",
            )
        self.folder.write_json(CLIENTS, list(clients))
        self.folder.write_json(CLAIM, self.hash)
        write_configs(self.folder, self.source_text, config)

    def _resolve(self, material: Material) -> Resolved:
        clip = 1.0
        if self.config.privacy is not None and self.config.privacy.clip_norm == "public":
            self.observe("stage", {"name": "measuring the clip norm on public records"})
            clip = self._kept("clip_norm", lambda: public_clip_norm(self.config, material))
        return resolve(
            self.config,
            dimension=material.trainer.dimension,
            parties=len(self.cast.names(material)),
            clip_norm=clip,
            factors=factors_of(material.trainer.backbone.layout),
            layout=layout_of(material),
        )

    def _withdraw(self) -> None:
        """Take back what a run that had stopped says of itself, before anything more is released."""
        for name in STATEMENTS:
            (self.folder / name).unlink(missing_ok=True)

    def _rehearse(self, resolved: Resolved, material: Material) -> None:
        """Refuse a codec that would be useless while nothing is released yet."""
        preparation = resolved.system.preparation
        if preparation is not None and not self.folder.rows("rounds.jsonl"):
            self.observe("stage", {"name": "trying the codec on public records"})
            schedule = codec_schedule(self.config, material)
            schedule.rehearse(preparation, material.trainer.backbone.initial_flat())

    def _kept(self, name: str, make: Callable[[], float]) -> float:
        """A number that a resumed run must not measure anew: other threads would round it otherwise."""
        file = f"checkpoints/{name}.json"
        if not (self.folder / file).exists():
            self.folder.write_json(file, make())
        return float(self.folder.read_json(file))

    def _federate(self, resolved: Resolved, material: Material) -> Federation:
        federation = self.cast.federate(
            resolved, material, self.folder, run=self._name(), save=self._save, observe=self._on_event
        )
        self.federation = federation
        totals = checkpoint.restore(self.folder, federation.server, config=self.hash)
        if totals is not None:
            self.totals = totals
        self.charged_before = federation.server.progress.charged
        federation.engine.bytes_up = self.totals["bytes_up"]
        federation.engine.bytes_down = self.totals["bytes_down"]
        done, rows = federation.server.progress.number, self.folder.rows("rounds.jsonl")
        checkpoint.refuse_older(self.folder, None if totals is None else done, rows)
        kept = [row for row in rows if row["round"] < done]
        self.folder.keep_rows("rounds.jsonl", kept)
        self.folder.write_json(TERMS, self._terms(resolved, federation.server))
        return federation

    def _name(self) -> str:
        """The run's name in signatures: random, and the same after a resume."""
        if self.config.insecure_test_seed is not None:
            return "test"
        if not (self.folder / "checkpoints/run.json").exists():
            self.folder.write_json("checkpoints/run.json", system_secrets.token_hex(16))
        return str(self.folder.read_json("checkpoints/run.json"))

    def _run(self, federation: Federation, material: Material) -> None:
        self.started = time.monotonic()
        self.spent = float(self.totals["seconds"])
        parties = len(self.cast.names(material))

        def answered(op: str, done: int, total: int) -> None:
            if op == "round" and parties > 1:
                number = federation.server.progress.number
                self.observe("progress", {"name": f"round {number}", "done": done, "total": total})

        federation.engine.on_answer = answered
        if self.config.evaluation.every:
            self.material = material
        federation.engine.run(federation.server.steps())
        self._take_totals()

    def _take_totals(self) -> None:
        engine = self.federation.engine
        self.totals = {
            "bytes_up": engine.bytes_up,
            "bytes_down": engine.bytes_down,
            "seconds": self.spent + time.monotonic() - self.started,
        }

    def _save(self, server: Server) -> None:
        if server.progress.charged != self.charged_before:
            self._withdraw()
        self._take_totals()
        checkpoint.save(self.folder, server, config=self.hash, totals=self.totals)

    def _on_event(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "round":
            self._take_totals()
            row = {"schema": SCHEMA, **facts}
            row |= {name: self.totals[name] for name in ("bytes_up", "bytes_down")}
            if self.config.engine.diagnostics and self.federation.clients:
                system = self.federation.server.system.at(facts["round"])
                row["simulated"] = simulated(self.federation.clients, system.mechanism, facts["round"])
            self.folder.append("rounds.jsonl", row)
            facts = row
        if kind == "codec":
            self.folder.write_json("codec.json", {"schema": SCHEMA, **facts})
        self._log(kind, facts)
        self.observe(kind, facts)
        every = self.config.evaluation.every
        due = kind == "round" and every and (facts["round"] + 1) % every == 0
        if due and self.federation.newest is not None:
            self._measure(self.material, "round", facts["round"], self.federation.flat)

    def _log(self, kind: str, facts: dict[str, Any]) -> None:
        shown = {k: v for k, v in facts.items() if k not in {"simulated", "schema", "per_tensor"}}
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {kind} {shown}\n"
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(line)

    def _measure(self, material: Material, when: str, number: int | None, flat: Floats) -> None:
        if not material.test:
            return
        self.observe("stage", {"name": f"measuring on public test records ({when})"})
        new = [
            {"schema": SCHEMA, "when": when, "round": number, **row}
            for row in measure(material, flat, self.config.engine.micro_batch)
        ]
        # All silos' rows at once, in place of older ones: a kill leaves no half, a repeated round no double.
        rows = self.folder.rows("metrics.jsonl")
        kept = [row for row in rows if (row["when"], row["round"]) != (when, number)]
        self.folder.keep_rows("metrics.jsonl", [*kept, *new])

    def _control(self, material: Material) -> None:
        """What the public records would have given by themselves, where the codec follows them."""
        measured = any(row["when"] == NAME for row in self.folder.rows("metrics.jsonl"))
        if wants_control(self.config) and material.test and not measured:
            self.observe("stage", {"name": "training on the public records alone, as a control"})
            self._measure(material, NAME, None, train_on_public_alone(self.config, material))

    def _finish(self, resolved: Resolved, federation: Federation, material: Material) -> dict[str, Any]:
        server = federation.server
        adapter = None
        if federation.newest is not None:
            adapter = self.folder / "adapter"
            material.trainer.backbone.layout.save_peft(federation.flat, adapter, material.model.name)
        statement = self._statement(resolved, server)
        self.folder.write_json("dp_event.json", events(server.ledger, resolved.config.void))
        self.folder.write_json("privacy.json", statement)
        rows = self.folder.rows("metrics.jsonl")
        result = {
            "schema": SCHEMA,
            "run": self.folder.path.name,
            "system": server.system.name,
            "stopped": server.progress.stopped,
            "rounds": server.progress.number,
            "seconds": self.totals["seconds"],
            "bytes_up": self.totals["bytes_up"],
            "bytes_down": self.totals["bytes_down"],
            "before": means(rows, "before"),
            "after": means(rows, "after"),
            **({"public_alone": means(rows, NAME)} if wants_control(self.config) else {}),
            "epsilon": _epsilon_rows(statement),
            "unit": statement["unit"],
            "relation": statement["relation"],
            "delta": statement["delta"],
            "adapter": str(adapter) if adapter else None,
            "report": str(self.folder / "report.html"),
            "notes": self._notes(resolved.config, material),
        }
        self.folder.write_json("result.json", result)
        self.observe("result", result)
        return result

    def _notes(self, config: Config, material: Material) -> list[str]:
        """They count private records where the clients are simulated here, as the rows of rounds.jsonl do."""
        if self.federation.clients and not config.engine.diagnostics:
            return []
        records = sum(map(len, material.silos.values()))
        return [*material.notes, *weak_promises(config, records, len(self.cast.names(material)))]

    def _statement(self, resolved: Resolved, server: Server) -> dict[str, Any]:
        survivors = [len(row["survivors"]) for row in self.folder.rows("rounds.jsonl")]
        terms = self._terms(resolved, server)
        return privacy_statement(server.ledger, fewest_survivors=min(survivors, default=None), **terms)

    def _terms(self, resolved: Resolved, server: Server) -> dict[str, Any]:
        """What a statement says beside the ledger."""
        newest, private = self.federation.newest, resolved.config.privacy is not None
        return {
            "mechanism": (newest.system if newest else server.system).describe(),
            "clip_norm": resolved.facts.clip_norm if private else None,
            "noise_multiplier": resolved.facts.noise_multiplier if private else None,
            "not_covered": not_covered(resolved, here=bool(self.federation.clients)),
            "void": resolved.config.void,
        }


def _epsilon_rows(statement: dict[str, Any]) -> list[dict[str, Any]]:
    """ε for tables: one row an observer, or one that says why there is none."""
    if statement["epsilon"] == "none":
        return [{"observer": "all", "value": None, "method": "none", "text": f"none: {statement['reason']}"}]
    rows = []
    for name, row in statement["epsilon"].items():
        value = None if row["value"] == "none" else row["value"]
        rows.append({"observer": name, "value": value, "method": row["method"], "text": row["observer"]})
    return rows


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """A disk that is full or read-only, wherever it is met: in a client's folder, the log, the adapter."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise unwritable(error, error.filename or path) from None
    except SafetensorError as error:
        if "I/O error" not in str(error):
            raise
        # Its message is the operating system's, behind the library's own words
        reason = str(error).rpartition("I/O error: ")[2]
        raise unwritable(OSError(errno.EIO, reason), path / "adapter") from None
