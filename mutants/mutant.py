"""What a mutant is: which texts of the product it replaces, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One replacement.

    Attributes:
        file: Path below ``src/privet``.
        old: Text that occurs exactly once in it.
        new: What takes its place.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: What is wrong, in words.
        edits: The changes that plant it.
        tests: Node ids of the tests that must each fail.
        seconds: Time that the tests have; a mutant that hangs counts as caught, and is labelled so.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    seconds: float = 90.0


def mutant(name: str, *edits: tuple[str, str, str], tests: tuple[str, ...], seconds: float = 90.0) -> Mutant:
    """A mutant from plain tuples."""
    return Mutant(name, tuple(Edit(*edit) for edit in edits), tests, seconds)
