"""Level ``masked``: contributions hide behind masks modulo ``2**bits``; the server opens their sum only.

Masks, key phases and recovery are in `masking` and `unmasking`; this module packs the masked words.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privet.packing import pack, packed_size
from privet.protocol import Body, RoundId, Steps
from privet.sealing.agreement import BLOB_OVERHEAD, KEY_BYTES
from privet.sealing.base import Message, Opened, SealingPlan, SealingRefused, recovery_threshold
from privet.sealing.masking import MaskingClient
from privet.sealing.masking_messages import bundle_bytes
from privet.sealing.none import packed_schema, read_words, sum_words
from privet.sealing.unmasking import MaskingServer
from privet.wire import Schema, Whole

LEVEL = "masked"
_SECONDS_PER_MASK_WORD = 2.5e-9
_SECONDS_PER_WORD = 2.0e-8


class MaskedClient:
    """Masks and packs this party's values.

    Args:
        masking: This party's masks, in the group of ``2**bits``.
    """

    def __init__(self, masking: MaskingClient) -> None:
        self._masking = masking

    def handle(self, op: str, body: Body) -> Body:
        """Answer ``keys.*`` and ``recover.*``."""
        return self._masking.handle(op, body)

    def seal(self, round: RoundId, values: NDArray[np.int64]) -> Body:
        """The masked, packed values of one attempt."""
        group = self._masking.group
        epoch, words = self._masking.mask(round, group.residues(values))
        return {"epoch": epoch, "words": pack(words, group.bits)}

    def unseal(self, round: RoundId, ciphertext: Body, count: int) -> NDArray[np.int64]:
        """Refuses: the server opens the sum."""
        raise SealingRefused("not-encrypted")


class MaskedServer:
    """Sums masked words and takes the masks of the sum off.

    Args:
        unmasking: The server half of the masks, in the same group as the clients'.
    """

    reveals_contributions = False

    def __init__(self, unmasking: MaskingServer) -> None:
        self._unmasking = unmasking

    def messages(self) -> Mapping[str, Message]:
        """Schemas of ``keys.*`` and ``recover.*``."""
        return self._unmasking.messages()

    def sealed(self, count: int) -> Schema:
        """Schema of a masked contribution of ``count`` values."""
        fields = packed_schema(count, self._unmasking.group.bits).fields
        return Schema({**fields, "epoch": Whole(0)})

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Exchange keys where they are due; returns the parties that have them."""
        return (yield from self._unmasking.prepare(round))

    def open(self, round: RoundId, count: int, replies: Mapping[int, Body]) -> Steps[Opened]:
        """Open the sum of the well-formed replies.

        Raises:
            RoundAborted: if too few parties sent words, signed the survivors or gave shares.
        """
        group = self._unmasking.group
        packed, refused = read_words(self.sealed(count), group, count, replies)
        for party in sorted(packed):
            if replies[party]["epoch"] != self._unmasking.epoch_of(round):
                refused[party] = "masked with the keys of another epoch"
                del packed[party]
        masks = yield from self._unmasking.recover(round, packed)
        words = sum_words(group, count, {party: packed[party] for party in masks.survivors})
        masks.remove(words)
        return Opened(masks.survivors, group.centred(words), refused=refused)


def key_bytes(parties: int, rounds_per_epoch: int) -> tuple[int, int]:
    """Bytes that a client sends and gets a round for keys and recovery, amortised over an epoch."""
    advert = KEY_BYTES + 2 * rounds_per_epoch * KEY_BYTES + 64
    blob = bundle_bytes(rounds_per_epoch) + BLOB_OVERHEAD
    sent = (advert + (parties - 1) * blob) / rounds_per_epoch + 64 + 16 * parties
    got = (parties * advert + (parties - 1) * blob) / rounds_per_epoch + parties * (3 * 8 + 64)
    return round(sent), round(got)


def plan(*, count: int, bits: int, parties: int, rounds_per_epoch: int = 8) -> SealingPlan:
    """What this level promises and costs for ``count`` values a round."""
    sent, got = key_bytes(parties, rounds_per_epoch)
    passive = min(recovery_threshold(parties), parties - 1)
    # Two survivor sets need t signatures each; honest parties sign one (Bonawitz et al. 2017, section 6.2).
    active = min(2 * recovery_threshold(parties) - parties, parties - 1)
    # Each client expands one mask for each other party and its own; the server those of all survivors.
    masks = parties * parties + parties
    return SealingPlan(
        level=LEVEL,
        who_can_open=f"the server with {active} of the other parties ({passive} if it follows the protocol), "
        f"or all {parties - 1} others with the sum",
        who_sees_sum="the server, and the participants through the adapter",
        upload_bytes=packed_size(count, bits) + sent,
        download_bytes=got,
        seconds=count * (_SECONDS_PER_MASK_WORD * masks + _SECONDS_PER_WORD * parties),
        phases=(
            f"keys.advertise, keys.share, keys.deliver (every {rounds_per_epoch} rounds)",
            "round",
            "recover.survivors",
            "recover.unmask",
        ),
    )
