"""Names of the two fields that our messages have in FLARE's."""

from __future__ import annotations

RAW, WHY = "raw", "why"
