"""The register of traps: each of the thirteen has a test that carries its number, and each test a known number."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent.parent
NAME = re.compile(r"test_trap_(\d\d)_[a-z0-9_]+")

TRAPS = {
    1: "replace-one accounted with C instead of 2C",
    2: "fixed-size sampling accounted as Poisson",
    3: "shuffling reported as Poisson",
    4: "truncated or padded Poisson batches",
    5: "an empty round without noise or without a charge",
    6: "division by the actual batch or survivor count",
    7: "a clip before the encoder only",
    8: "a gradient with NaN or Inf",
    9: "noise drawn in floating point, or not as much as accounted",
    10: "noise or sampling seeds reused, or known to the server",
    11: "a release missing from the ledger",
    12: "a sum opened below the floor, or one contribution under two survivor sets",
    13: "a search over hyper-parameters that is not disclosed",
}


@cache
def trap_tests() -> list[tuple[Path, ast.FunctionDef]]:
    """Functions named ``test_trap...`` with their files, read from the sources without running them."""
    return [
        (path, node)
        for path in sorted(TESTS.rglob("test_*.py"))
        if "def test_trap" in (text := path.read_text("utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_trap")
    ]


def registered() -> dict[int, list[str]]:
    """Names of trap tests by number."""
    found: dict[int, list[str]] = defaultdict(list)
    for path, node in trap_tests():
        match = NAME.fullmatch(node.name)
        assert match, f"{path.name}: {node.name} does not say which trap"
        found[int(match[1])].append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def test_every_trap_has_a_test_and_every_trap_test_a_trap() -> None:
    found = registered()
    assert {number: TRAPS[number] for number in TRAPS if not found[number]} == {}
    assert set(found) <= set(TRAPS)


def test_no_trap_test_is_skipped() -> None:
    """A trap that a test holds shut on some machines only is open on the others."""
    for _, node in trap_tests():
        marks = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
        assert "skip" not in marks, node.name
        assert "xfail" not in marks, node.name
