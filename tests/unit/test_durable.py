"""Files that are whole whatever happens while they are replaced."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from privet import durable


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    durable.replace(path, "ä")
    assert path.read_bytes() == "ä".encode()
    durable.replace(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_files_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("old")
    path.chmod(0o600)
    durable.replace(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_on_a_full_disk_the_old_file_stands(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        durable.replace(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_half_a_new_file_never_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def killed(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        durable.replace(path, "new")
    assert path.read_text() == "old"
