"""Error feedback: a client remembers what its code lost and adds it to its next update.

Seide et al. 2014; Karimireddy et al., "Error Feedback Fixes SignSGD", arXiv 1901.09847, Algorithm 2. The
memory never leaves the client. For privacy it makes a contribution depend on all earlier ones. With one unit
a client the guarantee stands: the clip follows, so each release has the same sensitivity for any history.
With one unit a record it does not: a record that was sampled once would act on every later contribution
without being sampled, so this is refused.

Only the codec's loss is remembered, not what the clip cut off: an update that is always longer than the clip
norm would make the memory grow without bound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from privet.codecs.allocation import PerTensor
from privet.codecs.base import Codec, FloatArray
from privet.errors import PrivetError

_MAGIC = b"PVTEF1"
_HEADER = struct.Struct("<6sqqq")


@dataclass
class ErrorFeedback:
    """One client's memory of what its codes lost.

    A round that is tried again starts from the same memory, so its contribution does not count twice.

    Attributes:
        dimension: D.
        residual: float32 [D], lost up to ``round``, that round excluded.
        pending: float32 [D], lost in ``round`` as well.
        round: Last round that contributed; -1 before the first.
    """

    dimension: int
    residual: FloatArray = field(init=False)
    pending: FloatArray = field(init=False)
    round: int = -1

    def __post_init__(self) -> None:
        self.residual = np.zeros(self.dimension, np.float32)
        self.pending = self.residual

    def corrected(self, update: FloatArray, codec: Codec, round_number: int) -> FloatArray:
        """``update`` plus what was lost before, float32 [D]: what the pipeline encodes in this round.

        A result that is not finite empties the memory, since the clip makes that contribution zero.
        """
        if round_number != self.round:
            self.residual, self.round = self.pending, round_number
        with np.errstate(over="ignore", invalid="ignore"):
            whole: FloatArray = update + self.residual
            lost = whole - codec.decode(codec.encode(whole[None])[0])
        self.pending = lost if np.all(np.isfinite(lost)) else np.zeros_like(self.residual)
        return whole

    def to_bytes(self) -> bytes:
        """The memory for this client's own checkpoint; it is as private as the data."""
        header = _HEADER.pack(_MAGIC, 1, self.dimension, self.round)
        return header + self.residual.astype("<f4").tobytes() + self.pending.astype("<f4").tobytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> ErrorFeedback:
        """The memory that :meth:`to_bytes` stored.

        Raises:
            PrivetError: if the bytes are cut off or something else.
        """
        body = stored[_HEADER.size :]
        magic, version, dimension, round_number = (
            _HEADER.unpack(stored[: _HEADER.size]) if len(stored) >= _HEADER.size else (b"", 0, 0, 0)
        )
        if magic != _MAGIC or version != 1 or len(body) != 8 * dimension:
            raise PrivetError(
                "is no error-feedback memory of this version",
                field="checkpoint",
                given=f"{len(stored)} bytes",
                hint="start the client from an empty memory",
            )
        memory = cls(dimension)
        memory.residual, memory.pending = np.frombuffer(body, "<f4").astype(np.float32).reshape(2, dimension)
        memory.round = round_number
        return memory


def check_error_feedback(codec: Codec) -> None:
    """Refuse a codec whose loss would be remembered and grow.

    Raises:
        PrivetError: if its decoding is stretched to be unbiased: the memory would grow by D/k - 1 a round.
    """
    parts = [part for part, _ in codec.parts] if isinstance(codec, PerTensor) else [codec]
    if any(getattr(part, "scale", "projection") == "unbiased" for part in parts):
        raise PrivetError(
            "needs a decoder that does not stretch, or the memory grows without bound",
            field="codec.scale",
            given="unbiased",
            allowed="projection",
        )
