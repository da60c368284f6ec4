"""How a value of a row or of a configuration reads as text, so that labels match wherever they come from."""

from __future__ import annotations

import math


def as_text(value: object) -> str | None:
    """``value`` as templates and labels take it; ``None`` for what is no text, number or truth value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and not math.isnan(value):
        # Parquet and CSV tools write whole numbers as 1.0; a label '1' must still match.
        return str(int(value)) if value.is_integer() else str(value)
    return None
