"""The study's table, from its JSON alone: ``python -m experiments.attacks.table``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from privet.report import numbers

HERE = Path(__file__).parent
HEAD = (
    "row", "sealing", "unit", "recall [95 %]", "without the message", "AUC [95 %]",
    "audited ε [95 % bounds, parametric]", "accounted ε of the audited rounds", "accounted ε of the run",
)  # fmt: skip


def table(stored: dict[str, Any]) -> str:
    """Markdown of one results file."""
    parts: dict[str, dict[str, Any]] = {}
    for row in stored["rows"]:
        parts.setdefault(row["codec"], {}).update(row)
    lines = [HEAD, tuple("---" for _ in HEAD)]
    for declared in stored["config"]["rows"]:
        row = parts.get(declared["name"])
        if row is None or not {"canary", "recall"} <= set(row):
            continue
        lines.append(
            (
                declared["name"],
                row["sealing"],
                row["unit"] or "none",
                bounded(row["recall"]),
                numbers.number(row["recall"]["compared"]),
                bounded(row["auc"]),
                bounded(row["canary"]) if row["unit"] else "no noise: canaries are told apart without error",
                numbers.epsilon(row["canary"]["compared"]),
                numbers.epsilon(row["epsilon"]),
            )
        )
    head = (
        f"Model {stored['config']['model']}, suite {stored['config']['suite']}, "
        f"configuration {stored['config_hash']}, commits "
        + ", ".join(sorted({row["commit"] for row in stored["rows"]}))
        + ". δ = 1e-5. Every unit in every round, but for the last column."
    )
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{head}\n\n{body}\n"


def bounded(found: dict[str, Any]) -> str:
    """Value and interval."""
    return numbers.with_interval(found["value"], found["low"], found["high"])


def main() -> None:
    """Write a Markdown file beside each results file."""
    for path in sorted((HERE / "results").glob("*.json")):
        path.with_suffix(".md").write_text(
            table(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
