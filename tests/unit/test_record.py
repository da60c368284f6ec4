"""A run's folder as facts: the worst observer is the guarantee, and nothing is guessed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import finished_run

from privet.errors import PrivetError
from privet.report.record import RunRecord, find, find_all


def with_epsilons(path: Path, **values: Any) -> RunRecord:
    finished_run(path)
    privacy = json.loads((path / "privacy.json").read_text(encoding="utf-8"))
    for name, value in values.items():
        privacy["epsilon"][name]["value"] = value
    (path / "privacy.json").write_text(json.dumps(privacy), encoding="utf-8")
    return RunRecord.open(path)


def test_the_guarantee_is_the_largest_epsilon_inside_the_trust_model(tmp_path: Path) -> None:
    record = with_epsilons(tmp_path / "run", server=1.0, participant=2.0, public=0.5, colluders=9.0)
    assert record.worst is not None
    assert (record.worst.name, record.worst.epsilon) == ("participant", 2.0)


def test_one_observer_without_finite_epsilon_makes_the_guarantee_none(tmp_path: Path) -> None:
    record = with_epsilons(tmp_path / "run", server=1.0, participant="none", public=0.5)
    assert record.worst is not None
    assert (record.worst.name, record.worst.epsilon) == ("participant", None)


def test_a_run_without_guarantee_has_observers_with_the_reason(tmp_path: Path) -> None:
    record = RunRecord.open(finished_run(tmp_path / "run", "fedavg"))
    assert record.observers
    assert all(row.epsilon is None and row.reason for row in record.observers)


def test_means_weigh_silos_alike_and_are_absent_if_one_is(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "run")
    assert RunRecord.open(path).mean("before", "nll") == pytest.approx(0.42)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [row for row in rows if (row["when"], row["silo"]) != ("after", "nyt")]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    assert RunRecord.open(path).mean("after", "nll") is None


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "run", rounds=4, ended=False)
    with (path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"schema": 1, "rou')
    record = RunRecord.open(path)
    assert len(record.rounds) == 4
    assert record.bytes_up == 4 * 52_000
    assert record.state == "unfinished"


def test_runs_are_found_by_path_and_listed_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for began, name in enumerate(("b", "a")):
        path = finished_run(tmp_path / "runs" / name, rounds=0, ended=False)
        os.utime(path / "resolved.yaml", (began, began))
    (tmp_path / "runs" / "notes").mkdir()
    assert [path.name for path in find_all(tmp_path / "runs")] == ["b", "a"]
    monkeypatch.chdir(tmp_path)
    assert find("a") == Path("runs/a")
    with pytest.raises(PrivetError, match="no such run"):
        find("c")


def test_a_damaged_configuration_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "run", rounds=0, ended=False)
    (path / "resolved.yaml").write_text("system: [", encoding="utf-8")
    with pytest.raises(PrivetError, match="--fresh"):
        RunRecord.open(path)
