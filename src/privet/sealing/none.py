"""Level ``none``: the server sees every contribution. For simulation, baselines and parties that trust it.

What it sees it can check: a contribution longer than an honest one can be is refused, and of contributions that are
equal number by number one counts, the first sender's, unless all are zero. Two clients draw their rounding and their
noise for themselves, so equal ones are copies; a message of an earlier round is a copy too. Short ones are not
compared: a client that sends the same few exact statistics every round rounds them alike now and then.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from privet.packing import ends_clean, pack, packed_size, unpack
from privet.protocol import RoundAborted, RoundId, Steps
from privet.sealing.base import Opened, SealingPlan, SealingRefused, check_cohort, checked
from privet.sealing.masks import CHUNK, Group, Words
from privet.traffic import message_bytes
from privet.wire import Blob, Body, Message, Schema

LEVEL = "none"
REMEMBERED = 1 << 16
"""Contributions that a copy is looked for among: those of the last 65 rounds of 1,000 clients, in about 15 MB."""
COMPARED = 64
"""Fewest values of contributions that are compared: that so many are rounded alike by chance has probability 5e-12."""
_SECONDS_PER_VALUE = 1.5e-8


class PlainClient:
    """Packs values to the field's width and sends them as they are.

    Args:
        bits: Width of a value.
    """

    states = None

    def __init__(self, bits: int) -> None:
        self._group = Group.of_bits(bits)

    def handle(self, op: str, body: Body) -> Body:
        """Refuses: this level has no operations of its own."""
        raise SealingRefused("unknown-operation")

    def seal(self, round: RoundId, values: NDArray[np.int64], question: bytes = b"") -> Body:
        """The packed values, int64 ``[count]`` modulo ``2**bits``."""
        return {"words": pack(self._group.residues(values), self._group.bits)}

    def unseal(self, round: RoundId, ciphertext: Body, count: int) -> NDArray[np.int64]:
        """Refuses: the server opens the sum."""
        raise SealingRefused("not-encrypted")


class PlainServer:
    """Sums what comes.

    Args:
        parties: Size of the roster.
        bits: Width of a value.
        floor: Fewest contributions of a sum.

    Attributes:
        longest: Norm of a contribution to the round that is due above which it is refused, in grid steps.
    """

    reveals_contributions = True
    longest: float = math.inf

    def __init__(self, *, parties: int, bits: int, floor: int) -> None:
        self._parties, self._group = parties, Group.of_bits(bits)
        self._floor = check_cohort(LEVEL, parties, floor)
        self._seen: dict[bytes, tuple[int, int]] = {}

    def messages(self) -> Mapping[str, Message]:
        """No operations."""
        return {}

    def sealed(self, count: int) -> Schema:
        """Schema of a contribution of ``count`` values."""
        return packed_schema(count, self._group.bits)

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Everybody can take part."""
        yield from ()
        return tuple(range(self._parties))

    def open(
        self, round: RoundId, count: int, replies: Mapping[int, Body], question: bytes = b""
    ) -> Steps[Opened]:
        """The sum of the replies that are well formed.

        Raises:
            RoundAborted: below the floor.
        """
        yield from ()
        words, refused = read_words(self.sealed(count), self._group, count, replies)
        for party, reason in self._unlikely(round, count, words).items():
            refused[party] = reason
            del words[party]
        if len(words) < self._floor:
            raise RoundAborted(f"{len(words)} of {self._floor} contributions came")
        total = sum_words(self._group, count, words)

        def apart() -> Iterator[NDArray[np.int64]]:
            for party in sorted(words):
                values = unpack(words[party], self._group.bits, count).astype(self._group.dtype)
                yield self._group.centred(values)

        return Opened(tuple(sorted(words)), self._group.centred(total), refused=refused, apart=apart)

    def _unlikely(self, round: RoundId, count: int, words: Mapping[int, bytes]) -> dict[int, str]:
        """Parties whose contribution no honest client sends, and why."""
        found = {}
        for party in sorted(words):
            first = (round.number, party)
            if count >= COMPARED and any(words[party]):
                first = self._seen.setdefault(hashlib.sha256(words[party]).digest(), first)
            if first != (round.number, party):
                found[party] = "copied from another message"
            elif math.isfinite(self.longest) and norm(self._group, count, words[party]) > self.longest:
                found[party] = "longer than an honest contribution"
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]  # the oldest
        return found


def packed_schema(count: int, bits: int) -> Schema:
    """Schema of exactly ``count`` packed words."""
    size = packed_size(count, bits)
    return Schema({"words": Blob(size, size)})


def read_words(
    schema: Schema, group: Group, count: int, replies: Mapping[int, Body]
) -> tuple[dict[int, bytes], dict[int, str]]:
    """The packed words of well-formed replies by party, and why the others were refused."""
    good: dict[int, bytes] = {}
    refused: dict[int, str] = {}
    for party in sorted(replies):
        try:
            words = checked(schema, replies[party])["words"]
            assert isinstance(words, bytes)
            if not ends_clean(words, group.bits, count):
                raise SealingRefused("malformed", "bits after the last word are set")
            good[party] = words
        except SealingRefused as refusal:
            refused[party] = str(refusal)
    return good, refused


def sum_words(group: Group, count: int, packed: Mapping[int, bytes]) -> Words:
    """The sum of packed words in the group, residues ``[count]``; one chunk of all parties at a time."""
    total: Words = np.zeros(count, group.dtype)
    for start in range(0, count, CHUNK):
        chunk = total[start : start + CHUNK]
        # a chunk of values ends on a whole byte
        ends = slice(packed_size(start, group.bits), packed_size(start + len(chunk), group.bits))
        for words in packed.values():
            chunk += unpack(words[ends], group.bits, len(chunk)).astype(group.dtype)
        group.reduce(chunk)
    return total


def norm(group: Group, count: int, words: bytes) -> float:
    """L2 norm of one packed contribution, one chunk at a time."""
    squares = 0.0
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        ends = slice(packed_size(start, group.bits), packed_size(start + size, group.bits))
        values = group.centred(unpack(words[ends], group.bits, size).astype(group.dtype))
        squares += float(np.square(values.astype(np.float64)).sum())
    return math.sqrt(squares)


def plan(*, count: int, bits: int, parties: int) -> SealingPlan:
    """What this level promises and costs for ``count`` values a round."""
    return SealingPlan(
        level=LEVEL,
        who_can_open="the server alone",
        who_sees_sum="the server, and the participants through the adapter",
        upload_bytes=message_bytes(packed_schema(count, bits)),
        download_bytes=0,
        seconds=_SECONDS_PER_VALUE * count * parties,
        phases=("round",),
        warnings=("the server sees every contribution",),
    )
