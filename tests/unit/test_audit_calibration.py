"""The count of false alarms goes on where it stopped, and fails where a level is not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from experiments.audit_calibration import run


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Seeds that were measured; those of the second setting are over."""
    seen: list[tuple[str, int]] = []

    def canary(declared: dict[str, Any], setting: dict[str, Any], seed: int) -> dict[str, Any]:
        seen.append((setting["name"], seed))
        return {"over": setting["name"] == "dp_lora, no seal"}

    monkeypatch.setattr(run, "canary", canary)
    return seen


def count(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["run", "--suites", "0", "--out", str(out), *arguments])
    run.main()


def test_seeds_that_were_measured_are_not_measured_again(
    measured: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "small.json"
    count(monkeypatch, out, "--canaries", "1")
    assert len(measured) == 4
    count(monkeypatch, out, "--canaries", "2", "--seconds", "0")
    assert len(measured) == 4, "no time is left at once"
    count(monkeypatch, out, "--canaries", "2")
    assert len(measured) == len(set(measured)) == 8
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert len(stored["rows"]) == 8
    assert {row["config_hash"] for row in stored["rows"]} == {stored["config_hash"]}


def test_a_count_that_an_honest_audit_hardly_reaches_fails_the_command(
    measured: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        count(monkeypatch, tmp_path / "small.json", "--canaries", "4")
    page = (tmp_path / "small.md").read_text(encoding="utf-8")
    assert "| audit.canary, dp_lora, no seal | 4 | 4 | 1.0 | 2 |" in page
    assert "| audit.canary, hedge, masked | 4 | 0 | 0.527 | 2 |" in page
