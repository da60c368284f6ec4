"""How many of a code's numbers each tensor gets, and codecs put together from one a tensor.

A linear code of k out of d numbers keeps the share k/d of a tensor's energy, so each number keeps as much as
the tensor's mean square: the best allocation fills the tensors in the order of their spread, which is what
reverse water-filling (Cover and Thomas, "Elements of Information Theory", section 10.3) becomes when a number
costs the same whatever its precision. ``by_std`` does that. ``by_rate`` is the water-filling of bits: a
tensor gets numbers in proportion to the bits by which its spread stands above the water level. It hedges
against noise in the statistics and against structure inside tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.codec_config import Allocation
from privet.codecs.base import (
    Codec,
    FloatArray,
    Layout,
    Provenance,
    Sensitivity,
    as_batch,
    as_code,
    dimension_of,
    size_of,
    slices_of,
)
from privet.codecs.identity import Identity
from privet.errors import PrivetError
from privet.wire import Body

BITS_A_NUMBER = 2.0
"""Bits above the water level at which ``by_rate`` keeps a tensor whole."""

Sizes = NDArray[np.int64]
Floats64 = NDArray[np.float64]


def sizes_for(layout: Layout, budget: int, rule: Allocation, rms: Floats64 | None = None) -> Sizes:
    """Numbers for each tensor, int64 [L]; they add up to ``budget``, or to D where that is less.

    Args:
        layout: Names and shapes.
        budget: Numbers k in the whole code.
        rule: ``uniform`` in proportion to the tensors' sizes; ``by_std`` and ``by_rate`` after their spread.
        rms: Root mean square of each tensor's entries [L], from noised statistics or public updates.

    Raises:
        PrivetError: if a rule needs the spread and there is none.
    """
    dims = np.array([size_of(shape) for _, shape in layout], np.int64)
    budget = int(min(budget, dims.sum()))
    if rule == "uniform":
        return _whole(dims * (budget / dims.sum()), dims, budget)
    if rms is None or not np.all(np.isfinite(rms)):
        raise PrivetError(
            "needs the spread of each tensor",
            field="codec.allocation",
            given=rule,
            allowed="uniform",
            hint="run stage 1 (system `dr_encoder`), or give public records",
        )
    return _fill(dims, rms, budget) if rule == "by_std" else _pour(dims, rms, budget)


def _fill(dims: Sizes, rms: Floats64, budget: int) -> Sizes:
    order = np.argsort(-rms, kind="stable")
    before = np.concatenate([[0], np.cumsum(dims[order])[:-1]])
    sizes = np.zeros_like(dims)
    sizes[order] = np.clip(budget - before, 0, dims[order])
    return sizes


def _pour(dims: Sizes, rms: Floats64, budget: int) -> Sizes:
    """Bisect the water level until the numbers add up."""
    height = np.log2(np.maximum(rms, np.finfo(np.float64).tiny))
    low, high = float(height.min() - BITS_A_NUMBER), float(height.max())

    def poured(level: float) -> Floats64:
        return np.asarray(dims * np.clip((height - level) / BITS_A_NUMBER, 0.0, 1.0))

    for _ in range(80):
        level = (low + high) / 2
        low, high = (level, high) if poured(level).sum() > budget else (low, level)
    return _whole(poured(high), dims, budget)


def _whole(wanted: Floats64, dims: Sizes, budget: int) -> Sizes:
    """Whole numbers near ``wanted`` that add up to ``budget``; the largest remainders are rounded up."""
    sizes = np.minimum(np.floor(wanted + 1e-9).astype(np.int64), dims)
    order = np.argsort(-(wanted - sizes), kind="stable")
    while (missing := budget - int(sizes.sum())) > 0:
        room = order[sizes[order] < dims[order]][:missing]
        sizes[room] += 1
    return sizes


@dataclass(frozen=True, eq=False)
class PerTensor:
    """Codecs side by side, each for some parts of the flat vector; what no part holds is dropped.

    Attributes:
        dimension: D.
        parts: A codec, and int64 [m, 2] starts and stops of what it encodes, in order.
        sized_from: What the parts' sizes follow from.
    """

    kind: ClassVar[str] = "per_tensor"
    dimension: int
    parts: tuple[tuple[Codec, Sizes], ...]
    sized_from: Provenance = Provenance.SEED

    @cached_property
    def size(self) -> int:
        """k, over all parts."""
        return sum(codec.size for codec, _ in self.parts)

    @property
    def additive(self) -> bool:
        """Whether every part is."""
        return all(codec.additive for codec, _ in self.parts)

    @property
    def summable(self) -> bool:
        """Whether every part is."""
        return all(codec.summable for codec, _ in self.parts)

    @property
    def cross_client_state(self) -> bool:
        """Whether any part has."""
        return any(codec.cross_client_state for codec, _ in self.parts)

    @property
    def provenance(self) -> Provenance:
        """The most sensitive of the parts' and of what the sizes follow from."""
        sources = [self.sized_from, *(codec.provenance for codec, _ in self.parts)]
        return max(sources, key=list(Provenance).index)

    @property
    def sensitivity(self) -> Sensitivity:
        """The clip's, if that bounds every part."""
        bounded = all(codec.sensitivity is Sensitivity.CLIP_AFTER_ENCODE for codec, _ in self.parts)
        return Sensitivity.CLIP_AFTER_ENCODE if bounded else Sensitivity.UNBOUNDED

    def encode(self, batch: FloatArray) -> FloatArray:
        """The parts' codes one after the other, [b, D] to [b, k]."""
        rows = as_batch(batch, self.dimension)
        codes = [codec.encode(_gather(rows, spans)) for codec, spans in self.parts]
        return np.concatenate(codes, axis=1, dtype=np.float32)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The parts' vectors where they belong, [k] to [D]."""
        code, out, at = as_code(total, self.size), np.zeros(self.dimension, np.float32), 0
        for codec, spans in self.parts:
            values, taken = codec.decode(code[at : at + codec.size]), 0
            for start, stop in spans:
                out[start:stop] = values[taken : taken + stop - start]
                taken += stop - start
            at += codec.size
        return out

    def to_body(self) -> Body:
        """The parts' messages, with names prefixed by their number."""
        body: Body = {
            "kind": self.kind,
            "dimension": self.dimension,
            "parts": len(self.parts),
            "provenance": self.sized_from.name,
        }
        for index, (codec, spans) in enumerate(self.parts):
            body[f"{index}/spans"] = spans
            body |= {f"{index}/{name}": value for name, value in codec.to_body().items()}
        return body


def _gather(rows: FloatArray, spans: Sizes) -> FloatArray:
    if len(spans) == 1:
        return rows[:, spans[0, 0] : spans[0, 1]]
    return np.concatenate([rows[:, start:stop] for start, stop in spans], axis=1)


def spans_of(layout: Layout, names: Sequence[str]) -> Sizes:
    """Starts and stops of tensors in the flat vector, int64 [m, 2]."""
    slices = slices_of(layout)
    return np.array([[slices[name].start, slices[name].stop] for name in names], np.int64).reshape(-1, 2)


def spread(
    layout: Layout, sizes: Sizes, make: Callable[[int, int, int], Codec], sized_from: Provenance
) -> PerTensor:
    """One codec a tensor, of the size it was given; whole tensors share one identity.

    Args:
        layout: Names and shapes.
        sizes: Numbers for each tensor, int64 [L].
        make: Codec of (tensor's number, dimension, size).
        sized_from: What the sizes follow from.
    """
    whole: list[str] = []
    parts: list[tuple[Codec, Sizes]] = []
    for index, (name, shape) in enumerate(layout):
        if sizes[index] >= size_of(shape):
            whole.append(name)
        elif sizes[index] > 0:
            parts.append((make(index, size_of(shape), int(sizes[index])), spans_of(layout, [name])))
    if whole:
        spans = spans_of(layout, whole)
        parts.insert(0, (Identity(int((spans[:, 1] - spans[:, 0]).sum())), spans))
    return PerTensor(dimension_of(layout), tuple(parts), sized_from)


def power_of_two_sizes(dims: Sizes, sizes: Sizes, rms: Floats64, largest: int) -> NDArray[np.int64]:
    """Ratios 1, 2, 4 ... ``largest`` nearest to d/size without spending more, int64 [L]; 0 drops a tensor.

    What rounding leaves over goes to the tensors with the largest spread.

    Args:
        dims: Numbers d in each tensor, [L].
        sizes: Numbers given to each, [L].
        rms: Spread of each, [L].
        largest: Largest ratio there is, a power of two.
    """
    ladder = [0, *(largest >> step for step in range(largest.bit_length()))]
    rung = np.zeros(len(dims), np.int64)
    for index, (d, k) in enumerate(zip(dims, sizes, strict=True)):
        rung[index] = max(r for r, ratio in enumerate(ladder) if ratio == 0 or -(-d // ratio) <= k)

    def price(index: int, at: int) -> int:
        return 0 if ladder[at] == 0 else int(-(-dims[index] // ladder[at]))

    left = int(sizes.sum()) - sum(price(i, int(r)) for i, r in enumerate(rung))
    for index in np.argsort(-rms, kind="stable"):
        while rung[index] + 1 < len(ladder):
            more = price(index, int(rung[index]) + 1) - price(index, int(rung[index]))
            if more > left:
                break
            rung[index] += 1
            left -= more
    return np.array([ladder[r] for r in rung], np.int64)


def parts_of_body(body: Mapping[str, Any], index: int) -> Body:
    """The message of one part of a :class:`PerTensor`."""
    prefix = f"{index}/"
    return {name[len(prefix) :]: value for name, value in body.items() if name.startswith(prefix)}
