"""Verbs before a run: what ``init`` writes validates, ``validate`` names every mistake, ``account`` answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privet.cli import app
from privet.config import load
from privet.init_template import systems


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("system", systems())
def test_init_writes_what_validate_accepts_for_every_system(system: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert invoke("init", path, "--system", system)[0] == 0
    code, out, err = invoke("validate", path, "--json")
    assert (code, json.loads(out)) == (0, {"valid": True, "problems": [], "system": system}), err
    comments = [
        line for line in path.read_text(encoding="utf-8").splitlines() if line.strip().startswith("#")
    ]
    assert len(comments) > 15


def test_init_replaces_nothing_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("mine", encoding="utf-8")
    code, _, err = invoke("init", path)
    assert code == 2
    assert "--force" in err
    assert path.read_text(encoding="utf-8") == "mine"
    assert invoke("init", path, "--force")[0] == 0


def test_init_refuses_an_unknown_system_and_names_the_known(tmp_path: Path) -> None:
    code, _, err = invoke("init", tmp_path / "run.yaml", "--system", "magic")
    assert code == 2
    assert "hedge" in err
    assert not (tmp_path / "run.yaml").exists()


def test_init_fits_the_users_own_files(tmp_path: Path) -> None:
    for site in ("north", "south"):
        rows = [{"text": f"note {i}", "label": i % 2, "patient_id": i // 3} for i in range(20)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{site}.jsonl").write_text(text, encoding="utf-8")
    path = tmp_path / "run.yaml"
    code, _, err = invoke("init", path, "--data", tmp_path / "*.jsonl")
    assert code == 0
    assert "2 files with columns text, label, patient_id" in err
    config = load(path)
    assert config.data.kind == "jsonl"
    assert config.data.partition.kind == "file"
    assert config.data.template.kind == "classification"
    assert config.data.template.verbalisers == {"0": " 0", "1": " 1"}
    assert config.data.split.group == "patient_id"
    assert config.privacy is not None
    assert isinstance(config.privacy.clip_norm, float)


@pytest.mark.parametrize("silos", [1, 2, 3])
def test_init_writes_what_plan_takes_for_few_silos(silos: int, tmp_path: Path) -> None:
    for number in range(silos):
        rows = [
            {"question": f"{i} and {number}?", "answer": "yes", "site": f"s{i % silos}"} for i in range(60)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"s{number}.jsonl").write_text(text, encoding="utf-8")
    path = tmp_path / "run.yaml"
    code, _, err = invoke("init", path, "--data", tmp_path / "*.jsonl")
    assert code == 0, err
    few = "A seal hides nothing among fewer than 3 silos"
    assert (few in err, f"# Note: {few}" in path.read_text(encoding="utf-8")) == (silos < 3, silos < 3)
    code, _, err = invoke("plan", path, "--json")
    assert code == 0, err
    config = load(path)
    assert (config.system.kind, config.sealing.kind) == (
        ("dp_lora", "none") if silos < 3 else ("hedge", "masked")
    )
    code, _, err = invoke("init", path, "--data", tmp_path / "*.jsonl", "--system", "hedge", "--force")
    assert ("`privet plan` refuses it" in err) == (silos < 3)


def test_validate_lists_all_mistakes_with_path_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    invoke("init", path)
    text = path.read_text(encoding="utf-8")
    text = (
        text.replace("rounds: 40", "rounds: -3")
        .replace("unit: record", "unit: person")
        .replace("rank: 8", "rnk: 8")
    )
    path.write_text(text, encoding="utf-8")
    code, out, err = invoke("validate", path)
    assert (code, out) == (2, "")
    assert "3 mistakes" in err
    code, out, _ = invoke("validate", path, "--json")
    problems = {problem["path"]: problem for problem in json.loads(out)["problems"]}
    assert code == 2
    assert set(problems) == {"schedule.rounds", "privacy.unit", "lora.rnk"}
    assert problems["schedule.rounds"]["given"] == "-3"
    assert problems["schedule.rounds"]["allowed"] == "≥ 1"
    assert "record" in problems["privacy.unit"]["allowed"]
    assert problems["lora.rnk"]["allowed"].startswith("rank (nearest)")


def test_validate_takes_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    invoke("init", path)
    assert invoke("validate", path, "--set", "schedule.rounds=3")[0] == 0
    code, _, err = invoke("validate", path, "--set", "schedule.rounds=0")
    assert code == 2
    assert "schedule.rounds" in err


def test_account_answers_with_unit_relation_observer_and_delta(tmp_path: Path) -> None:
    path = tmp_path / "releases.yaml"
    path.write_text(
        "unit: record\nrelation: add-remove\ndelta: 1.0e-5\nreleases:\n  - {kind: gaussian, sigma: 1.0}\n",
        "utf-8",
    )
    code, out, _ = invoke("account", path, "--json")
    computed = json.loads(out)
    assert code == 0
    assert computed["epsilon"]["exact"] == pytest.approx(4.377178, abs=1e-5)
    assert computed["headline"]["method"] == "exact"
    code, out, _ = invoke("account", path)
    assert "ε = 4.378" in out  # rounded up
    for word in ("unit record", "relation add-remove", "observer", "δ = 1e-5"):
        assert word in out


def test_account_says_none_and_why(tmp_path: Path) -> None:
    path = tmp_path / "releases.yaml"
    path.write_text(
        "unit: client\nrelation: zero-out\ndelta: 1.0e-5\nreleases:\n  - {kind: unprotected}\n", "utf-8"
    )
    code, out, _ = invoke("account", path)
    assert code == 0
    assert "ε = none" in out
    assert "released without noise" in out
