"""The distributed tests' own judge: what it has to find, it finds."""

from __future__ import annotations

from typing import Any

import pytest
from support.openings import faults

SITES = ("a", "b", "c", "d")


def line(kind: str, machine: str = "server", attempt: int = 0, **facts: Any) -> dict[str, Any]:
    return {"kind": kind, "machine": machine, "run": "r", "number": 0, "attempt": attempt, **facts}


def sealed(attempt: int = 0) -> list[dict[str, Any]]:
    return [line("sealed", site, attempt, values=f"{site}{attempt}") for site in SITES]


GOOD = [
    *sealed(),
    line("charged"),
    *(line("shares", site, survivors=[0, 1, 2]) for site in SITES[:3]),
    line("opened", survivors=[0, 1, 2]),
    line("opened", survivors=[0, 1, 2]),
]


def test_a_round_that_was_opened_again_with_the_same_survivors_is_in_order() -> None:
    assert faults(GOOD, SITES, 3) == []


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ([line("shares", "d", survivors=[0, 1, 3])], "2 survivor sets"),
        ([line("opened", survivors=[0, 1, 3])], "no site gave shares"),
        ([line("sealed", "a", values="other")], "different contributions"),
        ([line("shares", "d", 1, survivors=[0, 1, 2])], "never made"),
        # The same values, noise and all, under the masks of a later attempt, with other survivors
        (
            [line("sealed", s, 1, values=f"{s}0") for s in SITES]
            + [
                line("shares", "d", 1, survivors=[0, 1, 2, 3]),
                line("charged", attempt=1),
                line("opened", "d", 1, survivors=[0, 1, 2, 3]),
            ],
            "one contribution of a was opened with 2",
        ),
        ([*sealed(1), line("shares", "d", 1, survivors=[0, 1])], "floor 3"),
        ([line("opened", attempt=1, survivors=[0, 1, 2]), line("charged", attempt=1)], "before its release"),
    ],
)
def test_what_must_not_happen_is_found(more: list[dict[str, Any]], what: str) -> None:
    assert any(what in fault for fault in faults([*GOOD, *more], SITES, 3))
