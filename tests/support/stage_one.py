"""Stage 1's message as docs/two-stage-proof.md writes it: an oracle beside the one that runs (StatisticsCode, Clip)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def statistics_message(
    updates: NDArray[np.floating], sizes: Sequence[int], clip_norm: float
) -> NDArray[np.float64]:
    """Stage 1's messages: mean and std of every tensor of a clipped update, scaled to keep the norm.

    The update is clipped over all its tensors jointly; then z holds sqrt(d) mean and sqrt(d) std of each
    tensor of d values. As d (mean^2 + std^2) is the tensor's squared norm, ||z|| = ||clipped update|| <= C:
    the sensitivity is C under zero-out and 2 C under replace-one, for any number of tensors. A row with NaN
    or Inf becomes zero.

    Args:
        updates: Real [b, D], one flat update a client.
        sizes: Values in each of the L tensors that an update concatenates; D in total.
        clip_norm: C, the L2 bound.

    Returns:
        float64 [b, 2 L]: (sqrt(d) mean, sqrt(d) std) of tensor 0, then of tensor 1, ...; each row's norm is
        at most C but for rounding in the last digits, which the integer grid behind it removes.
    """
    rows = np.asarray(updates, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(norms)
    factor = np.where(usable, np.minimum(1.0, clip_norm / np.where(usable & (norms > 0), norms, 1.0)), 0.0)
    clipped = np.where(usable, rows, 0.0) * factor
    starts, d = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.asarray(sizes, np.float64)
    mean = np.add.reduceat(clipped, starts, axis=1) / d
    centred = clipped - np.repeat(mean, np.asarray(sizes), axis=1)
    std = np.sqrt(np.add.reduceat(np.square(centred), starts, axis=1) / d)
    message: NDArray[np.float64] = np.stack([mean, std], axis=2) * np.sqrt(d)[:, None]
    return message.reshape(len(rows), -1)


def read_statistics(
    message: NDArray[np.floating], sizes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The server's half: mean and std of each tensor, float64 [L] each, from an average message [2 L].

    Noise can make a std negative; it then counts as zero, which is post-processing.
    """
    roots = np.sqrt(np.asarray(sizes, np.float64))
    pairs = np.asarray(message, np.float64).reshape(len(sizes), 2) / roots[:, None]
    return pairs[:, 0], np.maximum(pairs[:, 1], 0.0)
