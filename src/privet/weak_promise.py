"""Promises that are kept and still worth little, in plain words."""

from __future__ import annotations

from privet.config import Config

LARGEST_EPSILON = 20.0


def weak_promises(config: Config, records: int, parties: int) -> list[str]:
    """What a person should know of the numbers that a run promises; empty where there is nothing to say.

    Args:
        config: The configuration, as it was given or resolved.
        records: Training records of all parties together; 0 where that is not known here.
        parties: Clients.
    """
    privacy = config.privacy
    if privacy is None or config.void is not None:
        return []
    found = []
    units = records if privacy.unit == "record" else parties
    if units and privacy.delta >= 1 / units:
        found.append(
            f"δ = {privacy.delta:g} is not below 1/{units}, one over the number of {privacy.unit}s: publishing one of "
            f"them at random would keep such a promise; choose a much smaller privacy.delta"
        )
    epsilon = privacy.target_epsilon or privacy.max_epsilon
    if epsilon is not None and epsilon > LARGEST_EPSILON:
        found.append(
            f"ε = {epsilon:g} is above {LARGEST_EPSILON:g}: it lets an observer become all but certain whether a "
            f"{privacy.unit} took part; choose a smaller privacy.target_epsilon, or rely on what attacks find"
        )
    return found
