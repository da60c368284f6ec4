"""Planting a mutant in a copy of the source."""

from __future__ import annotations

import shutil
from pathlib import Path

from mutants.mutant import Edit, Mutant


class Stale(Exception):
    """A mutant's old text does not occur exactly once: the code has moved on, and the mutant must follow."""


def change(source: Path, edit: Edit) -> None:
    """Replace a mutant's text in a source tree that holds the package ``privet``.

    Raises:
        Stale: if the old text does not occur exactly once.
    """
    file = source / "privet" / edit.file
    text = file.read_text("utf-8") if file.exists() else ""
    count = text.count(edit.old)
    if count != 1:
        raise Stale(f"{edit.file}: {count} times {edit.old!r}")
    file.write_text(text.replace(edit.old, edit.new), "utf-8")


def plant(original: Path, target: Path, mutant: Mutant) -> None:
    """Copy the source tree ``original`` to ``target`` and plant the bug there.

    Raises:
        Stale: if a text is not where it should be.
        SyntaxError: if what comes out is no Python.
    """
    shutil.copytree(original, target, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        change(target, edit)
        file = target / "privet" / edit.file
        compile(file.read_text("utf-8"), edit.file, "exec")
