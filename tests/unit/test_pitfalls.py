"""docs/pitfalls.md names tests that exist, and every trap test stands in it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_trap_test_is_named_and_exists() -> None:
    page = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`test_trap_(\d\d)`", page))
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def test_trap_(\d\d)_", "\n".join(sources)))
    assert named == defined


def test_every_pitfall_has_a_severity_and_an_answer() -> None:
    page = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    pitfalls = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    for number, text in enumerate(pitfalls, start=1):
        assert re.match(rf"{number}\. .* · (critical|high|medium|low)\n", text), text[:60]
        assert "\n**privet** " in text, text[:60]
