"""A run that has not ended says what it released so far, out of its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.toy import config
from support.toy_runs import gatherer
from typer.testing import CliRunner

import privet.cast
import privet.runs
from privet.checkpoint import FILE
from privet.cli import app
from privet.config import Config, to_yaml
from privet.errors import PrivetError
from privet.export import export
from privet.privacy.ledger import reaccount
from privet.report import write_report
from privet.report.record import RunRecord
from privet.run_folder import RunFolder
from privet.so_far import TERMS, events_left

WIDE = {"COLUMNS": "220"}


def asked() -> Config:
    return config(insecure_test_seed=None)


def interrupted(out: Path, of: Config, *, after: int = 0) -> Path:
    """A run that got Ctrl-C after a round."""

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round" and facts["round"] == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        privet.runs.start(of, to_yaml(of), out, observe=observe)
    return out


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privet.cast, "gather", gatherer())


@pytest.fixture
def run(toy: None, tmp_path: Path) -> Path:
    return interrupted(tmp_path / "run", asked())


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(part) for part in arguments], env=WIDE)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_run_shows_what_it_released(run: Path, killed: bool) -> None:
    if killed:
        (run / "dp_event.json").unlink()
    shown = json.loads(invoke("show", run, "--json"))
    worst = next(row for row in shown["epsilon"] if row["observer"] == shown["worst_observer"])
    assert shown["so_far"]
    assert worst["value"] > 0
    assert shown["state"] == "unfinished"
    assert "ε so far, per observer (unit" in invoke("show", run)
    for out in (invoke("ls", "--runs", run.parent), invoke("compare", run)):
        assert " so far" in out
    page = Path(write_report(RunRecord.open(run))).read_text(encoding="utf-8")
    assert "So far: epsilon = " in page
    assert "ε so far" in page
    assert "each unit clipped" in page
    with pytest.raises(PrivetError, match="no adapter yet"):
        export(RunRecord.open(run), run.parent / "exported")


def test_ctrl_c_leaves_the_events_and_they_give_the_same_epsilon(run: Path) -> None:
    record = RunRecord.open(run)
    again = reaccount(json.loads((run / "dp_event.json").read_text(encoding="utf-8")))
    assert record.worst is not None
    assert again["observers"][record.worst.name]["headline"]["value"] == record.worst.epsilon
    assert not (run / "privacy.json").exists()


def test_a_finished_run_is_not_so_far(run: Path) -> None:
    so_far = RunRecord.open(run).worst
    privet.runs.start(asked(), to_yaml(asked()), run, resume=True)
    record = RunRecord.open(run)
    assert not record.so_far
    assert record.as_dict()["so_far"] is False
    assert so_far is not None
    assert record.worst is not None
    assert record.worst.epsilon is not None
    assert so_far.epsilon is not None
    assert so_far.epsilon < record.worst.epsilon
    assert record.privacy is not None
    assert "so far" not in str(record.privacy["guarantee"]).lower()


def test_a_run_with_a_test_seed_promises_nothing_so_far_either(toy: None, tmp_path: Path) -> None:
    run = interrupted(tmp_path / "run", config(insecure_test_seed=3))
    record = RunRecord.open(run)
    assert record.worst is not None
    assert record.worst.epsilon is None
    assert "insecure_test_seed" in str(record.worst.reason)
    assert json.loads((run / "dp_event.json").read_text(encoding="utf-8"))["no_guarantee"]


@pytest.mark.parametrize("damage", ["bits", "gone"])
def test_a_checkpoint_that_cannot_be_read_is_told(run: Path, damage: str) -> None:
    path = run / FILE
    if damage == "bits":
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    else:
        path.unlink()
    assert "cannot be accounted" in invoke("show", run)
    assert "unknown" in invoke("ls", "--runs", run.parent)
    shown = json.loads(invoke("show", run, "--json"))
    assert shown["epsilon"] == []
    assert str(path) in shown["unaccounted"]
    assert "cannot be accounted" in Path(write_report(RunRecord.open(run))).read_text(encoding="utf-8")


def test_a_run_of_an_older_version_lacks_its_mechanism_only(run: Path) -> None:
    (run / TERMS).unlink()
    record = RunRecord.open(run)
    assert record.so_far
    assert record.privacy is not None
    assert record.privacy["mechanism"] == "not written down yet"
    assert record.privacy["clip_norm"] == record.config["privacy"]["clip_norm"]


def test_events_that_are_there_are_left_as_they_are(run: Path) -> None:
    (run / "dp_event.json").write_text("{}", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), events_left(RunFolder.open(run), None):
        raise KeyboardInterrupt
    assert (run / "dp_event.json").read_text(encoding="utf-8") == "{}"
