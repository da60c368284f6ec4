"""The machinery of mutants: a survivor, a stale text, a broken build and a hang are told apart."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
SUITE = """
import privet, time

def test_sum():
    assert privet.add(1, 2) == 3

def test_sign():
    assert privet.add(0, 0) == 0
"""


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("mutants.trial")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a package of the same name, and two tests."""
    (tmp_path / "src" / "privet").mkdir(parents=True)
    (tmp_path / "src" / "privet" / "__init__.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "test_add.py").write_text(SUITE)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "tests", "state"),
    [
        ("a + b", "a - b", ("test_sum",), "caught"),
        ("a + b", "b + a", ("test_sum",), "survived"),
        ("a + b", "a[b]", ("test_sum",), "survived"),  # a test that breaks down has noticed nothing
        ("a + b", "a - b", ("test_sum", "test_sign"), "seen by some only"),
        ("a - b", "a + b", ("test_sum",), "stale"),
        ("a", "c", ("test_sum",), "stale"),
        ("a + b", "a +", ("test_sum",), "stale"),
        ("def add", "raise ImportError\ndef add", ("test_sum",), "broken"),
        ("return a + b", "while True: pass", ("test_sum",), "caught (hangs)"),
    ],
)
def test_what_becomes_of_a_mutant(
    trial: ModuleType, project: Path, old: str, new: str, tests: tuple[str, ...], state: str
) -> None:
    named = tuple(f"test_add.py::{test}" for test in tests)
    limit = 5.0 if "hangs" in state else 120.0
    planted = sys.modules["mutants.mutant"].mutant(
        "a bug", ("__init__.py", old, new), tests=named, seconds=limit
    )
    verdict = trial.judge(project, project / "src", planted)
    assert verdict.state == state
    assert verdict.good == state.startswith("caught")
    assert "a + b" in (project / "src" / "privet" / "__init__.py").read_text(), "the original is left alone"


def test_a_mutant_that_is_not_what_gets_imported_is_no_survivor(
    trial: ModuleType, project: Path, tmp_path: Path
) -> None:
    """If the patched copy were not first on the path, every mutant would seem to survive: the run refuses."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = trial.attempt(project, elsewhere, ["test_add.py::test_sum"], 60)
    assert outcome.broken
    assert not outcome.passed


def test_names_are_unique_and_the_page_lists_every_mutant(trial: ModuleType) -> None:
    names = [mutant.name for mutant in importlib.import_module("mutants.catalogue").MUTANTS]
    assert len(set(names)) == len(names)
    page = (ROOT / "docs" / "mutants.md").read_text("utf-8")
    assert [name for name in names if f"| {name} |" not in page] == [], "run make mutants"
