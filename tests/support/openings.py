"""What may never happen with contributions, told from what every process wrote down while it was being killed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


def _slot(line: Line) -> tuple[str, int, int]:
    return str(line["run"]), int(line["number"]), int(line["attempt"])


def faults(lines: Sequence[Line], sites: Sequence[str], floor: int) -> list[str]:
    """Everything in a journal that a seal must not let happen; empty if all is well.

    Args:
        lines: ``sealed`` by sites, with a digest of the values (noise included) before their masks; ``shares``, the
            survivor set that a site helped to open; ``charged``, a release that is in the server's ledger on the disk;
            ``opened`` by the server. Each has run, number and attempt.
        sites: Their names in the roster's order.
        floor: Fewest contributions in a sum.
    """
    found = []
    sealed = defaultdict(set)
    helped, opened = defaultdict(set), defaultdict(set)
    charged = set()
    for line in lines:
        if line["kind"] == "charged":
            charged.add(_slot(line))
        if line["kind"] == "opened" and _slot(line) not in charged:
            found.append(f"{_slot(line)} was opened before its release was charged")
        if line["kind"] == "sealed":
            sealed[line["machine"], _slot(line)].add(line["values"])
        if line["kind"] in ("shares", "opened"):
            (helped if line["kind"] == "shares" else opened)[_slot(line)].add(tuple(line["survivors"]))
    for (site, slot), values in sealed.items():
        if len(values) > 1:
            found.append(f"{site} sealed {len(values)} different contributions for {slot}")
    for slot, sets in helped.items():
        if len(sets) > 1:
            found.append(f"shares for {len(sets)} survivor sets of {slot}")
    for slot, sets in opened.items():
        if not sets <= helped[slot]:
            found.append(f"{slot} was opened with survivors that no site gave shares for")
    with_whom = defaultdict(set)
    for slot in {*helped, *opened}:
        for survivors in helped[slot] | opened[slot]:
            if len(survivors) < floor:
                found.append(f"{len(survivors)} contributions opened of {slot}, floor {floor}")
            for party in survivors:
                values = sealed[sites[party], slot]
                if not values:
                    found.append(f"{slot} was opened with a contribution that {sites[party]} never made")
                for each in values:
                    # Each run by itself: under one test seed two runs make the same contributions.
                    with_whom[sites[party], slot[0], each].add(survivors)
    for (site, _, _), sets in with_whom.items():
        if len(sets) > 1:
            found.append(f"one contribution of {site} was opened with {len(sets)} survivor sets")
    return found
