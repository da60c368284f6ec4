"""Privacy accounting: what was released, what it costs, to which observer, and when to stop.

Importing this package does not load the accountant (``dp_accounting``); the first epsilon does.
"""

from __future__ import annotations

from privet.privacy.accountants import Epsilons, Headline, compute, headline
from privet.privacy.calibration import calibrate
from privet.privacy.events import AnyRelease, NoGuarantee, Relation, Release, Sampling, Shares, Unit
from privet.privacy.ledger import Ledger, reaccount
from privet.privacy.observers import Observer, TrustModel
from privet.privacy.statement import privacy_statement

__all__ = [
    "AnyRelease",
    "Epsilons",
    "Headline",
    "Ledger",
    "NoGuarantee",
    "Observer",
    "Relation",
    "Release",
    "Sampling",
    "Shares",
    "TrustModel",
    "Unit",
    "calibrate",
    "compute",
    "headline",
    "privacy_statement",
    "reaccount",
]
