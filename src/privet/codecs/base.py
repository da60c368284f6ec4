"""What every codec is: a client half (`encode`) and a server half (`decode`), and what it declares.

A codec makes a contribution of D numbers into a code of k numbers. It never carries the privacy guarantee:
the pipeline's order is encode, clip, round, sum, noise, seal, so the sensitivity of a sum of codes is the
clip norm whatever the encoder does (two-stage theorem, stage 2). An encoder may raise norms by any factor,
return NaN, or have been trained by anybody; that costs utility and no privacy, as long as the encoder itself
was not computed from exact private updates. Where its parameters come from is therefore part of its
declaration (:class:`Provenance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.protocol import RoundAborted
from privet.wire import Body

FloatArray: TypeAlias = NDArray[np.float32]
Layout: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of the trained tensors, in the order in which the flat vector holds them."""


class Sensitivity(StrEnum):
    """What bounds one privacy unit's influence on the sum of codes."""

    CLIP_AFTER_ENCODE = "the clip after encode bounds it, whatever the encoder is"
    UNBOUNDED = "the code holds a client's own choice of coordinates, which no clip bounds"


class Provenance(StrEnum):
    """What a codec's parameters were computed from, and so whether sending them is a release of its own."""

    SEED = "a public seed"
    PUBLIC = "public data, or what was already released"
    STATISTICS = "noised statistics: post-processing of a release in the ledger"
    EXACT = "exact private updates: no finite epsilon"


@runtime_checkable
class Codec(Protocol):
    """A pair of maps, float32 [b, D] to float32 [b, k] and back.

    Attributes:
        kind: Name in configurations and messages.
        dimension: D, numbers in a contribution.
        size: k, numbers in a code.
        additive: Whether decode(sum of codes) = sum of decode(code), so that decoding the opened sum is the
            same as summing decoded contributions. A codec with a non-linear half is not additive: the mean of
            its codes is decoded as if it were one client's.
        summable: Whether adding two codes means anything at all. False only for codes that carry a support.
        cross_client_state: Whether encoding one client depends on others (BatchNorm over a cohort).
        provenance: What the parameters were computed from.
        sensitivity: What bounds one unit's influence.
    """

    @property
    def kind(self) -> str:
        """Name in configurations and messages."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    @property
    def size(self) -> int:
        """k."""
        ...

    @property
    def additive(self) -> bool:
        """Whether decoding commutes with summing."""
        ...

    @property
    def summable(self) -> bool:
        """Whether a sum of codes means anything."""
        ...

    @property
    def cross_client_state(self) -> bool:
        """Whether one client's code depends on other clients."""
        ...

    @property
    def provenance(self) -> Provenance:
        """What the parameters were computed from."""
        ...

    @property
    def sensitivity(self) -> Sensitivity:
        """What bounds one unit's influence on the sum."""
        ...

    def encode(self, batch: FloatArray) -> FloatArray:
        """Codes [b, k] of contributions [b, D]; may raise norms by any factor, since the clip comes after."""
        ...

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The contribution [D] that a code, or a sum or mean of codes, [k] stands for."""
        ...

    def to_body(self) -> Body:
        """The codec as a message: arrays and scalars, byte for byte the same each time."""
        ...


class LinearCodec:
    """The declarations that all linear codecs share: they add, and the clip after encode bounds them."""

    additive: ClassVar[bool] = True
    summable: ClassVar[bool] = True
    cross_client_state: ClassVar[bool] = False
    sensitivity: ClassVar[Sensitivity] = Sensitivity.CLIP_AFTER_ENCODE


def dimension_of(layout: Layout) -> int:
    """D of a layout: the numbers in all its tensors."""
    return sum(size_of(shape) for _, shape in layout)


def size_of(shape: tuple[int, ...]) -> int:
    """Numbers in a tensor of ``shape``; 1 for a scalar."""
    return int(np.prod(shape, dtype=np.int64))


def slices_of(layout: Layout) -> dict[str, slice]:
    """Where each tensor lies in the flat vector, by name and in order."""
    slices, start = {}, 0
    for name, shape in layout:
        slices[name] = slice(start, start + size_of(shape))
        start += size_of(shape)
    return slices


def size_for(dimension: int, ratio: float, field: str = "codec.ratio") -> int:
    """Numbers k in a code that is ``ratio`` times smaller than ``dimension``; at least 1.

    Raises:
        PrivetError: if the ratio is below 1 or not finite.
    """
    if not 1 <= ratio < float("inf"):
        raise PrivetError(
            "a code cannot be larger than what it encodes", field=field, given=ratio, allowed=">= 1"
        )
    return max(1, min(dimension, round(dimension / ratio)))


def as_batch(batch: FloatArray, dimension: int) -> FloatArray:
    """``batch`` as float32 [b, D].

    Raises:
        PrivetError: if it has another shape; the codec belongs to another adapter then.
    """
    if batch.ndim != 2 or batch.shape[1] != dimension:
        raise PrivetError(
            "does not fit the codec", field="codec", given=batch.shape, allowed=f"[b, {dimension}]"
        )
    return np.ascontiguousarray(batch, dtype=np.float32)


def as_code(total: NDArray[np.floating[Any]], size: int) -> NDArray[np.float64]:
    """``total`` as float64 [k]: sums are decoded in double precision and rounded once.

    Raises:
        PrivetError: if it has another shape.
    """
    if total.shape != (size,):
        raise PrivetError("is no code of this codec", field="codec", given=total.shape, allowed=f"[{size}]")
    return total.astype(np.float64)


def body_int(body: Mapping[str, Any], name: str) -> int:
    """The whole number ``name`` of a codec's message.

    Raises:
        RoundAborted: if it is missing or something else.
    """
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RoundAborted(f"codec message has no whole number '{name}'")
    return value


def body_str(body: Mapping[str, Any], name: str) -> str:
    """The text ``name`` of a codec's message.

    Raises:
        RoundAborted: if it is missing or something else.
    """
    value = body.get(name)
    if not isinstance(value, str):
        raise RoundAborted(f"codec message has no text '{name}'")
    return value


def body_provenance(body: Mapping[str, Any]) -> Provenance:
    """The declared provenance in a codec's message.

    Raises:
        RoundAborted: if it is missing or unknown.
    """
    name = body_str(body, "provenance")
    if name not in Provenance.__members__:
        raise RoundAborted("codec message names an unknown provenance")
    return Provenance[name]


def check_sound(codec: Codec, *, private: bool, sealed: bool) -> None:
    """Refuse a codec that the pipeline cannot use soundly.

    Args:
        codec: The codec.
        private: Whether the run claims a finite epsilon.
        sealed: Whether only the sum of contributions is opened.

    Raises:
        PrivetError: if codes of different clients depend on one another; if they do not add although only a
            sum is opened or noised; or if the codec was computed from exact updates although an epsilon is
            claimed.
    """
    if codec.cross_client_state and (private or sealed):
        raise PrivetError(
            "encodes one client with the statistics of others (BatchNorm)",
            field="codec",
            given=codec.kind,
            allowed="codecs that normalise each contribution by itself",
            hint="use GroupNorm, or fix the statistics before any data is seen",
        )
    if not codec.summable and (private or sealed):
        raise PrivetError(
            "its codes do not add up: each client chooses its own coordinates, which leak and do not line up",
            field="codec.support",
            given=codec.kind,
            allowed="a support that is computed from what is public",
            hint="set `support: public`, or switch sealing and privacy off",
        )
    if codec.provenance is Provenance.EXACT and private:
        raise PrivetError(
            "was computed from exact private updates, so no finite epsilon covers it",
            field="codec",
            given=codec.kind,
            allowed="codecs from a seed, public data, or noised statistics",
            hint="train it on samples from stage 1 (system `dr_encoder`), or drop the privacy section",
        )


def check_works(codec: Codec, dimension: int, longest: int) -> None:
    """Refuse a codec that would fail where it is used; what a party sent may be anything that has a codec's form.

    It encodes an update of zeros and decodes the code: parts that do not fit each other show in their shapes, numbers
    that are not finite in a product with zero.

    Args:
        codec: The codec.
        dimension: D.
        longest: Numbers in a code at most.

    Raises:
        PrivetError: if it belongs to another adapter, its codes are empty or longer, or it fails.
    """
    if codec.dimension != dimension:
        raise PrivetError(
            "belongs to another adapter", field="codec", given=codec.dimension, allowed=f"{dimension} numbers"
        )
    if not 1 <= codec.size <= longest:
        raise PrivetError("is no size of a code", field="codec", given=codec.size, allowed=f"1 to {longest}")
    try:
        with np.errstate(all="ignore"):
            code = codec.encode(np.zeros((1, dimension), np.float32))
            decoded = codec.decode(code[0])
    except Exception as error:  # numpy and torch raise what they like of parts that do not fit
        raise PrivetError("fails", field="codec", given=f"{codec.kind}: {type(error).__name__}") from None
    fits = code.shape == (1, codec.size) and decoded.shape == (dimension,)
    if not (fits and np.isfinite(code).all() and np.isfinite(decoded).all()):
        raise PrivetError(
            "does not give finite codes of the length that it says", field="codec", given=codec.kind
        )
