"""Level ``masked``: contributions hide behind masks modulo ``2**bits``; the server opens their sum only.

Masks, key phases and recovery are in `masking` and `unmasking`; this module packs the masked words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from privet.packing import pack
from privet.protocol import RoundAborted, RoundId, Steps
from privet.sealing.agreement import BLOB_OVERHEAD, KEY_BYTES
from privet.sealing.base import Opened, SealingPlan, SealingRefused, named, reasons, recovery_threshold
from privet.sealing.identity import SIGNATURE_BYTES
from privet.sealing.masking import MaskingClient
from privet.sealing.masking_messages import (
    ADVERTISE,
    DELIVER,
    RUN_NAME_BYTES,
    SHARE,
    SURVIVORS,
    UNMASK,
    bundle_bytes,
    masking_messages,
)
from privet.sealing.none import packed_schema, read_words, sum_words
from privet.sealing.shamir import SHARE_BYTES
from privet.sealing.unmasking import MaskingServer
from privet.traffic import Sizes, Traffic, message_bytes
from privet.wire import Body, Message, Schema, Whole

LEVEL = "masked"
_SECONDS_PER_MASK_WORD = 2.5e-9
_SECONDS_PER_WORD = 2.0e-8


class MaskedClient:
    """Masks and packs this party's values.

    Args:
        masking: This party's masks, in the group of ``2**bits``.
    """

    states = None

    def __init__(self, masking: MaskingClient) -> None:
        self._masking = masking

    def handle(self, op: str, body: Body) -> Body:
        """Answer ``keys.*`` and ``recover.*``."""
        return self._masking.handle(op, body)

    def seal(self, round: RoundId, values: NDArray[np.int64], question: bytes = b"") -> Body:
        """The masked, packed values of one attempt."""
        group = self._masking.group
        epoch, words = self._masking.mask(round, group.residues(values), question)
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
        return masked_schema(count, self._unmasking.group.bits)

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Exchange keys where they are due; returns the parties that have them."""
        return (yield from self._unmasking.prepare(round))

    def open(
        self, round: RoundId, count: int, replies: Mapping[int, Body], question: bytes = b""
    ) -> Steps[Opened]:
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
        try:
            masks = yield from self._unmasking.recover(round, packed, question)
        except RoundAborted as reason:
            # whoever is missing may be whom the others insist on
            missing = named("no words of", self._unmasking.absent(packed))
            raise RoundAborted(f"{reason}{missing}{reasons(refused)}") from None
        words = sum_words(group, count, {party: packed[party] for party in masks.survivors})
        masks.remove(words)
        return Opened(masks.survivors, group.centred(words), refused={**masks.misfits, **refused})


def masked_schema(count: int, bits: int) -> Schema:
    """Schema of ``count`` masked words of ``bits`` bits."""
    return Schema({**packed_schema(count, bits).fields, "epoch": Whole(0)})


def key_traffic(parties: int, rounds_per_epoch: int, rounds: int) -> Traffic:
    """Keys and recovery: what a client sends and gets in one round, if all take part in all ``rounds``.

    An exchange of keys serves ``rounds_per_epoch`` rounds; the last one is made whole however few rounds are left.
    """
    slots, others, messages = rounds_per_epoch, parties - 1, masking_messages(parties)

    def traffic(op: str, asked: Sizes, answered: Sizes | None = None) -> Traffic:
        return Traffic.of(messages[op].request, messages[op].reply, asked, answered)

    one, all_ = (slots, KEY_BYTES), (parties, slots, KEY_BYTES)
    keys = {"mask_keys": one, "commitments": one}
    listed = {"mask_keys": all_, "commitments": all_, "encryption_keys": (parties, KEY_BYTES)}
    signed = (parties, SIGNATURE_BYTES)
    blobs = (others, bundle_bytes(slots) + BLOB_OVERHEAD)
    exchange = (
        traffic(ADVERTISE, {"run": RUN_NAME_BYTES, "rounds": (slots, 2)}, keys)
        + traffic(SHARE, {**listed, "parties": parties, "signatures": signed}, {"blobs": blobs})
        + traffic(DELIVER, {"senders": others, "blobs": blobs})
    )
    slot: Sizes = {"survivors": parties}
    recovery = traffic(SURVIVORS, slot) + traffic(
        UNMASK,
        {**slot, "signers": parties, "signatures": signed},
        {"shares": (parties, SHARE_BYTES)},
    )
    return exchange * (math.ceil(rounds / slots) / rounds) + recovery


def plan(*, count: int, bits: int, parties: int, rounds_per_epoch: int = 8, rounds: int = 8) -> SealingPlan:
    """What this level promises and costs for ``count`` values in each of ``rounds`` rounds."""
    keys = key_traffic(parties, rounds_per_epoch, rounds)
    contribution = message_bytes(masked_schema(count, bits))
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
        upload_bytes=round(contribution + keys.up),
        download_bytes=round(keys.down),
        seconds=count * (_SECONDS_PER_MASK_WORD * masks + _SECONDS_PER_WORD * parties),
        phases=(
            f"keys.advertise, keys.share, keys.deliver (every {rounds_per_epoch} rounds)",
            "round",
            "recover.survivors",
            "recover.unmask",
        ),
    )
