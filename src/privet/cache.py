"""The cache folder: finished folders with a manifest of hashes, put in place by one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from privet.errors import PrivetError

MANIFEST = "manifest.json"
_PARTIAL = ".partial-"


def cache_dir() -> Path:
    """Where fetched and derived things are kept: ``PRIVET_CACHE``, or the platform's cache folder."""
    if given := os.environ.get("PRIVET_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "privet"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``manifest.json``: ``facts`` and the SHA-256 and size of every other file in ``folder``."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of ``folder``, or ``None`` when there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def is_intact(folder: Path, *, version: str, hashes: bool = False) -> bool:
    """Whether ``folder`` was finished by this ``version`` of its recipe and its files are all there.

    Args:
        folder: A folder of the cache.
        version: The recipe's version, as in the manifest.
        hashes: Whether to read every file and compare its SHA-256, or its size alone.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("version") != version:
        return False
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return False
        if hashes and sha256_file(path) != facts["sha256"]:
            return False
    return True


def ensure(
    name: str,
    build: Callable[[Path], Mapping[str, Any]],
    *,
    version: str,
    verify: bool = False,
    force: bool = False,
) -> Path:
    """The finished folder ``name`` of the cache, built first when it is missing, outdated or damaged.

    ``build(folder)`` fills an empty folder and returns facts for the manifest. The folder gets its name
    only when it is complete, so stopping at any moment leaves nothing that looks finished; a file lock
    lets one process build while others wait for it.

    Raises:
        PrivetError: if the cache folder cannot be written.
    """
    target = cache_dir() / name
    if not force and not verify and is_intact(target, version=version):
        return target  # without the lock: a finished folder needs none, even where the cache is read-only
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{name}.lock"):
            for stale in target.parent.glob(f"{_PARTIAL}{name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            if not force and is_intact(target, version=version, hashes=verify):
                return target
            partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{name}-", dir=target.parent))
            try:
                write_manifest(partial, {"version": version, **build(partial)})
                _put_in_place(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise PrivetError(
            f"the cache folder cannot be used ({error.strerror or type(error).__name__})",
            field="PRIVET_CACHE",
            given=cache_dir(),
            hint="free some space (about 0.5 GB are needed), or point PRIVET_CACHE to a folder you can write",
        ) from error
    return target


def _put_in_place(partial: Path, target: Path) -> None:
    partial.chmod(0o755)  # mkdtemp and safetensors deny reading to a second user of a shared cache
    for path in partial.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if target.exists():
        # A folder cannot be renamed over another one that is not empty; the damaged one steps aside first.
        aside = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{target.name}-", dir=target.parent))
        target.rename(aside / "old")
        partial.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        partial.rename(target)
