"""What an attack found: one number with its interval, its sample size, and what it means."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["leaks", "holds", "in doubt", "alarm", "reported", "not covered", "not applicable"]
"""What a row says.

- ``leaks``: the attack works, and no noise was promised against it.
- ``holds``: it stays within what was promised, or within what an attacker without the message reaches.
- ``in doubt``: its 95 % bound exceeds what was promised, but not at the level that the whole suite shares.
- ``alarm``: it exceeds what was promised.
- ``reported``: a number without a bound to hold it against.
- ``not covered``: a client breaks the rules and nothing was promised against that.
- ``not applicable``: the attack fails even without protection, so it shows nothing.
"""

LEVEL = 0.95
IN_DOUBT = (
    "Above what the accounted epsilon allows at 95 %, as up to one honest row in twenty is, not at the level that the "
    "whole suite shares. Repeat with --suite full or another --seed."
)
"""What a row in doubt says: its printed bound must not stand above what it is held against without a word."""


@dataclass(frozen=True)
class Finding:
    """One row of an audit.

    Attributes:
        attack: Name, e.g. ``invert.tokens``.
        setting: What was attacked, in words.
        sees: What the attacker sees.
        metric: What was measured.
        value: Point estimate; ``None`` where there is none.
        low: Lower end of the interval.
        high: Upper end.
        interval: How the interval was found, with its level; says ``parametric`` where it believes in a law.
        samples: What was counted, and how many.
        verdict: See `Verdict`.
        compared: What the value is held against, e.g. the accounted epsilon; ``None`` where nothing is.
        text: One plain sentence for a reader.
        control: Whether this row is a positive control.
        stands_for: Of a control: the setting of the one row that it is the control of; empty where it is that of all
            rows of its attack.
    """

    attack: str
    setting: str
    sees: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    interval: str
    samples: str
    verdict: Verdict
    compared: float | None = None
    text: str = ""
    control: bool = False
    stands_for: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not finite becomes ``None``, and the text says so."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def judged(self, verdict: Verdict, text: str, compared: float | None = None) -> Finding:
        """The same numbers with a verdict."""
        return replace(self, verdict=verdict, text=text, compared=compared)


def not_applicable(attack: str, setting: str, sees: str, reason: str) -> Finding:
    """A cell that must not be read as safety."""
    return Finding(attack, setting, sees, "–", None, None, None, "–", "–", "not applicable", text=reason)
