"""The largest coordinates: of something public, or of each client's own update.

A support that each client chooses tells which coordinates its data moved, and no clip bounds that; nor do
such codes line up under a sum. ``support: client`` therefore exists only as the baseline without sealing and
without privacy (:func:`privet.codecs.base.check_sound` refuses the rest), and its code carries k values and k
positions.
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
    Sensitivity,
    as_batch,
    as_code,
    body_int,
    body_str,
)
from privet.codecs.random_projection import check_size
from privet.errors import PrivetError
from privet.protocol import RoundAborted, as_array
from privet.wire import Body

LARGEST_POSITION = 1 << 24
"""Positions travel as float32, which holds whole numbers exactly up to here."""


@dataclass(frozen=True, eq=False)
class PublicTopK(LinearCodec):
    """The coordinates that are largest in a public reference.

    Attributes:
        dimension: D.
        support: int64 [k], ascending positions.
    """

    kind: ClassVar[str] = "top_k"
    provenance: ClassVar[Provenance] = Provenance.PUBLIC
    dimension: int
    support: NDArray[np.int64]

    @classmethod
    def of(cls, reference: FloatArray, size: int) -> PublicTopK:
        """The ``size`` coordinates with the largest magnitude in a public update or gradient [D]."""
        check_size(reference.size, size)
        return cls(
            reference.size, np.sort(np.argsort(-np.abs(reference), kind="stable")[:size]).astype(np.int64)
        )

    @property
    def size(self) -> int:
        """k."""
        return self.support.size

    def encode(self, batch: FloatArray) -> FloatArray:
        """The columns of the support, [b, D] to [b, k]; never raises a norm."""
        return as_batch(batch, self.dimension)[:, self.support]

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """Zeros outside the support, [k] to [D]."""
        out = np.zeros(self.dimension, np.float32)
        out[self.support] = as_code(total, self.size)
        return out

    def to_body(self) -> Body:
        """Dimension and support."""
        return {
            "kind": self.kind,
            "choice": "public",
            "dimension": self.dimension,
            "support": self.support,
        }


@dataclass(frozen=True)
class ClientTopK:
    """Each update's own ``kept`` largest coordinates: code = values, then positions.

    Not summable: :meth:`decode` takes one client's code, and the server adds what it decoded.
    """

    kind: ClassVar[str] = "top_k"
    additive: ClassVar[bool] = False
    summable: ClassVar[bool] = False
    cross_client_state: ClassVar[bool] = False
    provenance: ClassVar[Provenance] = Provenance.SEED
    sensitivity: ClassVar[Sensitivity] = Sensitivity.UNBOUNDED
    dimension: int
    kept: int

    def __post_init__(self) -> None:
        check_size(self.dimension, self.kept)
        if self.dimension > LARGEST_POSITION:
            raise PrivetError(
                "positions would not survive float32",
                field="codec.support",
                given=f"{self.dimension} coordinates",
                allowed=f"at most {LARGEST_POSITION}",
                hint="set `support: public`",
            )

    @property
    def size(self) -> int:
        """Numbers in a code: as many positions as values."""
        return 2 * self.kept

    def encode(self, batch: FloatArray) -> FloatArray:
        """Values and positions, [b, D] to [b, 2 kept]."""
        rows = as_batch(batch, self.dimension)
        order = np.sort(np.argsort(-np.abs(rows), axis=1, kind="stable")[:, : self.kept], axis=1)
        return np.concatenate(
            [np.take_along_axis(rows, order, axis=1), order.astype(np.float32)], axis=1, dtype=np.float32
        )

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """One client's update [D] from its code [2 kept].

        Raises:
            RoundAborted: if a position is none of D; a sum of codes looks like that.
        """
        code = as_code(total, self.size)
        positions = code[self.kept :]
        if not np.all((positions >= 0) & (positions < self.dimension) & (positions == np.floor(positions))):
            raise RoundAborted("a top-k code holds positions outside the update")
        out = np.zeros(self.dimension, np.float32)
        out[positions.astype(np.int64)] = code[: self.kept]
        return out

    def to_body(self) -> Body:
        """Dimension and count."""
        return {"kind": self.kind, "choice": "client", "dimension": self.dimension, "kept": self.kept}


def from_body(body: Mapping[str, Any]) -> PublicTopK | ClientTopK:
    """The codec of a message.

    Raises:
        RoundAborted: if the support is no set of positions.
    """
    dimension = body_int(body, "dimension")
    if body_str(body, "choice") == "client":
        return ClientTopK(dimension, body_int(body, "kept"))
    support = as_array(body, "support")
    if support.dtype != np.int64 or support.ndim != 1 or not support.size or np.any(np.diff(support) <= 0):
        raise RoundAborted("codec message: the support is no ascending list of positions")
    if support[0] < 0 or support[-1] >= dimension:
        raise RoundAborted("codec message: the support lies outside the update")
    return PublicTopK(dimension, support)
