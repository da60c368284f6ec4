"""The folder of a run: what lies where, and how it survives a kill at any instant.

    config.yaml resolved.yaml env.json        what was asked, what that meant, and on what it ran
    dp_event.json privacy.json                the releases, for anybody to account again; what is promised
    rounds.jsonl metrics.jsonl log.txt        what happened
    checkpoints/ clients/                     what a resumed run needs; clients/ is secret (0700, files 0600)
    adapter/ report.html                      the result

A checkpoint replaces its predecessor by rename after an fsync, so there is always a whole one. ``rounds.jsonl`` is
written before the checkpoint; rows beyond the checkpoint are dropped when a run resumes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from privet.config import Config, to_yaml
from privet.errors import PrivetError

PACKAGES = ("privet", "torch", "transformers", "numpy", "scipy", "dp-accounting", "cryptography", "tenseal")
MARK = "resolved.yaml"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, fresh: bool = False) -> RunFolder:
        """A new, empty folder.

        Raises:
            PrivetError: if something is there already and ``fresh`` is false, or what is there is no run.
        """
        if path.exists() and any(path.iterdir()):
            if not fresh:
                raise PrivetError(
                    "a run is there already",
                    field="--out",
                    given=path,
                    allowed="a new folder",
                    hint="--resume goes on with it, --fresh throws it away, --out names another",
                )
            if not (path / MARK).exists():
                raise PrivetError(
                    "is not the folder of a run, so it is not thrown away", field="--out", given=path
                )
            shutil.rmtree(path)
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of an existing run.

        Raises:
            PrivetError: if there is none.
        """
        if not (path / MARK).exists():
            raise PrivetError(
                "is not the folder of a run", field="run", given=path, hint="`privet ls` lists the runs here"
            )
        return cls(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, data: str | bytes) -> None:
        """Replace a file durably and atomically.

        Raises:
            PrivetError: if the disk is full or read-only; the old file is still whole then.
        """
        target = self.path / name
        temporary = target.with_name(f".{target.name}.new")
        raw = data.encode() if isinstance(data, str) else data
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as e:
            temporary.unlink(missing_ok=True)
            raise PrivetError(
                "cannot be written",
                field=str(target),
                given=e.strerror,
                hint="free space or mend the permissions, then `privet run --resume`; nothing is lost",
            ) from None

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file, readable by people."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the run.

        Raises:
            PrivetError: if it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise PrivetError(
                "is missing or damaged",
                field=str(self.path / name),
                hint="`privet run --resume` finishes the run",
            ) from None

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line of JSON."""
        try:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as e:
            raise PrivetError(
                "cannot be written",
                field=str(self.path / name),
                given=e.strerror,
                hint="free space and resume",
            ) from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a JSON-lines file; a last line that a kill cut off is left out."""
        path = self.path / name
        if not path.exists():
            return []
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def keep_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a JSON-lines file by ``rows``."""
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        self.write(name, text)


def config_hash(config: Config) -> str:
    """Names everything that changes what a run computes or promises; the engine's speed settings are left out."""
    parts = config.model_dump(mode="json", exclude={"engine"})
    parts["deterministic_units"] = config.engine.deterministic_units
    parts["micro_batch"] = config.engine.micro_batch
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def describe_environment() -> dict[str, Any]:
    """What a run ran on, for ``env.json``; no host name and no path."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "schema": 1,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": packages,
    }


def write_configs(folder: RunFolder, original: str, resolved: Config) -> None:
    """The configuration as it was given and with everything resolved."""
    folder.write("config.yaml", original)
    folder.write(MARK, to_yaml(resolved))
