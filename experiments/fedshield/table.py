"""The study's table, from its rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAMES = {
    "base": "before training",
    "none": "unsealed",
    "masked": "sealed, `masked`",
    "encrypted": "sealed, `encrypted`",
    "encrypted+masked": "sealed, `encrypted+masked`",
    "faithful": "faithful: CKKS, own masks",
}
_HEAD = (
    "| setting | seed | accuracy [95 %] | NLL ± s.e. | contribution, kB, first → last | kB up | kB down "
    "| s besides training | ε | adapter |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
_NOTE = """
Contribution: one client's answer of a round, {full:.1f} kB as float32; the mask keeps half of it at the end. kB up and
down: of all messages, keys and the sealed state included, for each contribution that was sent. Seconds: CPU seconds of
all parties in the whole run, training excluded. Adapter: start of its SHA-256.
Made by `python -m experiments.fedshield.run` at {commits}.
"""


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row, and what the columns mean."""
    ordered = sorted(rows, key=lambda row: (str(row["seed"]), list(NAMES).index(row["setting"])))
    dimension = max(row.get("dimension", 0) for row in rows)
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    note = _NOTE.format(full=4 * dimension / 1e3, commits=commits)
    return "\n".join([*_HEAD, *map(_line, ordered)]) + "\n" + note


def _line(row: dict[str, Any]) -> str:
    accuracy = f"{row['accuracy']:.4f} [{row['accuracy_low']:.4f}, {row['accuracy_high']:.4f}]"
    cells = [NAMES[row["setting"]], str(row["seed"]), accuracy, f"{row['nll']:.4f} ± {row['nll_se']:.4f}"]
    if row["setting"] == "base":
        return "| " + " | ".join([*cells, "–", "–", "–", "–", "–", "–"]) + " |"
    first, last = (row[f"bytes_of_{which}_contribution"] / 1e3 for which in ("first", "last"))
    cells += [
        f"{first:.1f} → {last:.1f}",
        f"{row['bytes_up_a_client_round'] / 1e3:.1f}",
        f"{row['bytes_down_a_client_round'] / 1e3:.1f}",
        f"{row['other_cpu_seconds']:.2f}",
        str(row["epsilon"]),
        f"`{row['adapter_sha256'][:8]}`",
    ]
    return "| " + " | ".join(cells) + " |"
