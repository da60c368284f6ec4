"""Data sections that make no sense, and descriptions of every setting."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from support.records import ADAPTER, config


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


def test_every_setting_is_described() -> None:
    for name, model in ADAPTER.json_schema()["$defs"].items():
        for setting, facts in model.get("properties", {}).items():
            assert facts.get("description"), f"{name}.{setting}"
