"""Codecs: what makes a contribution small on its way, and what a code of it still says."""

from __future__ import annotations

from privet.codecs.base import (
    Codec,
    Layout,
    Provenance,
    Sensitivity,
    check_sound,
    dimension_of,
    slices_of,
)
from privet.codecs.identity import Identity

__all__ = [
    "Codec",
    "Identity",
    "Layout",
    "Provenance",
    "Sensitivity",
    "check_sound",
    "dimension_of",
    "slices_of",
]
