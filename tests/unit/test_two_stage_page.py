"""docs/two-stage-proof.md names code and tests that exist, in full."""

from __future__ import annotations

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "two-stage-proof.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("## What holds each assumption")[1].splitlines()
    if line.startswith("| ") and not line.startswith("| assumption")
]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def missing(cell: str) -> list[str]:
    """Tests that a cell names and that are not there; ``:name`` belongs to the file named before it."""
    found, file = [], ""
    for name in quoted(cell):
        path, _, test = name.partition(":")
        file = path or file
        if not (ROOT / file).is_file() or test not in defined_in(file):
            found.append(f"{file}:{test}")
    return found


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_assumption_names_code_and_a_test_that_exist(row: list[str]) -> None:
    assumption, code, tests = row
    names = [name for name in quoted(code) if ":" in name or "." in name]
    assert names or "Theorem" in code, assumption
    for name in names:
        module, _, attribute = name.partition(":")
        parent = importlib.import_module(f"privet.{module}")
        owner = reduce(getattr, attribute.split(".")[:-1], parent) if attribute else parent
        last = attribute.split(".")[-1]
        # A dataclass's field without a default is no attribute of its class.
        assert not last or hasattr(owner, last) or last in owner.__annotations__, name
    assert quoted(tests), assumption
    assert missing(tests) == []


def test_a_name_that_is_gone_is_noticed() -> None:
    assert missing("`tests/unit/test_two_stage_page.py:test_a_name_that_is_gone_is_noticed`") == []
    assert missing("`tests/unit/test_two_stage_page.py:test_gone`") != []
    assert missing("`tests/unit/test_gone.py:test_a`, `:test_b`") != []
