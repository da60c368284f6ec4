"""Codecs: what makes a contribution small on its way, and what a code of it still says.

``build`` makes one from the configuration; ``pack`` and ``unpack`` carry it in a message; ``check_sound``
refuses what a pipeline cannot use soundly; ``gate`` refuses what is no better than a random projection.
"""

from __future__ import annotations

from privet.codecs.base import (
    Codec,
    Layout,
    Provenance,
    Sensitivity,
    check_sound,
    check_works,
    dimension_of,
    slices_of,
)
from privet.codecs.build import Sources, build
from privet.codecs.error_feedback import ErrorFeedback, check_error_feedback
from privet.codecs.fidelity import Fidelity, Noise, aggregate, gate, median_code_norm, reconstruction
from privet.codecs.identity import Identity
from privet.codecs.message import fields, from_body, pack, unpack
from privet.codecs.prior import StatisticsCode, TensorStatistics

__all__ = [
    "Codec",
    "ErrorFeedback",
    "Fidelity",
    "Identity",
    "Layout",
    "Noise",
    "Provenance",
    "Sensitivity",
    "Sources",
    "StatisticsCode",
    "TensorStatistics",
    "aggregate",
    "build",
    "check_error_feedback",
    "check_sound",
    "check_works",
    "dimension_of",
    "fields",
    "from_body",
    "gate",
    "median_code_norm",
    "pack",
    "reconstruction",
    "slices_of",
    "unpack",
]
