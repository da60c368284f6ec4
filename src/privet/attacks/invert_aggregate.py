"""``invert.aggregate``: which tokens the opened sum of several clients holds; and what a sealed message holds.

A seal hides single messages. It does not hide what their sum says: the pursuit of `invert_tokens.py` takes
tokens out of a sum of a few clients as out of one message. Only noise helps against that, which is why a run
that seals without noise warns.

Of the sealed message itself we ask whether its bytes tell anything: the message of a client with records beside
that of a client without any, whose contribution is zero. If a message is independent of what it hides, both
kinds of bytes are spread alike. The positive control is the same test with the key: on what the clients handed
to their seals, which the other clients together can compute from the opened sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.control import Prepared, last_round
from privet.attacks.finding import Finding
from privet.attacks.invert_tokens import FAILED, recall_of
from privet.attacks.rehearsal import Rehearsed
from privet.packing import pack
from privet.pipeline import Integers
from privet.sealing.masks import Group
from privet.tokenise import Example

WARNED = (
    "Sealing hides messages, not what their sum says: without noise the sum gives up its texts. The report warns "
    "of it."
)


TOO_FEW = "The messages have too few bytes to compare, so this shows nothing."


def sum_recall(prepared: Prepared, rehearsed: Rehearsed, records: Mapping[str, Sequence[Example]]) -> float:
    """Recall of all clients' private tokens from the opened sum of the last round."""
    seen = last_round(rehearsed)
    assert seen.total is not None, "the last opened round has a sum"
    victims = [e for own in records.values() for e in own]
    return recall_of(
        prepared, seen.direction(seen.total), victims, seen.rounding_noise * math.sqrt(len(records))
    )


def sum_finding(setting: str, recalls: Sequence[float], level: str) -> Finding:
    """Mean recall from opened sums without noise."""
    found = statistics.mean(np.array(recalls))
    leaks = found.value > 0.5
    return Finding(
        "invert.aggregate",
        setting,
        f"the opened sum under sealing '{level}'",
        "recall of private tokens",
        found.value,
        found.low,
        found.high,
        "95 %, Hoeffding, over sums",
        f"{len(recalls)} sum{'s' if len(recalls) != 1 else ''}",
        "leaks" if leaks else "not applicable",
        text=WARNED if leaks else FAILED,
        control=True,
    )


FEWEST = 10
"""Bytes of a bin at least, of both messages together: five of each on average, the common rule for chi-square."""


@dataclass(frozen=True)
class Spread:
    """A two-sample chi-square test of bytes.

    Attributes:
        p: Probability of so large a difference if both are spread alike; asymptotic. ``None`` where the bytes are too
            few to compare.
        bytes: Bytes compared.
    """

    p: float | None
    bytes: int

    def differs(self, alarm: float) -> bool:
        """Whether they are surely not spread alike."""
        return self.p is not None and self.p < alarm


def spread_alike(one: bytes, other: bytes) -> Spread:
    """Whether the bytes of two messages are spread alike.

    Values that occur less than ten times in both together are pooled with their neighbours, so that no byte is left
    out: bins follow from the sum of both counts, on which the test is conditional anyway.
    """
    from scipy.stats import chi2_contingency

    counts = np.stack([np.bincount(np.frombuffer(part, np.uint8), minlength=256) for part in (one, other)])
    bins: list[NDArray[np.int64]] = [np.zeros(2, np.int64)]
    for column in counts.T:
        if bins[-1].sum() >= FEWEST:
            bins.append(np.zeros(2, np.int64))
        bins[-1] = bins[-1] + column
    if len(bins) > 1 and bins[-1].sum() < FEWEST:
        last = bins.pop()
        bins[-1] = bins[-1] + last
    p = float(chi2_contingency(np.stack(bins, axis=1)).pvalue) if len(bins) > 1 else None
    return Spread(p, len(one) + len(other))


def message_findings(rehearsed: Rehearsed, level: str, alarm: float) -> list[Finding]:
    """Whether the messages of the first client, with records, and the last, without, can be told apart.

    Args:
        rehearsed: A run without noise in which the last client has no records.
        level: Sealing level.
        alarm: Probability of an alarm if messages are independent of what they hide.
    """
    seen = last_round(rehearsed)
    full, empty = min(seen.messages), max(seen.messages)
    sealed = spread_alike(seen.messages[full], seen.messages[empty])
    group = Group.of_bits(rehearsed.transcript.bits)
    with_key = spread_alike(*(_plain(seen.handed[party], group) for party in (full, empty)))
    told = with_key.differs(alarm)
    opened, compared = sealed.differs(alarm), sealed.p is not None
    about = "p value, two-sample chi-square of the bytes (asymptotic)"
    return [
        Finding(
            "invert.tokens",
            f"single messages under sealing '{level}', with the key",
            "what clients hand to their seals; n - 1 clients with the sum can compute it",
            "p value that the message of a client with records is spread as that of one without",
            with_key.p,
            None,
            None,
            about,
            f"{with_key.bytes:,} bytes",
            "leaks" if told else "not applicable",
            text="With the key the messages are told apart at once." if told else FAILED,
            control=True,
            stands_for=f"single messages under sealing '{level}'",
        ),
        Finding(
            "invert.tokens",
            f"single messages under sealing '{level}'",
            "the bytes on the wire",
            "p value that the message of a client with records is spread as that of one without",
            sealed.p,
            None,
            None,
            about,
            f"{sealed.bytes:,} bytes",
            "alarm" if opened else "holds" if compared else "not applicable",
            text="The sealed message depends on what it hides."
            if opened
            else TOO_FEW
            if not compared
            else "The bytes do not tell a client with records from one without. What protects them is cryptography, "
            "not this test.",
        ),
    ]


def _plain(values: Integers, group: Group) -> bytes:
    return pack(group.residues(values), group.bits)
