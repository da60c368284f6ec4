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
    "| setting | seed | accuracy [95 %] | NLL | kB up | kB down | s besides training | ε | adapter |",
    "|---|---|---|---|---|---|---|---|---|",
)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row; bytes are those of one client in one round, seconds CPU seconds of all parties a run."""
    ordered = sorted(rows, key=lambda row: (str(row["seed"]), list(NAMES).index(row["setting"])))
    return "\n".join([*_HEAD, *map(_line, ordered)]) + "\n"


def _line(row: dict[str, Any]) -> str:
    accuracy = f"{row['accuracy']:.4f} [{row['accuracy_low']:.4f}, {row['accuracy_high']:.4f}]"
    cells = [NAMES[row["setting"]], str(row["seed"]), accuracy, f"{row['nll']:.4f} ± {row['nll_se']:.4f}"]
    if row["setting"] == "base":
        return "| " + " | ".join([*cells, "–", "–", "–", "–", "–"]) + " |"
    cells += [
        f"{row['bytes_up_a_client_round'] / 1e3:.1f}",
        f"{row['bytes_down_a_client_round'] / 1e3:.1f}",
        f"{row['other_cpu_seconds']:.2f}",
        str(row["epsilon"]),
        f"`{row['adapter_sha256'][:8]}`",
    ]
    return "| " + " | ".join(cells) + " |"
