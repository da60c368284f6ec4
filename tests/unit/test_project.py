"""`privet deploy init` refuses sites that could never run what they agreed on, and names what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.toy import config
from typer.testing import CliRunner

from privet.cli import app
from privet.config import to_yaml
from privet.deploy.project import Kits, check_agreed, checked, read_project
from privet.errors import PrivetError

THREE = {"name": "lungs", "server": "fl.example.org", "sites": ["a", "b", "c"]}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Projects that kits were made of, without FLARE."""
    projects: list[Any] = []

    def make(project: Any, out: Path, agreed: str | None = None) -> Kits:
        projects.append(project)
        return Kits(out / "server", {name: out / name for name in project.sites}, out / "authority")

    monkeypatch.setattr("privet.deploy.project.make_project", make)
    return projects


def init(tmp_path: Path, sites: int, *more: object) -> Any:
    named = [part for number in range(sites) for part in ("--site", f"s{number}")]
    fixed = ["deploy", "init", str(tmp_path / "kits"), "--name", "lungs", "--server", "localhost"]
    return CliRunner().invoke(app, [*fixed, *named, *map(str, more)])


def test_a_sealed_configuration_needs_three_sites(tmp_path: Path, made: list[Any]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config(sealing={"kind": "masked"})), encoding="utf-8")
    done = init(tmp_path, 2, "--config", path)
    assert done.exit_code == 2
    assert "3 or more parties" in done.stderr
    assert init(tmp_path, 3, "--config", path).exit_code == 0
    assert len(made) == 1


def test_more_survivors_than_sites_are_refused() -> None:
    asked = config(sealing={"kind": "masked"}, schedule={"rounds": 3, "min_survivors": 4})
    check_agreed(asked, 4)
    with pytest.raises(PrivetError) as caught:
        check_agreed(asked, 3)
    assert caught.value.field == "schedule.min_survivors"


def test_without_a_configuration_two_sites_are_told_what_they_cannot_do(
    tmp_path: Path, made: list[Any]
) -> None:
    assert "no seal hides a contribution" in init(tmp_path, 2).stderr
    assert "no seal" not in init(tmp_path, 3).stderr


def test_the_last_port_is_a_port() -> None:
    assert checked({**THREE, "port": 65535}, "project.yaml").port == 65535
    with pytest.raises(PrivetError) as caught:
        checked({**THREE, "port": 65536}, "project.yaml")
    assert (caught.value.field, caught.value.given, caught.value.allowed) == (
        "project.yaml: port",
        65536,
        "≤ 65535",
    )


def test_too_few_sites_and_an_empty_file_are_named_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(PrivetError) as caught:
        checked({**THREE, "sites": ["a"]}, "project.yaml")
    assert (caught.value.message, caught.value.given, caught.value.allowed) == (
        "is too short",
        "1 in all",
        "at least 2 entries",
    )
    path = tmp_path / "project.yaml"
    path.write_text("", encoding="utf-8")
    with pytest.raises(PrivetError) as caught:
        read_project(path)
    assert "privet init" not in str(caught.value)
    assert "docs/deploy.md" in str(caught.value)
    path.write_text(yaml.safe_dump(THREE), encoding="utf-8")
    assert read_project(path).sites == ("a", "b", "c")
