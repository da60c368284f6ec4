"""docs/schemas.md names every key that a run's files hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.finished_run import finished_run

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "schemas.md").read_text(encoding="utf-8")
# Keys that are names of the run's own parties, metrics, packages or observers, not part of a schema.
BY_NAME = {("epsilon",), ("missing",), ("epsilon_so_far",), ("packages",), ("diagnostic", "epsilon")}


def section(file: str) -> str:
    found = re.search(rf"^## `{re.escape(file)}`\n(.*?)(?=^## )", DOCUMENTED, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from keys(part, path)
    elif isinstance(value, dict):
        for name, part in value.items():
            if path not in BY_NAME:
                yield name
            yield from keys(part, (*path, name))


def rows(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        yield from map(json.loads, text.splitlines())
    else:
        yield json.loads(text)


@pytest.mark.parametrize("system", ["hedge", "fedavg"])
@pytest.mark.parametrize(
    "file", ["rounds.jsonl", "metrics.jsonl", "result.json", "privacy.json", "dp_event.json", "env.json"]
)
def test_every_key_is_documented(file: str, system: str, tmp_path: Path) -> None:
    text = section(file) + (section("dp_event.json") if file == "privacy.json" else "")
    path = finished_run(tmp_path / "run", system) / file
    undocumented = {name for row in rows(path) for name in keys(row) if f"`{name}`" not in text}
    assert not undocumented


def test_every_file_of_a_run_is_listed(tmp_path: Path) -> None:
    for path in finished_run(tmp_path / "run").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        assert f"`{name}`" in DOCUMENTED, name
