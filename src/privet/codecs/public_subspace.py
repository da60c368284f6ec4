"""The span of public gradients: k numbers say where in it a contribution lies.

Gradients of a fine-tuned language model gather near a subspace of few directions that public text spans as
well (Yu et al., arXiv 2102.12677; Zhou et al., arXiv 2007.03813). Public data costs no privacy, and noise
falls on k numbers only. What it shows must always be compared with training on the public data alone.
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
    body_provenance,
)
from privet.codecs.row_pca import leading
from privet.errors import PrivetError
from privet.protocol import RoundAborted, as_array
from privet.wire import Body


@dataclass(frozen=True, eq=False)
class PublicSubspace(LinearCodec):
    """Coefficients in an orthonormal basis of few directions.

    Attributes:
        basis: float32 [k, D], orthonormal rows.
        provenance: ``PUBLIC``, or ``EXACT`` where the gradients were private (then no finite epsilon).
    """

    kind: ClassVar[str] = "public_subspace"
    basis: FloatArray
    provenance: Provenance = Provenance.PUBLIC

    @classmethod
    def fit(
        cls, gradients: FloatArray, size: int, *, provenance: Provenance = Provenance.PUBLIC
    ) -> PublicSubspace:
        """The ``size`` leading directions of ``gradients`` [n, D], each scaled to length one first.

        Scaling keeps one long gradient from taking a direction for itself, as clipping does with private
        ones.

        Raises:
            PrivetError: if the gradients span fewer directions than asked.
        """
        rows = gradients.astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows[(norms[:, 0] > 0) & np.isfinite(norms[:, 0])]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        directions = leading(rows, size)[1] if len(rows) else rows
        if len(directions) < size:
            raise PrivetError(
                "the public gradients span fewer directions",
                field="codec.size",
                given=size,
                allowed=f"at most {len(directions)}",
                hint="raise `codec.updates`, or lower `codec.size`",
            )
        # In C order, as a received one is: BLAS adds in another order otherwise, and bits would differ.
        return cls(np.ascontiguousarray(directions, np.float32), provenance)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.basis.shape[1])

    @property
    def size(self) -> int:
        """k."""
        return int(self.basis.shape[0])

    def encode(self, batch: FloatArray) -> FloatArray:
        """Coefficients [b, k] of contributions [b, D]; never raises a norm."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(as_batch(batch, self.dimension) @ self.basis.T, dtype=np.float32)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The vector [D] in the subspace with coefficients [k]."""
        return np.asarray(as_code(total, self.size).astype(np.float32) @ self.basis, dtype=np.float32)

    def to_body(self) -> Body:
        """The basis: k D numbers down, which a refresh costs each time."""
        return {"kind": self.kind, "basis": self.basis, "provenance": self.provenance.name}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> PublicSubspace:
        """The codec of a message.

        Raises:
            RoundAborted: if the basis is no float32 matrix.
        """
        basis = as_array(body, "basis")
        if basis.dtype != np.float32 or basis.ndim != 2 or not 0 < len(basis) <= basis.shape[1]:
            raise RoundAborted("codec message: the basis is no matrix of float32 rows")
        return cls(basis, body_provenance(body))
