"""Principal components of the rows of public updates, one basis for each kind of factor.

The rows of a factor's update lie near a few directions of the model's width, and public text shows the same
ones. A basis of m directions makes a stacked matrix of R x W into R x m numbers. How many directions a kind
gets follows from the spectrum on public updates: the next direction is always the one with the most energy a
row (reverse water-filling for a linear code: a number is best spent where the variance is largest).
Components are those of the second moment about zero, not about the mean, so the code stays linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import (
    FloatArray,
    Layout,
    LinearCodec,
    Provenance,
    as_batch,
    as_code,
    body_int,
    body_provenance,
    dimension_of,
    size_for,
)
from privet.codecs.stacking import stacks_of
from privet.errors import PrivetError
from privet.protocol import RoundAborted, as_array
from privet.wire import Body


@dataclass(frozen=True, eq=False)
class RowPca(LinearCodec):
    """Coefficients of each stacked row in a basis for its kind.

    Attributes:
        dimension: D.
        positions: For each kind, int64 [R, W]: where its entries lie in the flat vector.
        bases: For each kind, float32 [m, W] with orthonormal rows; m may be 0.
        provenance: ``PUBLIC``, or ``EXACT`` where the updates were private (then no finite epsilon).
    """

    kind: ClassVar[str] = "row_pca"
    dimension: int
    positions: tuple[NDArray[np.int64], ...]
    bases: tuple[FloatArray, ...]
    provenance: Provenance

    @classmethod
    def fit(
        cls,
        updates: FloatArray,
        layout: Layout,
        ratio: float,
        *,
        rows: Literal["auto", "factor", "tensor"] = "auto",
        provenance: Provenance = Provenance.PUBLIC,
    ) -> RowPca:
        """The bases that keep the most energy of ``updates`` within D/``ratio`` numbers.

        Args:
            updates: float32 [n, D].
            layout: Names and shapes of the tensors.
            ratio: D/k that the code may not fall below.
            rows: What a row is: one row of a factor, or a whole layer's factor; ``auto`` takes what keeps more
                energy of a quarter of ``updates`` that was held out for this choice.
            provenance: What ``updates`` are.

        Raises:
            PrivetError: if not one direction fits into that size.
        """
        dimension = dimension_of(layout)
        updates, budget = as_batch(updates, dimension), size_for(dimension, ratio)
        if rows == "auto":
            rows = _better_rows(updates, layout, ratio)
        stacks = stacks_of(layout, rows)
        # Of a kind with R rows a direction costs R numbers: there cannot be more of them than the budget pays.
        spectra = [
            _components(updates[:, stack.positions].reshape(-1, stack.width), budget // stack.rows)
            for stack in stacks
        ]
        counts = _spend(
            [(stack.rows, values) for stack, (values, _) in zip(stacks, spectra, strict=True)], budget
        )
        if not any(counts):
            smallest = min(stack.rows for stack in stacks)
            raise PrivetError(
                "not one direction fits",
                field="codec.ratio",
                given=ratio,
                allowed=f"at most {dimension / smallest:.0f}",
                hint="lower the ratio, or set `rows: tensor`",
            )
        bases = tuple(vectors[:count] for count, (_, vectors) in zip(counts, spectra, strict=True))
        return cls(dimension, tuple(stack.positions for stack in stacks), bases, provenance)

    @cached_property
    def size(self) -> int:
        """k: rows times directions, over all kinds."""
        return sum(rows.shape[0] * len(basis) for rows, basis in zip(self.positions, self.bases, strict=True))

    def encode(self, batch: FloatArray) -> FloatArray:
        """Coefficients [b, k] of updates [b, D]; never raises a norm."""
        rows = as_batch(batch, self.dimension)
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [
                (rows[:, where] @ basis.T).reshape(len(rows), -1)
                for where, basis in zip(self.positions, self.bases, strict=True)
            ]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The update [D] that coefficients [k] stand for."""
        code, out, start = as_code(total, self.size), np.zeros(self.dimension, np.float32), 0
        for where, basis in zip(self.positions, self.bases, strict=True):
            stop = start + where.shape[0] * len(basis)
            out[where] = code[start:stop].reshape(where.shape[0], len(basis)) @ basis
            start = stop
        return out

    def to_body(self) -> Body:
        """Positions and bases, numbered by kind."""
        body: Body = {
            "kind": self.kind,
            "dimension": self.dimension,
            "kinds": len(self.bases),
            "provenance": self.provenance.name,
        }
        for index, (where, basis) in enumerate(zip(self.positions, self.bases, strict=True)):
            body[f"positions.{index}"], body[f"basis.{index}"] = where, basis
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> RowPca:
        """The codec of a message.

        Raises:
            RoundAborted: if bases and positions do not fit each other or the dimension.
        """
        dimension, kinds = body_int(body, "dimension"), range(body_int(body, "kinds"))
        positions = tuple(as_array(body, f"positions.{index}") for index in kinds)
        bases = tuple(as_array(body, f"basis.{index}") for index in kinds)
        for where, basis in zip(positions, bases, strict=True):
            if where.dtype != np.int64 or where.ndim != 2 or basis.shape[1:] != where.shape[1:]:
                raise RoundAborted("codec message: a basis does not fit its rows")
            if where.size and (where.min() < 0 or where.max() >= dimension):
                raise RoundAborted("codec message: rows lie outside the update")
        return cls(dimension, positions, bases, body_provenance(body))


def _better_rows(updates: FloatArray, layout: Layout, ratio: float) -> Literal["factor", "tensor"]:
    if len(updates) < 2:
        return "factor"
    held_out = max(1, len(updates) // 4)
    kept = {}
    choices: tuple[Literal["factor", "tensor"], ...] = ("tensor", "factor")
    for rows in choices:
        try:
            codec = RowPca.fit(updates[held_out:], layout, ratio, rows=rows)
        except PrivetError:
            kept[rows] = -1.0
        else:
            kept[rows] = float(np.square(codec.encode(updates[:held_out]), dtype=np.float64).sum())
    return max(choices, key=lambda rows: kept[rows])


def leading(matrix: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leading right singular vectors [count, W] of [n, W] and their squared singular values, largest first.

    They come from the smaller of the two Gram matrices, of which only the wanted part is solved for. Each vector's
    largest entry is positive, so that the same matrix gives the same vectors.
    """
    from scipy.linalg import eigh

    tall, side = matrix.shape[0] >= matrix.shape[1], min(matrix.shape)
    count = min(count, side)
    if not count:
        return np.zeros(0), np.zeros((0, matrix.shape[1]))
    gram = matrix.T @ matrix if tall else matrix @ matrix.T
    values, vectors = eigh(gram, subset_by_index=(side - count, side - 1))
    order = np.argsort(-values, kind="stable")
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    # What lies below the rounding error of the largest value is no direction of the data.
    order = np.flatnonzero(values > values[:1].max(initial=0.0) * matrix.shape[1] * 1e-14)
    values, vectors = values[order], vectors[:, order]
    rows = vectors.T if tall else (matrix.T @ vectors / np.sqrt(values)).T
    if not tall and len(rows):
        rows = np.linalg.qr(rows.T)[0].T
    peaks = np.take_along_axis(rows, np.argmax(np.abs(rows), axis=1)[:, None], axis=1)
    return values, rows * np.where(peaks < 0, -1.0, 1.0)


def _components(rows: FloatArray, count: int) -> tuple[NDArray[np.float64], FloatArray]:
    values, vectors = leading(rows.astype(np.float64), count)
    # In C order, as a received one is: BLAS adds in another order otherwise, and bits would differ.
    return values / len(rows), np.ascontiguousarray(vectors, np.float32)


def _spend(spectra: Sequence[tuple[int, NDArray[np.float64]]], budget: int) -> list[int]:
    """Directions for each kind: always the one with the most energy a row whose price still fits."""
    counts = [0] * len(spectra)
    offers = sorted(
        (-energy, index, rank)
        for index, (_, values) in enumerate(spectra)
        for rank, energy in enumerate(values)
    )
    for energy, index, rank in offers:
        price = spectra[index][0]
        if energy < 0 and rank == counts[index] and price <= budget:
            counts[index] += 1
            budget -= price
    return counts
