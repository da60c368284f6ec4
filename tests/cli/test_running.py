"""``run``: what is shown while it runs, in a log and on a terminal, and what stands at its end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.finished_run import finished_run
from typer.testing import CliRunner

from privet.cli import app
from privet.cli.progress import Bars, Lines, observer, round_text
from privet.init_template import template

Observe = Callable[[str, dict[str, Any]], None]


def events(observe: Observe, rounds: int) -> None:
    observe("stage", {"name": "loading the model"})
    observe("progress", {"name": "downloading", "done": 10, "total": 100})
    for number in range(rounds):
        for done in range(1, 5):
            observe("progress", {"name": f"round {number}", "done": done, "total": 4})
        row = {
            "round": number,
            "survivors": [0, 1, 2, 3],
            "missing": {},
            "direction_norm": 1.0,
            "seconds": 0.5,
        }
        observe(
            "round", row | ({"survivors": [0, 1, 3], "missing": {"2": "no answer"}} if number == 5 else {})
        )
    observe("aborted", {"round": 9, "attempt": 0, "reason": "too few"})
    observe("stopped", {"reason": "the next release would exceed the privacy budget"})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`privet.runs.start` that writes a finished run's folder at once."""
    import privet.runs

    calls: list[dict[str, Any]] = []

    def start(
        config: Any, text: str, out: Path, *, resume: bool, fresh: bool, observe: Observe
    ) -> dict[str, Any]:
        calls.append({"config": config, "text": text, "resume": resume, "fresh": fresh})
        print("noise of a library on stdout")
        events(observe, 3)
        finished_run(out)
        result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
        observe("result", result)
        return result

    monkeypatch.setattr(privet.runs, "start", start)
    return calls


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(template("hedge"), encoding="utf-8")
    return path


def test_run_ends_with_utility_promise_cost_and_places(fake: list[dict[str, Any]], config: Path) -> None:
    out = config.parent / "out"
    done = CliRunner().invoke(
        app,
        ["run", str(config), "--out", str(out), "--set", "schedule.rounds=3", "--fresh"],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.output
    assert fake[0]["config"].schedule.rounds == 3
    assert fake[0]["fresh"] is True
    assert fake[0]["text"] == config.read_text(encoding="utf-8")
    for text in (
        "accuracy before",
        "ε per observer (unit record, relation add-remove, δ = 1e-5)",
        "server",
        "2.08 MB",
    ):
        assert text in done.stdout
    assert str(out / "adapter") in done.stdout
    assert str(out / "report.html") in done.stdout
    assert "round 3/3" in done.stderr
    assert "noise of a library" not in done.stdout


def test_run_json_is_pure(fake: list[dict[str, Any]], config: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(config), "--out", str(config.parent / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["unit"] == "record"
    assert (config.parent / "out" / "report.html").is_file()


def test_resume_and_fresh_exclude_each_other(config: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(config), "--resume", "--fresh"])
    assert done.exit_code == 2
    assert "exclude" in done.stderr


def test_resume_needs_to_know_which_run(config: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(config), "--resume"])
    assert done.exit_code == 2
    assert "--out" in done.stderr


def test_without_a_folder_a_new_one_under_runs_is_named(
    fake: list[dict[str, Any]], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    done = CliRunner().invoke(app, ["run", str(config)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    (folder,) = (config.parent / "runs").iterdir()
    assert f"runs/{folder.name}/adapter" in done.stdout


def test_a_log_gets_few_plain_lines() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    with observer(console, 10) as shown:
        assert isinstance(shown, Lines)
        events(shown, 10)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "loading the model",
        "downloading: 10 of 100",
        "round 1/10: 4 clients, step direction 1, 0.5 s",
        "round 6/10: 3 clients, without 2 (no answer), step direction 1, 0.5 s",
        "round 10/10: 4 clients, step direction 1, 0.5 s",
        "round 10, attempt 1: nothing was opened (too few)",
        "stopped: the next release would exceed the privacy budget",
    ]


def test_a_terminal_gets_bars_and_the_troubles() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with observer(console, 10) as shown:
        assert isinstance(shown, Bars)
        events(shown, 10)
    text = stream.getvalue()
    assert "10/10" in text
    assert "without 2 (no answer)" in text
    assert "nothing was opened" in text


def test_a_round_in_words() -> None:
    row = {"survivors": [0, 1], "attempt": 1, "simulated": {"sampled": [60, 70]}, "seconds": 2.0}
    assert round_text(row) == "2 clients, attempt 2, 130 records sampled, 2.0 s"
