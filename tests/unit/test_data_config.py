"""Data sections that make no sense, and descriptions of every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.records import ADAPTER, config

from privet.config import ConfigError, load


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "sentiment", "domain": ["nyt"]},
        {"kind": "sentiment", "domains": ["books"]},
        {"kind": "sentiment", "partition": {"kind": "group"}},
        {"kind": "sentiment", "partition": {"kind": "file"}},
        {"kind": "sentiment", "split": {"group": "domain"}},
        {"kind": "jsonl"},
        {"kind": "jsonl", "path": "a", "test_path": "a"},
        {"kind": "jsonl", "path": "a", "partition": {"kind": "group"}},
        {"kind": "jsonl", "path": "a", "test_path": "b", "partition": {"kind": "file"}},
        {"kind": "huggingface", "name": "a", "partition": {"kind": "file"}},
        {"kind": "csv", "path": "a", "delimiter": ",,"},
        {
            "kind": "jsonl",
            "path": "a",
            "template": {"kind": "classification", "verbalisers": {0: " x", 1: " x"}},
        },
        {"kind": "jsonl", "path": "a", "template": {"kind": "classification", "verbalisers": {0: " x"}}},
    ],
    ids=lambda facts: ",".join(f"{k}={v}" for k, v in facts.items())[:60],
)
def test_configurations_that_make_no_sense(facts: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**facts)


@pytest.mark.parametrize("label", ["yes", "no", "on", "true", "null"])
def test_labels_that_yaml_takes_for_something_else_are_to_be_quoted(label: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "system: {{kind: fedavg}}\nmodel: {{}}\ndata:\n  kind: jsonl\n  path: a\n  template:\n"
    text += "    kind: classification\n    verbalisers:\n      {}: ' a'\n      other: ' b'\n"
    path.write_text(text.format(label), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.path == "data.template.verbalisers"
    assert "quotes" in problem.message
    path.write_text(text.format(f"'{label}'"), encoding="utf-8")
    assert label in load(path).data.template.verbalisers  # type: ignore[union-attr]


def test_numbers_as_labels_are_written_as_rows_are_read() -> None:
    words = {0.0: " a", 1: " b", "2": " c"}
    found = config(kind="jsonl", path="a", template={"kind": "classification", "verbalisers": words})
    assert list(found.template.verbalisers) == ["0", "1", "2"]
    with pytest.raises(ValidationError, match="stands twice"):
        config(kind="jsonl", path="a", template={"kind": "classification", "verbalisers": words | {2: " d"}})


def test_every_setting_is_described() -> None:
    for name, model in ADAPTER.json_schema()["$defs"].items():
        for setting, facts in model.get("properties", {}).items():
            assert facts.get("description"), f"{name}.{setting}"
