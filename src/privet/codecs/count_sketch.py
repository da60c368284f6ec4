"""Count sketch: every coordinate, with a random sign, into one of k buckets (Charikar et al. 2002).

One hash row only. Several rows with the median of their answers find heavy hitters better, but the median
does not add; with the mean instead, one row of the whole size has less error than several of a part of it.
The hash is balanced: buckets hold D/k coordinates, rounded up or down. Codes are divided by the root of a
bucket's load, which makes the rows orthonormal, so that encoding never raises a norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.codec_config import Scale
from privet.codecs.base import FloatArray, LinearCodec, Provenance, as_batch, as_code, body_int
from privet.codecs.random_projection import check_size, scale_of
from privet.codecs.seeded import permutation, signs
from privet.wire import Body


@dataclass(frozen=True)
class CountSketch(LinearCodec):
    """A sketch of ``dimension`` numbers in ``size`` buckets, drawn from a public ``seed``.

    Attributes:
        dimension: D.
        size: Buckets k, at most D.
        seed: Public seed.
        scale: ``projection`` decodes to the orthogonal projection (a bucket's mean), ``unbiased`` to the
            classic estimate (a bucket's sum).
    """

    kind: ClassVar[str] = "count_sketch"
    provenance: ClassVar[Provenance] = Provenance.SEED
    dimension: int
    size: int
    seed: int
    scale: Scale = "projection"

    def __post_init__(self) -> None:
        check_size(self.dimension, self.size)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return permutation(self.seed, "sketch buckets", self.dimension)

    @cached_property
    def _signs(self) -> FloatArray:
        return signs(self.seed, "sketch signs", self.dimension)

    @cached_property
    def _load(self) -> NDArray[np.float64]:
        whole, rest = divmod(self.dimension, self.size)
        return whole + (np.arange(self.size) < rest).astype(np.float64)

    def encode(self, batch: FloatArray) -> FloatArray:
        """Codes [b, k] of [b, D]; one row's code does not depend on the other rows, bit for bit."""
        mixed = as_batch(batch, self.dimension)[:, self._order] * self._signs
        whole, rest = divmod(self.dimension, self.size)
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.zeros((len(mixed), self.size), np.float32)
            for layer in range(whole):
                sums += mixed[:, layer * self.size : (layer + 1) * self.size]
            sums[:, :rest] += mixed[:, whole * self.size :]
        return sums * (self._load**-0.5).astype(np.float32)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """Each coordinate's share [D] of its bucket in a code [k]."""
        exponent = 0.5 if self.scale == "unbiased" else -0.5
        buckets = as_code(total, self.size) * self._load**exponent
        out = np.empty(self.dimension, np.float64)
        out[self._order] = np.resize(buckets, self.dimension) * self._signs
        return out.astype(np.float32)

    def to_body(self) -> Body:
        """Sizes and the seed."""
        return {
            "kind": self.kind,
            "dimension": self.dimension,
            "size": self.size,
            "seed": self.seed,
            "scale": self.scale,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> CountSketch:
        """The codec of a message."""
        return cls(
            body_int(body, "dimension"), body_int(body, "size"), body_int(body, "seed"), scale_of(body)
        )
