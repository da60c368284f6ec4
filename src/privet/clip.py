"""Clipping: no privacy unit contributes a vector longer than the clip norm, and none contributes a NaN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError

_BLOCK = 1 << 18
# casting to float32 moves a value by at most 2**-24 of itself; the margin keeps norms below the bound
_MARGIN = 1.0 - 2.0**-22


def clip_rows(
    batch: NDArray[np.float32] | NDArray[np.float64], norm: float
) -> tuple[NDArray[np.float32], int]:
    """Scales down each row whose L2 norm exceeds ``norm`` (Abadi et al. 2016, Algorithm 1, arXiv 1607.00133).

    A row with a NaN or an infinity becomes zero: it could be scaled to nothing else, and dropping it from
    the sum is what a zero does. Under zero-out or add-remove neighbours the sum of the rows has L2
    sensitivity ``norm``.

    Args:
        batch: ``[b, k]``, one row for each privacy unit; left as it is. Anything but float32 is cast to it
            first.
        norm: The clip norm C > 0, in the units of ``batch``.

    Returns:
        The clipped rows, float32 ``[b, k]``, each of L2 norm at most C; and how many rows were zeroed for
        not being finite, a diagnostic that must not leave the client.

    Raises:
        PrivetError: if ``norm`` is not a positive finite number.
        ValueError: if ``batch`` is not a matrix.
    """
    if not (norm > 0 and np.isfinite(norm)):
        raise PrivetError(
            "no such clip norm", field="clip_norm", given=norm, allowed="a positive finite number"
        )
    if batch.ndim != 2:
        raise ValueError(f"expected one row for each unit, got an array of shape {batch.shape}")
    rows, width = batch.shape
    clipped = np.zeros((rows, width), dtype=np.float32)
    zeroed = 0
    step = max(1, _BLOCK // max(width, 1))
    for start in range(0, rows, step):
        with np.errstate(over="ignore"):
            block = batch[start : start + step].astype(np.float32)
        # squares of float32 cannot overflow a float64
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        finite = np.isfinite(lengths)
        zeroed += int((~finite).sum())
        block[~finite] = 0.0
        for row in np.flatnonzero(finite & (lengths > norm)):
            block[row] = block[row] * (norm / lengths[row] * _MARGIN)
        clipped[start : start + step] = block
    return clipped, zeroed
