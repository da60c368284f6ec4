"""Pruning with one public mask: gather the kept coordinates, so bytes fall with the kept share.

FedShield-LLM (arXiv 2506.05640) lets each client zero the coordinates that are small in its own update. Such
masks tell which coordinates a client moved, they do not line up under a sum, and encrypted zeros cost as much
as other numbers. Here the mask follows from what everybody knows already: the last released update, or a
seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import (
    FloatArray,
    LinearCodec,
    Provenance,
    as_batch,
    as_code,
    body_int,
    body_provenance,
)
from privet.codecs.seeded import permutation
from privet.errors import PrivetError
from privet.protocol import RoundAborted, as_array
from privet.wire import Body


def pruned_share(
    round_number: int,
    rounds: int,
    *,
    start_round: int,
    start: float,
    end: float,
    end_round: int | None = None,
) -> float:
    """Share of coordinates pruned in a round: 0 at first, then linear from ``start`` to ``end``.

    The schedule of FedShield-LLM (arXiv 2506.05640, section 4), with the cap that its published code lacks.

    Args:
        round_number: Round, from 0.
        rounds: Rounds of the run; the last one reaches the cap when ``end_round`` is absent.
        start_round: First round that prunes.
        start: Share at ``start_round``.
        end: Share at most, from ``end_round`` on.
        end_round: Round that reaches ``end``.
    """
    if round_number < start_round:
        return 0.0
    last = rounds - 1 if end_round is None else end_round
    if last <= start_round:
        return end
    progress = min(1.0, (round_number - start_round) / (last - start_round))
    return start + progress * (end - start)


@dataclass(frozen=True, eq=False)
class Prune(LinearCodec):
    """The kept coordinates of a vector, in order.

    Attributes:
        mask: bool [D], True where a coordinate is kept.
        provenance: ``SEED`` or ``PUBLIC``: a mask from private values would be a release of its own.
    """

    kind: ClassVar[str] = "prune"
    mask: NDArray[np.bool_]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise PrivetError(
                "no coordinate is left", field="codec", given="an empty mask", allowed="at least one"
            )

    @classmethod
    def largest(cls, reference: FloatArray, keep: float) -> Prune:
        """Keep the share ``keep`` that is largest in a released update [D]; ties go to the front."""
        kept = np.argsort(-np.abs(reference), kind="stable")[: _count(reference.size, keep)]
        return cls(_mask(reference.size, kept), Provenance.PUBLIC)

    @classmethod
    def seeded(cls, dimension: int, keep: float, seed: int) -> Prune:
        """Keep a random share ``keep`` of ``dimension`` coordinates."""
        kept = permutation(seed, "prune", dimension)[: _count(dimension, keep)]
        return cls(_mask(dimension, kept), Provenance.SEED)

    @property
    def dimension(self) -> int:
        """D."""
        return self.mask.size

    @property
    def size(self) -> int:
        """Kept coordinates k."""
        return int(np.count_nonzero(self.mask))

    def encode(self, batch: FloatArray) -> FloatArray:
        """The kept columns, [b, D] to [b, k]; never raises a norm."""
        return as_batch(batch, self.dimension)[:, self.mask]

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """Zeros where nothing was kept, [k] to [D]."""
        out = np.zeros(self.dimension, np.float32)
        out[self.mask] = as_code(total, self.size)
        return out

    def to_body(self) -> Body:
        """The mask as packed bits."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "mask": np.packbits(self.mask),
            "provenance": self.provenance.name,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Prune:
        """The codec of a message.

        Raises:
            RoundAborted: if the mask does not fit the dimension.
        """
        dimension, packed = body_int(body, "dimension"), as_array(body, "mask")
        if packed.dtype != np.uint8 or packed.shape != (-(-dimension // 8),):
            raise RoundAborted("codec message: the mask does not fit the dimension")
        return cls(np.unpackbits(packed, count=dimension).astype(bool), body_provenance(body))


def _count(dimension: int, keep: float) -> int:
    if not 0 < keep <= 1:
        raise PrivetError(
            "is no share of coordinates to keep", field="codec", given=keep, allowed="above 0, at most 1"
        )
    return max(1, round(dimension * keep))


def _mask(dimension: int, kept: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(dimension, np.bool_)
    mask[kept] = True
    return mask
