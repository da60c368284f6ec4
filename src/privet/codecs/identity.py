"""No compression: the code is the contribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import FloatArray, LinearCodec, Provenance, as_batch, as_code, body_int
from privet.wire import Body


@dataclass(frozen=True)
class Identity(LinearCodec):
    """The identity map on ``dimension`` numbers."""

    kind: ClassVar[str] = "identity"
    dimension: int
    provenance: ClassVar[Provenance] = Provenance.SEED

    @property
    def size(self) -> int:
        """k = D."""
        return self.dimension

    def encode(self, batch: FloatArray) -> FloatArray:
        """``batch`` itself, [b, D]."""
        return as_batch(batch, self.dimension)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """``total`` itself as float32 [D]."""
        return as_code(total, self.size).astype(np.float32)

    def to_body(self) -> Body:
        """Kind and dimension."""
        return {"kind": self.kind, "dimension": self.dimension}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Identity:
        """The codec of a message."""
        return cls(body_int(body, "dimension"))
