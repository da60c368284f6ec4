"""Verbs on runs that are there: tables that never show an epsilon without what it is about, and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import finished_run
from typer.testing import CliRunner

from privet.cli import app

WIDE = {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    finished_run(folder / "private")
    finished_run(folder / "open", "fedavg")
    finished_run(folder / "half", rounds=12, ended=False)
    finished_run(folder / "spent", rounds=12, stopped="the next release would exceed the privacy budget")
    return folder


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(part) for part in arguments], env=WIDE)
    return done.exit_code, done.stdout, done.stderr


def test_ls_lists_runs_with_their_state(runs: Path) -> None:
    code, out, _ = invoke("ls", "--runs", runs)
    assert code == 0
    for name, state in (("private", "finished"), ("half", "unfinished"), ("spent", "stopped")):
        line = next(line for line in out.splitlines() if line.strip().startswith(name))
        assert state in line
        assert "record, add-remove, δ 1e-5" in line
    rows = json.loads(invoke("ls", "--runs", runs, "--json")[1])
    assert {row["run"]: row["state"] for row in rows}["spent"] == "stopped"


def test_ls_survives_a_damaged_run_and_an_empty_folder(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "resolved.yaml").write_text("{", encoding="utf-8")
    code, out, _ = invoke("ls", "--runs", tmp_path)
    assert code == 0
    assert "damaged" in out
    assert "No runs" in invoke("ls", "--runs", tmp_path / "nothing")[1]


def test_show_prints_metrics_epsilon_and_cost(runs: Path) -> None:
    code, out, _ = invoke("show", runs / "private")
    assert code == 0
    for text in ("tweets", "88.0 % [85.0, 91.0]", "0.240 ± 0.013", "mean over silos", "2.08 MB", "adapter"):
        assert text in out
    assert "ε per observer (unit record, relation add-remove, δ = 1e-5)" in out
    assert "approximation, can under-report" in out
    assert "beyond the trust model" in out


def test_show_says_none_and_why(runs: Path) -> None:
    out = invoke("show", runs / "open")[1]
    assert "none" in out
    assert "they are not noised" in out


def test_show_tells_how_to_go_on_with_an_unfinished_run(runs: Path) -> None:
    out = invoke("show", runs / "half")[1]
    assert "12 of 40 rounds" in out
    assert "--resume" in out
    assert "would exceed the privacy budget" in invoke("show", runs / "spent")[1]


def test_show_json_holds_what_an_epsilon_is_about(runs: Path) -> None:
    shown = json.loads(invoke("show", runs / "private", "--json")[1])
    assert (shown["unit"], shown["relation"], shown["delta"]) == ("record", "add-remove", 1e-5)
    assert {row["observer"] for row in shown["epsilon"]} == {"server", "participant", "colluders", "public"}
    assert shown["after"]["nll"] < shown["before"]["nll"]
    none = json.loads(invoke("show", runs / "open", "--json")[1])["epsilon"]
    assert all(row["value"] is None and row["reason"] for row in none)


def test_compare_puts_runs_in_one_table(runs: Path) -> None:
    code, out, _ = invoke("compare", runs / "private", runs / "open")
    assert code == 0
    assert "private" in out
    assert "fedavg" in out
    assert "none" in out
    assert "record, add-remove, δ 1e-5" in out
    table = invoke("compare", runs / "private", runs / "open", "--markdown")[1].splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert len(json.loads(invoke("compare", runs / "private", runs / "open", "--json")[1])) == 2


def test_runs_are_found_by_name_under_runs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.chdir(tmp_path)
    assert invoke("show", "private")[0] == 0


def test_evaluate_starts_in_a_process_of_its_own_and_names_its_tasks(runs: Path) -> None:
    command = [sys.executable, "-m", "privet.cli", "evaluate", str(runs / "private"), "--task", "magic"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "lm_eval:NAME" in done.stderr


def test_evaluate_shows_base_and_adapter(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import privet.data
    import privet.evaluate

    def evaluate(
        run: Path, task: str, *, limit: int | None, progress: Callable[[str, int, int], None]
    ) -> Any:
        progress("measuring", 1, 2)
        assert (run, task, limit) == (runs / "private", "loss", 5)
        means = {"accuracy": None, "nll": 0.5}
        return {"task": task, "run": run.name, "base": means, "adapter": {"accuracy": None, "nll": 0.25}}

    monkeypatch.setattr(privet.evaluate, "evaluate", evaluate)
    arguments = ("evaluate", runs / "private", "--task", "loss", "--limit", 5)
    code, out, err = invoke(*arguments)
    assert code == 0
    assert "0.25" in out
    assert "measuring: 1 of 2" in err
    assert json.loads(invoke(*arguments, "--json")[1])["adapter"]["nll"] == 0.25


def test_report_and_export_answer_with_paths(runs: Path, tmp_path: Path) -> None:
    code, out, _ = invoke("report", runs / "private", "--json")
    assert code == 0
    assert Path(json.loads(out)["path"]).is_file()
    code, out, _ = invoke("export", runs / "private", "--out", tmp_path / "adapter", "--json")
    assert code == 0
    assert set(json.loads(out)["files"]) >= {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    code, _, err = invoke("export", runs / "half", "--out", tmp_path / "other")
    assert code == 2
    assert "has no adapter yet" in err


def test_evaluate_refuses_an_unfinished_run_before_it_loads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(*arguments: Any) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("privet.material.gather", gather)
    code, _, err = invoke("evaluate", finished_run(tmp_path / "half", rounds=12, ended=False))
    assert code == 2
    assert "has no adapter yet" in err
    assert "finish the run first" in err


def test_names_are_no_markup_and_move_no_cursor(tmp_path: Path) -> None:
    """A silo may be called as it likes, and a run may come from somebody else."""
    statement = json.loads((finished_run(tmp_path / "run") / "privacy.json").read_text(encoding="utf-8"))
    name = "ward [/3] [link=http://evil]here[/link] \x1b]0;title\x07\x1b[2J $10_$20"
    run = tmp_path / "run"
    for row in statement["epsilon"].values():
        row |= {"clt": 1.0, "clt_note": "noted \x1b[2J"}
    (run / "privacy.json").write_text(json.dumps(statement), encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["silo"] = name if row["silo"] == rows[0]["silo"] else row["silo"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, out, _ = invoke("show", run)
    assert code == 0
    assert "ward [/3] [link=http://evil]here[/link] \\x1b]0;title\\x07\\x1b[2J $10_$20" in out
    assert "\x1b" not in out
    code, _, said = invoke("report", run)
    assert code == 0, said


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("privacy.json", "[]"),
        ("privacy.json", '{"epsilon": {"server": 5}}'),
        ("result.json", '{"seconds": "long"}'),
        ("result.json", '{"bytes_up": 1e400}'),
        ("privacy.json", "[" * 100_000),
        ("privacy.json", '{"unit": "record", "delta": "abc"}'),
        ("privacy.json", '{"stages": [5]}'),
        ("privacy.json", '{"epsilon": {"server": {"value": 1.0, "rdp": "x"}}}'),
        ("rounds.jsonl", '{"round": 0, "survivors": 5}\n'),
        ("metrics.jsonl", '{"silo": "a", "when": "after", "nll": 1.0, "accuracy_low": "x"}\n'),
        ("metrics.jsonl", '{"silo": "a", "when": "before", "nll": "x"}\n'),
    ],
)
def test_a_run_of_another_shape_is_damaged(tmp_path: Path, file: str, content: str) -> None:
    run = finished_run(tmp_path / "run")
    (run / file).write_text(content, encoding="utf-8")
    code, out, _ = invoke("ls", "--runs", tmp_path)
    assert (code, "damaged" in out) == (0, True)
    code, out, said = invoke("show", run)
    assert (code, "damaged" in said, "Traceback" in said + out) == (2, True, False)
