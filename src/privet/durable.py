"""Files that are whole after a kill or on a full disk: the old one or the new one, never half of it.

One writer of a file at a time is assumed; who shares a file takes a lock first.

Secrets are not written with this; they have `privet.keys.SecretStore`, which sets their mode from the first byte on.
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk. A kill amid it leaves part of it.

    Raises:
        OSError: if it cannot be written, or is a link to another file.
    """
    _to_disk(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), data)


def append(path: Path, data: bytes) -> None:
    """The same, behind what is in the file already."""
    _to_disk(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), data
    )


def replace(path: Path, data: str | bytes) -> None:
    """Replace a file in one step, or make it; on any error the old one stands as it was. A file's mode is kept.

    Args:
        path: The file; its folder exists.
        data: Its new content; text is written as UTF-8.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        # What a kill left there, or whoever the folder came from; a link would have another file written.
        temporary.unlink(missing_ok=True)
        write(temporary, data.encode() if isinstance(data, str) else data)
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _to_disk(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
