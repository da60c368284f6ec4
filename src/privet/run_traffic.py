"""What a run's own operations weigh: enrolment, the adapter or its sealed state, the codec that goes with it.

The sealing levels count what is theirs (`SealingPlan`). A run without dropouts and retries is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from privet import __version__
from privet.aggregate import CODEC_DIGEST, state_schema
from privet.codec_config import (
    AutoencoderCodec,
    CodecConfig,
    IdentityCodec,
    PruneCodec,
    PublicSubspaceCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs import pack
from privet.codecs.base import Provenance
from privet.codecs.message import HEADER, POOLS
from privet.codecs.prune import Prune
from privet.config import OptimiserConfig
from privet.messages import ENROL, FINISH, OPEN, ROUND, TAG, own_schemas
from privet.optimiser import moment_sizes
from privet.sealing.masking_messages import RUN_NAME_BYTES
from privet.sealing.state_seal import sealed_bytes
from privet.traffic import Sizes, Traffic, message_bytes
from privet.wire import Schema

DIGEST_BYTES = 32
_HEADER_BYTES = 160
"""About what the header of a codec takes that has one array or none; one array a tensor takes more."""


@dataclass(frozen=True)
class RunTraffic:
    """Public facts that the bytes follow from.

    Attributes:
        dimension: Trained values D.
        parties: Size of the roster.
        sizes: Values of a contribution in each round.
        codec: The section ``codec``.
        optimiser: The server's optimiser.
        encrypted: Whether a designated client opens sums and hands the state on, sealed.
    """

    dimension: int
    parties: int
    sizes: Sequence[int]
    codec: CodecConfig
    optimiser: OptimiserConfig
    encrypted: bool

    def a_round(self) -> Traffic:
        """Bytes of one client in one round, the mean of all."""
        rounds = len(self.sizes)
        messages = own_schemas(
            self.dimension, state_schema(self.dimension).max_bytes(), encrypted=self.encrypted
        )
        enrol = messages[ENROL]
        total = Traffic.of(enrol.request, enrol.reply, {"run": RUN_NAME_BYTES}, {"version": len(__version__)})
        question = messages[ROUND].request
        if not self.encrypted:
            for number, size in enumerate(self.sizes):
                codec = self._codec(size)
                # The codec travels when it changes; its digest always.
                digest: dict[str, Any] = {CODEC_DIGEST: DIGEST_BYTES} if codec else {}
                whole = codec if self._changes(number) else {}
                total += Traffic(0, message_bytes(question, **whole, **digest))
            return total * (1 / rounds)
        states = [sealed_bytes(self._state(size)) for size in self.sizes]
        # The first round needs no state; the one after the last goes out with the last message.
        sent = [message_bytes(question), *(message_bytes(question, state=state) for state in states[1:])]
        last, finish = states[-1], messages[FINISH]
        opened = Traffic(sum(message_bytes(messages[OPEN].reply, state=s) for s in [*states[1:], last]))
        tags = message_bytes(Schema({TAG: finish.reply.fields[TAG]})) - message_bytes(Schema({}))
        total += Traffic(rounds * tags, sum(sent)) + opened * (1 / self.parties)
        total += Traffic.of(finish.request, finish.reply, {"state": last})
        return total * (1 / rounds)

    @property
    def _follows_the_last(self) -> bool:
        return isinstance(self.codec, PruneCodec) and self.codec.mask == "last_update"

    def _changes(self, number: int) -> bool:
        """Whether round ``number`` brings a codec that the round before did not have."""
        if isinstance(self.codec, PruneCodec):
            return True
        if isinstance(self.codec, RowPcaCodec | PublicSubspaceCodec):
            return number % self.codec.refresh_rounds == 0
        return number == 0

    def _state(self, size: int) -> int:
        moments: dict[str, Any] = moment_sizes(self.optimiser, self.dimension)
        return message_bytes(state_schema(self.dimension), **moments, **self._codec(size))

    def _codec(self, size: int) -> Sizes:
        """Sizes of the fields that a codec of so many values travels in."""
        numbers = dict.fromkeys(POOLS.values(), 0)
        if isinstance(self.codec, IdentityCodec) or (size == self.dimension and self._follows_the_last):
            return {}
        match self.codec:
            case PruneCodec():
                mask = np.arange(self.dimension) < size
                provenance = Provenance.SEED if self.codec.mask == "seed" else Provenance.PUBLIC
                packed: Any = pack(Prune(mask, provenance))
                return {name: len(value) for name, value in packed.items()}
            case PublicSubspaceCodec():
                numbers[POOLS["float32"]] = size * self.dimension
            case TopKCodec():
                numbers[POOLS["int32"]] = size
            case AutoencoderCodec():
                # Where each number of the pictures comes from, and the weights.
                numbers[POOLS["int32"]] = self.dimension
                numbers[POOLS["float32"]] = codec_weights(self.codec)
        return {HEADER: _HEADER_BYTES, **numbers}


def codec_weights(codec: AutoencoderCodec) -> int:
    """Weights of all networks of an autoencoder: one, or with an allocation at most one for each ratio up to 64."""
    if codec.allocation == "uniform":
        return network_weights(codec, codec.ratio)
    return sum(network_weights(codec, 2.0**step) for step in range(1, 7))


def network_weights(codec: AutoencoderCodec, ratio: float) -> int:
    """Weights of one network, as `privet.codecs.networks` builds it."""
    if codec.network == "mlp":
        block = codec.block
        size = max(1, round(block / ratio))
        linear, hidden = 2 * block * size, 2 * size
        return (
            linear + (block + 1) * hidden + (hidden + 1) * size + (size + 1) * hidden + (hidden + 1) * block
        )
    strides = max(1, round(math.log2(ratio)))
    channels = [2, *(2 << step for step in range(strides))]
    last, steps = channels[-1], list(pairwise(channels))
    residuals = 2 * 3 * 2 * (9 * last * last + 3 * last)
    ends = 20 + 19 + 2 * (last * last + last)
    down = sum(9 * few * many + 3 * many for few, many in steps)
    up = sum(16 * few * many + 3 * few for few, many in steps)
    shortcut = 2 * 8**strides + 2 if codec.network == "conv" else 0
    return residuals + ends + down + up + shortcut
