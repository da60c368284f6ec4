"""Result files of studies: one row a measurement, with its commit and the hash of its configuration.

Run a study from the repository's root as a module, for instance ``python -m experiments.reconstruction.run``.
Rows that are there already are not measured again, so a study that was cut off goes on where it stopped;
changing its configuration starts it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("src/privet", "experiments")
KEY = ("what", "codec", "ratio", "noise", "removed", "seed")


def commit() -> str:
    """Short hash of the checkout, with ``+`` where measured code was changed after it."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run(
        [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True
    )
    changed = subprocess.run(
        [
            *git,
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            *MEASURED,
            ":(exclude,glob)experiments/*/results/**",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Results:
    """A JSON file of rows that belong to one configuration."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, dict(config)
        self.digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:12]
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["config_hash"] == self.digest:
                self.rows = stored["rows"]
        self._commit = commit()

    def has(self, **key: Any) -> bool:
        """Whether a row with these values was measured already."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row and write the file."""
        self.rows.append({**row, "commit": self._commit, "config_hash": self.digest})
        self.rows.sort(key=lambda r: [str(r.get(name, "")) for name in KEY])
        stored = {"config": self.config, "config_hash": self.digest, "rows": self.rows}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def arguments(what: str) -> argparse.Namespace:
    """Command line of a study: which model, and how many rows at most in this go."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument(
        "--model", choices=("small", "smollm2"), default="smollm2", help="updates of which model"
    )
    parser.add_argument("--limit", type=int, default=None, help="stop after so many new codecs")
    parser.add_argument(
        "--updates", type=Path, default=ROOT / "build" / "updates", help="where updates are kept"
    )
    parser.add_argument(
        "--without", action="append", default=[], help="leave codecs with this in their name for another go"
    )
    return parser.parse_args()
