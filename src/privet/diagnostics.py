"""What the local simulator shows of its clients' insides, and no real client ever sends.

Sampled counts that vary from round to round, and the measured variance of the noise against what the ledger charges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.special import chdtri

from privet.client import Client
from privet.mechanism import GaussianMechanism

FALSE_ALARM = 1e-3


def simulated(
    clients: Mapping[int, Client], mechanism: GaussianMechanism | None, number: int
) -> dict[str, Any]:
    """One round's row.

    A client that was away, or that sent again what it had answered before, has nothing to show: its count is ``None``.
    The measured standard deviation is that of all shares drawn in the round, in units of the gradients, beside that of
    one share (of all the noise, where each client adds it in full); it lies outside its interval once in 1000 rounds.

    Args:
        clients: Clients by party number.
        mechanism: The mechanism of the round.
        number: The round.
    """
    seen = [c.observed if c.observed_round == number else {} for _, c in sorted(clients.items())]
    counted = ("zeroed_nonfinite", "out_of_range")
    row: dict[str, Any] = {name: int(sum(each.get(name, 0) for each in seen)) for name in counted}
    if any("sampled" in each for each in seen):
        row["sampled"] = [int(each["sampled"]) if "sampled" in each else None for each in seen]
    count = sum(each.get("noise_values", 0.0) for each in seen)
    if mechanism is None or not count:
        return row
    step = mechanism.grid.step
    expected = math.sqrt(mechanism.share_std_steps**2 + 1 / 12) * step
    measured = (
        math.sqrt(sum(each["noise_squares"] for each in seen if "noise_squares" in each) / count) * step
    )
    low, high = (
        math.sqrt(chdtri(count, above) / count) * expected for above in (1 - FALSE_ALARM / 2, FALSE_ALARM / 2)
    )
    row |= {"noise_std_measured": measured, "noise_std_ledger": expected, "interval": [low, high]}
    return row
