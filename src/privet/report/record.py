"""A run's folder as facts: what was asked, what happened, what is promised. Everything that shows a run reads this.

Nothing is computed here that the run did not write down; what a run did not write is absent, never guessed. A run that
has not ended has no statement of its own: its ε so far is accounted from the ledger in its checkpoint.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from privet.errors import PrivetError
from privet.run_folder import MARK, RunFolder


@dataclass(frozen=True)
class ObserverRow:
    """What is promised against one observer.

    Attributes:
        name: Its name.
        description: What it sees and knows.
        epsilon: Headline epsilon; ``None`` if there is no finite one.
        method: How the headline was found: ``exact``, ``pld`` or ``none``.
        exact: Closed form, where there is one.
        pld: Upper bound by privacy loss distributions.
        rdp: Looser upper bound by Renyi divergences.
        clt: Central-limit value; may be too small.
        clt_note: The warning that goes with it.
        inside: Whether the trust model promises anything against this observer.
        reason: Why there is no finite epsilon.
    """

    name: str
    description: str
    epsilon: float | None
    method: str
    exact: float | None = None
    pld: float | None = None
    rdp: float | None = None
    clt: float | None = None
    clt_note: str | None = None
    inside: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class SiloRow:
    """One silo's metrics before and after the run; rows as in ``metrics.jsonl``."""

    silo: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def records(self) -> int | None:
        """Test records."""
        count: int | None = self.after.get("records", self.before.get("records"))
        return count


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        folder: Where it lies.
        config: The resolved configuration.
        privacy: ``privacy.json``; of a run that has not ended, the same from its checkpoint with ``so_far``; ``None``
            if nothing was released yet, or it cannot be accounted.
        result: ``result.json``, or ``None`` if the run has not ended.
        environment: ``env.json``.
        rounds: Rows of ``rounds.jsonl``.
        metrics: Rows of ``metrics.jsonl``.
        audit: ``audit.json``, or ``None`` if the run was not audited.
        unaccounted: Why it is not known what was released, if it is not.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    privacy: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    metrics: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)
    audit: Mapping[str, Any] | None = None
    unaccounted: str | None = None

    @classmethod
    def open(cls, path: Path) -> RunRecord:
        """Read a run's folder.

        Raises:
            PrivetError: if it is none, or its configuration is damaged.
        """
        folder = RunFolder.open(path)
        try:
            config = yaml.safe_load((folder / MARK).read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError):
            config = None
        if not isinstance(config, dict) or "system" not in config:
            raise _damaged(folder / MARK)
        try:
            return _checked(_read(folder, config))
        except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RecursionError):
            raise _damaged(path) from None  # numbers that are text, lists that are none

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.path.resolve().name

    @property
    def system(self) -> str:
        """The system, with its setting where that is not the default."""
        kind = str(self.config["system"]["kind"])
        return f"{kind} (faithful)" if self.config["system"].get("faithful") else kind

    @property
    def so_far(self) -> bool:
        """Whether every ε is of what was released so far, by a run that has not ended."""
        return bool((self.privacy or {}).get("so_far"))

    @property
    def planned_rounds(self) -> int:
        """Rounds asked for, those that prepare a codec included."""
        system = self.config["system"]
        prepare = system.get("collections", system.get("statistics", {}).get("releases", 0))
        return int(self.config.get("schedule", {}).get("rounds", 0)) + int(prepare)

    @property
    def state(self) -> str:
        """``finished``, ``stopped`` or ``unfinished``."""
        if self.result is None:
            return "unfinished"
        return "stopped" if self.result.get("stopped") else "finished"

    @property
    def state_text(self) -> str:
        """The state in words, with the next step."""
        if self.result is None:
            return (
                f"unfinished after {len(self.rounds)} of {self.planned_rounds} rounds; the command that began it, with "
                f"--out {self.folder.path} and --resume, goes on"
            )
        stopped = self.result.get("stopped")
        return (
            f"stopped after {len(self.rounds)} of {self.planned_rounds} rounds: {stopped}"
            if stopped
            else "finished"
        )

    @property
    def silos(self) -> tuple[SiloRow, ...]:
        """Metrics before and after, silo by silo, in the order in which they were measured."""
        before = {row["silo"]: row for row in self.metrics if row.get("when") == "before"}
        after = {row["silo"]: row for row in self.metrics if row.get("when") == "after"}
        return tuple(
            SiloRow(silo, before.get(silo, {}), after.get(silo, {}))
            for silo in dict.fromkeys([*before, *after])
        )

    def mean(self, when: str, metric: str) -> float | None:
        """Mean over silos of ``accuracy`` or ``nll``, ``before`` or ``after``; ``None`` if not measured everywhere."""
        values = [(row.before if when == "before" else row.after).get(metric) for row in self.silos]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known and len(known) == len(values) else None

    def control(self, metric: str) -> float | None:
        """Mean over silos after training on the public records alone, for codecs that follow those; else ``None``."""
        known = [row[metric] for row in self.metrics if row.get("when") == "public alone"]
        return statistics.fmean(known) if known and None not in known else None

    @property
    def observers(self) -> tuple[ObserverRow, ...]:
        """What is promised against each observer; empty before anything was released."""
        if self.privacy is None:
            return ()
        table = self.privacy.get("epsilon")
        if isinstance(table, dict):
            return tuple(_observer_row(name, row) for name, row in table.items())
        reason = self.privacy.get("reason", "nothing that was released is noised")
        return tuple(
            ObserverRow(name, description, None, "none", inside=inside, reason=reason)
            for name, description, inside in _observers_of(self.privacy.get("trust_model"))
        )

    @property
    def stages(self) -> tuple[Mapping[str, Any], ...]:
        """Epsilon of each kind of release by itself, as ``privacy.json`` has it; empty if there is one kind only."""
        return tuple((self.privacy or {}).get("stages", ()))

    @property
    def worst(self) -> ObserverRow | None:
        """The observer inside the trust model with the largest epsilon: the guarantee."""
        rows = [row for row in self.observers if row.inside]
        return (
            max(rows, key=lambda row: float("inf") if row.epsilon is None else row.epsilon) if rows else None
        )

    @property
    def promise(self) -> dict[str, Any]:
        """What an epsilon of this run is about: unit, relation and delta, as in ``privacy.json``."""
        source = self.privacy or self.config.get("privacy") or {}
        return {key: source.get(key) for key in ("unit", "relation", "delta")}

    @property
    def bytes_up(self) -> int | None:
        """Bytes from all clients to the server."""
        return self._total("bytes_up")

    @property
    def bytes_down(self) -> int | None:
        """Bytes from the server to all clients."""
        return self._total("bytes_down")

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole run, or of its rounds if it has not ended."""
        if self.result is not None and self.result.get("seconds") is not None:
            return float(self.result["seconds"])
        return float(sum(row.get("seconds", 0.0) for row in self.rounds)) if self.rounds else None

    @property
    def adapter(self) -> Path:
        """Where the adapter lies."""
        return self.folder / "adapter"

    def _total(self, key: str) -> int | None:
        if self.result is not None and self.result.get(key) is not None:
            return int(self.result[key])
        # A round's row holds the total since the run began.
        values = [row[key] for row in self.rounds if row.get(key) is not None]
        return int(values[-1]) if values else None

    def as_dict(self) -> dict[str, Any]:
        """For ``show --json`` and ``compare --json``."""
        worst = self.worst
        return {
            "run": self.name,
            "path": str(self.folder.path),
            "system": self.system,
            "state": self.state,
            "stopped": self.result.get("stopped") if self.result else None,
            "rounds": len(self.rounds),
            "planned_rounds": self.planned_rounds,
            **self.promise,
            "epsilon": [
                {
                    "observer": row.name,
                    "value": row.epsilon,
                    "method": row.method,
                    "inside_trust_model": row.inside,
                    **({"reason": row.reason} if row.reason else {}),
                }
                for row in self.observers
            ],
            "worst_observer": worst.name if worst else None,
            "so_far": self.so_far,
            **({"unaccounted": self.unaccounted} if self.unaccounted else {}),
            **({"stages": list(self.stages)} if self.stages else {}),
            "before": {metric: self.mean("before", metric) for metric in ("accuracy", "nll")},
            "after": {metric: self.mean("after", metric) for metric in ("accuracy", "nll")},
            **(
                {"public_alone": {metric: self.control(metric) for metric in ("accuracy", "nll")}}
                if self.control("nll") is not None
                else {}
            ),
            "silos": [
                {"silo": row.silo, "before": dict(row.before), "after": dict(row.after)} for row in self.silos
            ],
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": self.seconds,
            "adapter": str(self.adapter) if self.adapter.exists() else None,
            "report": str(self.folder / "report.html") if (self.folder / "report.html").exists() else None,
        }


def _read(folder: RunFolder, config: Mapping[str, Any]) -> RunRecord:
    """What stands in the folder beside its configuration."""
    privacy, unaccounted = _privacy(folder, config)
    return RunRecord(
        folder,
        config,
        privacy,
        _optional(folder, "result.json"),
        _optional(folder, "env.json") or {},
        tuple(folder.rows("rounds.jsonl")),
        tuple(folder.rows("metrics.jsonl")),
        _optional(folder, "audit.json"),
        unaccounted,
    )


def _checked(record: RunRecord) -> RunRecord:
    """The record, if what is shown of it is of the form in which runs write it; else any error of Python's."""
    facts = record.as_dict()
    numbers = [facts["delta"], facts["seconds"], facts["bytes_up"], facts["bytes_down"]]
    for observer in record.observers:
        numbers += [observer.epsilon, observer.exact, observer.pld, observer.rdp, observer.clt]
    for silo in record.silos:
        for row in (silo.before, silo.after):
            numbers += [
                row.get(name) for name in ("nll", "nll_se", "accuracy", "accuracy_low", "accuracy_high")
            ]
    for stage in record.stages:
        numbers += [stage["noise_multiplier"], stage["count"]]
    for row in record.rounds:
        numbers += [len(row.get("survivors", ())), row.get("direction_norm")]
    for number in numbers:
        if not isinstance(number, int | float | None):
            raise TypeError(number)
    return record


def _damaged(path: Path) -> PrivetError:
    return PrivetError("is damaged", field=str(path), hint="start the run again with `privet run --fresh`")


def find(name: str, runs: Path = Path("runs")) -> Path:
    """The folder of a run that is named by its path, or by its name under ``runs``.

    Raises:
        PrivetError: if there is no such run.
    """
    for path in (Path(name), runs / name):
        if (path / MARK).exists():
            return path
    raise PrivetError("no such run", field="run", given=name, hint="`privet ls` lists the runs here")


def find_all(runs: Path) -> list[Path]:
    """Folders of runs directly under ``runs``, oldest first."""
    marks = [path / MARK for path in runs.iterdir() if (path / MARK).exists()] if runs.is_dir() else []
    return [mark.parent for mark in sorted(marks, key=lambda mark: (mark.stat().st_mtime, mark))]


def _privacy(folder: RunFolder, config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The run's statement, or what its checkpoint says so far; and why neither can be had."""
    if (written := _optional(folder, "privacy.json")) is not None:
        return written, None
    if not (folder / "checkpoints").is_dir() and not (folder / "rounds.jsonl").exists():
        return None, None
    from privet.so_far import statement_so_far

    try:
        return statement_so_far(folder, config), None
    except PrivetError as error:
        return None, str(error)


def _optional(folder: RunFolder, name: str) -> dict[str, Any] | None:
    if not (folder / name).exists():
        return None
    loaded = folder.read_json(name)
    if not isinstance(loaded, dict):
        raise _damaged(folder / name)
    return loaded


def _observer_row(name: str, row: Mapping[str, Any]) -> ObserverRow:
    value = row.get("value")
    return ObserverRow(
        name,
        str(row.get("observer", name)),
        None if value in (None, "none") else float(value),
        str(row.get("method", "none")),
        exact=row.get("exact"),
        pld=row.get("pld"),
        rdp=row.get("rdp"),
        clt=row.get("clt"),
        clt_note=row.get("clt_note"),
        inside=bool(row.get("inside_trust_model", True)),
        reason=row.get("reason"),
    )


def _observers_of(trust: Any) -> list[tuple[str, str, bool]]:
    if not isinstance(trust, dict):
        return [("anybody", "anybody who sees what the run released", True)]
    from privet.privacy.observers import TrustModel

    model = TrustModel(**{key: value for key, value in trust.items() if key != "text"})
    return [(observer.name, observer.description, observer.inside) for observer in model.observers()]
