"""How numbers are written in tables and reports: short, with their units, and never better than they are."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

from privet.privacy.statement import rounded_up

NOTHING = "–"


def epsilon(value: float | None) -> str:
    """An epsilon to four significant digits, rounded *up*, so that no table promises more than was proved."""
    if value is None or not math.isfinite(value):
        return "none"
    return rounded_up(value)


def delta(value: float | None) -> str:
    """A probability such as 1e-5, to two significant digits, rounded *up* as an epsilon is."""
    if value is None:
        return NOTHING
    exact = Decimal(repr(float(value)))  # the decimal that was written: its binary neighbour may lie above it
    up = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 1), rounding=ROUND_CEILING) if exact else exact
    return f"{float(up):.2g}".replace("e-0", "e-")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def percent_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A share with its interval, e.g. ``88.1 % [86.0, 90.0]``."""
    if value is None or low is None or high is None:
        return percent(value)
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def loss(value: float | None, error: float | None = None) -> str:
    """A loss in nats, with its standard error where there is one."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def change(before: float | None, after: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    return NOTHING if before is None or after is None else f"{after - before:+.{digits}f}".replace("-", "−")


def size(count: float | None) -> str:
    """A number of bytes in decimal units."""
    if count is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return (
                f"{count / factor:.3g} {unit}" if count < 999.5 * factor else f"{count / factor:.0f} {unit}"
            )
    return f"{count:.0f} B"


def duration(seconds: float | None) -> str:
    """A time: seconds below two minutes, then minutes, then hours."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def number(value: float | None) -> str:
    """A plain number to four significant digits."""
    return NOTHING if value is None else f"{value:.4g}"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number with the interval that it lies in, where there is one; ends that are missing are open."""
    if value is None and low is None:
        return NOTHING
    shown = "no bound" if value is None else f"{value:.3g}"
    if low is None and high is None:
        return shown
    ends = ["" if end is None else f"{end:.3g}" for end in (low, high)]
    return f"{shown} [{ends[0]}, {ends[1] or '∞'})" if high is None else f"{shown} [{ends[0]}, {ends[1]}]"
