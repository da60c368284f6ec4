"""The folder of a run: what lies where, and how it survives a kill at any instant.

    config.yaml resolved.yaml env.json        what was asked, what that meant, and on what it ran
    dp_event.json privacy.json                the releases, for anybody to account again; what is promised
    rounds.jsonl metrics.jsonl log.txt        what happened
    checkpoints/ clients/                     what a resumed run needs; clients/ is secret (0700, files 0600)
    adapter/ report.html                      the result
    .privet-run                               says that this is a run's folder, and is locked while a process has it

A checkpoint replaces its predecessor by rename after an fsync, so there is always a whole one. ``rounds.jsonl`` is
written before the checkpoint; rows beyond the checkpoint are dropped when a run resumes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from privet import durable
from privet.config import Config, to_yaml
from privet.errors import PrivetError

PACKAGES = ("privet", "torch", "transformers", "numpy", "scipy", "dp-accounting", "cryptography", "tenseal")
MARK = "resolved.yaml"
SIGN = ".privet-run"
CLAIM = "checkpoints/config.json"
CLIENTS = "checkpoints/clients.json"
_BEFORE_BIRTH = frozenset({SIGN, "env.json", "checkpoints"})
_BEING_CLEARED = b"being cleared"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, fresh: bool = False) -> RunFolder:
        """A new folder, or with ``fresh`` that of an older run, which :meth:`clear` empties.

        A run that ended before it had settled its configuration is in nobody's way.

        Raises:
            PrivetError: if something is there already and ``fresh`` is false, or what is there is no run.
        """
        if path.exists() and not path.is_dir():
            raise PrivetError("is a file", field="--out", given=path, allowed="a folder", hint="name another")
        if path.exists() and any(path.iterdir()) and not _is_unborn(path):
            if not fresh:
                raise PrivetError(
                    "a run is there already" if _is_run(path) else "the folder is not empty",
                    field="--out",
                    given=path,
                    allowed="a new folder",
                    hint="--resume goes on with a run, --fresh throws it away, --out names another folder",
                )
            if not _is_run(path):
                raise PrivetError(
                    "is not the folder of a run, so it is not thrown away",
                    field="--out",
                    given=path,
                    allowed="a new folder, or that of a run",
                    hint="name another folder with --out",
                )
        # What is thrown away may have been one; it is not followed.
        _no_links([path / SIGN] if fresh else _everything(path))
        path.mkdir(parents=True, exist_ok=True)
        (path / SIGN).touch(mode=0o600)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of an existing run.

        Raises:
            PrivetError: if there is none, it was being thrown away, or a link leads out of it.
        """
        if not _is_run(path):
            raise PrivetError(
                "is not the folder of a run",
                field="run",
                given=path,
                hint="`privet ls` lists the runs here; without --resume a new run starts",
            )
        _no_links(_everything(path))
        sign = path / SIGN
        if sign.exists() and sign.read_bytes() == _BEING_CLEARED:
            raise PrivetError(
                "was being thrown away when its process ended, and is no longer whole",
                field="run",
                given=path,
                hint="--fresh starts the run anew in this folder",
            )
        return cls(path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps two processes from running in one folder; a kill releases the lock.

        Raises:
            PrivetError: if another process has it.
        """
        descriptor = os.open(self.path / SIGN, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise PrivetError(
                    "another process is running it",
                    field=str(self.path),
                    hint="wait for it or stop it; --out names another folder",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Throw away everything in the folder; to be called by who is :meth:`alone` in it.

        A kill in between leaves a folder that :meth:`open` refuses: a run without some of its clients' memories could
        answer a round twice.
        """
        sign = self.path / SIGN
        if not _is_unborn(self.path):
            durable.write(sign, _BEING_CLEARED)
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != sign:
                path.unlink()
        durable.write(sign, b"")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, data: str | bytes) -> None:
        """Replace a file durably and atomically.

        Raises:
            PrivetError: if the disk is full or read-only; the old file is still whole then.
        """
        target = self.path / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(target, data)
        except OSError as e:
            raise unwritable(e, target) from None

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file, readable by people."""
        self.write(name, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the run.

        Raises:
            PrivetError: if it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise PrivetError(
                "is missing or damaged",
                field=str(self.path / name),
                hint="`privet run --resume` finishes the run",
            ) from None

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Add one line of JSON; when this returns it has reached the disk.

        Raises:
            PrivetError: if the disk is full or read-only.
        """
        path = self.path / name
        try:
            durable.append(path, _line(row).encode())
        except OSError as e:
            raise unwritable(e, path) from None

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The lines of a JSON-lines file up to the first that is no row: a last one may have been cut off by a kill."""
        path = self.path / name
        if not path.exists():
            return []
        rows = []
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
        return rows

    def keep_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Replace a JSON-lines file by ``rows``."""
        self.write(name, "".join(map(_line, rows)))


def unwritable(error: OSError, path: Path | str) -> PrivetError:
    """What a person is told of a disk that is full, read-only or otherwise closed."""
    return PrivetError(
        "cannot be written",
        field=str(path),
        given=error.strerror or str(error),
        hint="free space or mend the permissions, then `privet run` again with --resume; no finished round is lost",
    )


def _is_run(path: Path) -> bool:
    return (path / SIGN).is_file() or (path / MARK).is_file()


def _everything(folder: Path) -> Iterator[Path]:
    """All in a folder, links not followed; what a run replaces meanwhile is in nobody's way."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _no_links(paths: Iterable[Path]) -> None:
    """Refuse links in a run's folder: a run makes none, and what is read or written here would lie elsewhere."""
    for path in paths:
        if path.is_symlink():
            raise PrivetError(
                "is a link",
                field=str(path),
                given=f"to {os.readlink(path)}",
                allowed="a run's folder holds files and folders of its own",
                hint="put what it leads to in its place, if you trust whoever gave you this folder",
            )


def _is_unborn(path: Path) -> bool:
    """Whether a run was begun here and ended before any of its parties existed: nothing can be lost."""
    sign = path / SIGN
    if not sign.is_file() or sign.read_bytes() == _BEING_CLEARED or (path / CLAIM).exists():
        return False
    return all(p.name in _BEFORE_BIRTH or p.name.startswith(".") for p in path.iterdir())


def _line(row: dict[str, Any]) -> str:
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """``value`` with NaN and infinities as null: JSON has no word for them, and a run that diverged must end whole."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def config_hash(config: Config) -> str:
    """Names everything that changes what a run computes or promises; the engine's speed settings are left out."""
    parts = config.model_dump(mode="json", exclude={"engine"})
    parts["deterministic_units"] = config.deterministic_units
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
