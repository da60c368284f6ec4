"""The study's table, from its JSON alone: ``python -m experiments.attacks.table``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from privet.report import numbers

HERE = Path(__file__).parent
HEAD = (
    "row", "sealing", "unit", "recall [95 %]", "without the message", "AUC [95 %]",
    "audited ε: 95 % lower bound", "accounted ε of the audited rounds", "audited ε: estimate, 95 % upper bound",
    "accounted ε of the run",
)  # fmt: skip
STAGE = (
    "row", "attack", "setting", "runs named whole [95 %]", "coins guessed right", "ε: 95 % lower bound",
    "accounted ε", "verdict",
)  # fmt: skip


def table(stored: dict[str, Any]) -> str:
    """Markdown of one results file."""
    parts: dict[str, dict[str, Any]] = {}
    for row in stored["rows"]:
        parts.setdefault(row["codec"], {}).update(row)
    whole = [
        parts[declared["name"]]
        for declared in stored["config"]["rows"]
        if {"canary", "recall"} <= set(parts.get(declared["name"], ()))
    ]
    head = (
        f"Model {stored['config']['model']}, suite {stored['config']['suite']}, "
        f"configuration {stored['config_hash']}, commits "
        + ", ".join(sorted({row["commit"] for row in stored["rows"]}))
        + ". δ = 1e-5. Every unit in every round, but for the last column.\n\n"
        "What is claimed is that the **lower bound** stays at or below the accounted ε beside it, in 95 % of honest "
        f"runs at least: {claim(whole)}. The estimate scatters around the truth, so in an honest run it may well lie "
        "above the accounted ε. All three numbers of an audit are parametric (normal scores)."
    )
    stages = [(row, found) for row in whole for found in row["first_stage"]]
    tables = [
        markdown(HEAD, [line(row) for row in whole]),
        "What the first stage of `dr_encoder` and `cg_fedllm` opens, and the codec that is made of it:",
        markdown(STAGE, [stage(row["codec"], found) for row, found in stages]),
    ]
    return "\n\n".join([head, *tables]) + "\n"


def line(row: dict[str, Any]) -> tuple[str, ...]:
    """One configuration."""
    canary = row["canary"]
    shown = (
        f"{numbers.number(canary['value'])}, {numbers.number(canary['high'])}"
        if canary["high"] is not None
        else "–"
    )
    return (
        row["codec"],
        row["sealing"],
        row["unit"] or "none",
        bounded(row["recall"]),
        numbers.number(row["recall"]["compared"]),
        bounded(row["auc"]),
        numbers.number(canary["low"]) if row["unit"] else "no noise: canaries are told apart without error",
        numbers.epsilon(canary["compared"]),
        shown if row["unit"] else "–",
        numbers.epsilon(row["epsilon"]),
    )


def stage(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One attack on a first stage."""
    named, proved = found["named"], found["proved"]
    right = proved["samples"].removesuffix(" coins guessed right")
    return (
        name,
        f"`{found['attack']}`",
        named["setting"],
        bounded(named),
        right,
        numbers.number(proved["low"]),
        numbers.epsilon(proved["compared"]),
        named["verdict"],
    )


def claim(rows: list[dict[str, Any]]) -> str:
    """In how many rows the claim holds."""
    held = [row["canary"] for row in rows if row["canary"]["compared"] is not None]
    kept = sum(canary["low"] <= canary["compared"] for canary in held)
    return f"here it does in {kept} of the {len(held)} rows that claim an ε"


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(each) + " |" for each in (head, tuple("---" for _ in head), *lines))


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
