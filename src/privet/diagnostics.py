"""What the local simulator shows of its clients' insides, and no real client ever sends.

Sampled counts that vary from round to round, and the measured variance of the noise against what the ledger charges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import chi2

from privet.client import Client
from privet.mechanism import GaussianMechanism

FALSE_ALARM = 1e-3


def simulated(clients: Mapping[int, Client], mechanism: GaussianMechanism | None) -> dict[str, Any]:
    """One round's row.

    The measured standard deviation is that of all shares drawn in the round, in units of the gradients; it lies outside
    its interval once in 1000 rounds.
    """
    seen = [clients[party].observed for party in sorted(clients)]
    row: dict[str, Any] = {
        "sampled": [int(each.get("units", 0)) for each in seen],
        "zeroed_nonfinite": int(sum(each.get("zeroed_nonfinite", 0) for each in seen)),
    }
    count = sum(each.get("noise_values", 0.0) for each in seen)
    if mechanism is None or not count:
        return row
    step = mechanism.grid.step
    expected = math.sqrt(mechanism.share_std_steps**2 + 1 / 12) * step
    measured = (
        math.sqrt(sum(each["noise_squares"] for each in seen if "noise_squares" in each) / count) * step
    )
    low, high = (
        math.sqrt(q / count) * expected for q in chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], count)
    )
    row |= {"noise_std_measured": measured, "noise_std_ledger": expected, "interval": [low, high]}
    return row
