"""Rank-aware simultaneous orthogonal matching pursuit: which few rows of a dictionary span the rows of a matrix.

Davies and Eldar, "Rank Awareness in Joint Sparse Recovery", IEEE Trans. Inf. Theory 2012 (RA-OMP and its
order-recursive form): in each step the row of the dictionary that lies closest to the *subspace* of what is
left, after both were made orthogonal to what was chosen; it needs no knowledge of coefficients and copes with
ill-conditioned ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """What a pursuit found.

    Attributes:
        chosen: Rows of the dictionary in the order in which they were chosen, without those that were known.
        residuals: Share of the matrix's norm that was left after each.
    """

    chosen: tuple[int, ...]
    residuals: tuple[float, ...]


def unit_rows(rows: Matrix) -> Matrix:
    """Rows of norm one; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Matrix = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return scaled


def pursue(
    measured: Matrix,
    dictionary: Matrix,
    most: int,
    *,
    known: Sequence[int] = (),
    floor: float = 0.0,
    tolerance: float = 1e-3,
    rank_tolerance: float = 1e-3,
) -> Found:
    """Rows of ``dictionary`` whose combinations the rows of ``measured`` are.

    Args:
        measured: float32 [n, d]; e.g. the gradient of a factor A, whose rows mix the layer's inputs.
        dictionary: float32 [V, d] of unit rows.
        most: Rows to choose at most, besides the known.
        known: Rows that the attacker knows to be in it.
        floor: Standard deviation of what rounding adds to each value; what does not stand above it is left out.
        tolerance: Stop when less than this share of the norm is left.
        rank_tolerance: Singular values of the residual below this share of the largest are noise.
    """
    left = row_space(measured, floor)
    norms = np.ones(len(dictionary), np.float32)
    basis = np.zeros((0, dictionary.shape[1]), np.float32)
    taken = np.zeros(len(dictionary), np.bool_)

    def take(index: int) -> None:
        nonlocal left, basis
        taken[index] = True
        row = dictionary[index].astype(np.float64)
        for _ in range(2):  # twice is enough (Kahan)
            row -= (basis @ row) @ basis
        length = float(np.linalg.norm(row))
        if length < 1e-4:
            return
        unit = (row / length).astype(np.float32)
        basis = np.concatenate([basis, unit[None]])
        left = left - np.outer(left @ unit, unit)
        norms[:] = np.maximum(norms - np.square(dictionary @ unit), 0)

    for index in known:
        take(int(index))
    start = float(np.linalg.norm(left))
    chosen: list[int] = []
    residuals: list[float] = []
    while len(chosen) < most and start > 0 and float(np.linalg.norm(left)) > tolerance * start:
        space = _orthonormal(left, rank_tolerance)
        if not len(space):
            break
        closeness = np.square(dictionary @ space.T).sum(axis=1) / np.maximum(norms, 1e-4)
        closeness[taken | (norms < 1e-3)] = -1
        best = int(np.argmax(closeness))
        take(best)
        chosen.append(best)
        residuals.append(float(np.linalg.norm(left)) / start)
    return Found(tuple(chosen), tuple(residuals))


def pursue_masked(
    measured: Matrix, kept: NDArray[np.bool_], dictionary: Matrix, most: int, *, known: Sequence[int] = ()
) -> Found:
    """As `pursue`, where each row of ``measured`` has only some of its coordinates, known which.

    Rows then span no common space, so the dictionary is compared with each row on the row's own coordinates, and
    coefficients are solved for row by row.

    Args:
        measured: float32 [n, d]; what stands outside ``kept`` does not matter.
        kept: bool [n, d].
        dictionary: float32 [V, d] of unit rows.
        most: Rows to choose at most, besides the known.
        known: Rows that the attacker knows to be in it.
    """
    rows = np.where(kept, measured, 0).astype(np.float64)
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(sizes, 1e-30)
    lengths = np.maximum(kept.astype(np.float32) @ np.square(dictionary).T, 1e-3)
    support = [int(i) for i in known]
    left, residuals = _left(rows, kept, dictionary, support), []
    start = float(np.linalg.norm(left))
    for _ in range(most):
        if start == 0 or float(np.linalg.norm(left)) < 1e-3 * start:
            break
        closeness = (np.square(left.astype(np.float32) @ dictionary.T) / lengths).sum(axis=0)
        closeness[support] = -1
        support.append(int(np.argmax(closeness)))
        left = _left(rows, kept, dictionary, support)
        residuals.append(float(np.linalg.norm(left)) / start)
    return Found(tuple(support[len(known) :]), tuple(residuals))


def _left(
    rows: NDArray[np.float64], kept: NDArray[np.bool_], dictionary: Matrix, support: Sequence[int]
) -> NDArray[np.float64]:
    """What the chosen rows do not explain of each row, on its own coordinates."""
    left = rows.copy()
    if support:
        chosen = dictionary[list(support)].astype(np.float64)
        for number, own in enumerate(kept):
            weights = np.linalg.lstsq(chosen[:, own].T, rows[number, own], rcond=1e-6)[0]
            left[number, own] -= weights @ chosen[:, own]
    return left


def row_space(rows: Matrix, floor: float = 0.0, tolerance: float = 1e-6) -> Matrix:
    """Directions of rows [n, d] that stand above noise, orthonormal, float32 [rank, d].

    Args:
        rows: A matrix.
        floor: Standard deviation of noise on each value; its singular values reach about sqrt(n) + sqrt(d) times that.
        tolerance: Singular values below this share of the largest do not count either.
    """
    if not len(rows) or not np.isfinite(rows).all():
        return np.zeros((0, rows.shape[1]), np.float32)
    largest = float(np.linalg.norm(rows, 2))
    noise = 1.5 * floor * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
    return _orthonormal(rows, max(tolerance, noise / largest) if largest else tolerance)


def _orthonormal(rows: Matrix, tolerance: float) -> Matrix:
    """An orthonormal basis of the row space, float32 [rank, d]."""
    if not len(rows) or not np.isfinite(rows).all():
        return np.zeros((0, rows.shape[1]), np.float32)
    _, values, space = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    if not values.size or values[0] == 0:
        return np.zeros((0, rows.shape[1]), np.float32)
    basis: Matrix = space[values > tolerance * values[0]].astype(np.float32)
    return basis
