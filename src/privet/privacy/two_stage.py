"""The two-stage theorem of DR-Encoder: noisy statistics of client updates, then noisy codes of them.

Stage 1 releases, E times, the sum over clients of a message z of norm at most C1, plus N(0, (s1 C1)^2 I).
Whatever is made of it (synthetic updates, a trained encoder) is post-processing. Stage 2 releases, T times,
the sum over clients of encoded updates that are clipped to C2 *after* the encoder, plus N(0, (s2 C2)^2 I); so
its sensitivity is C2 whatever the encoder is, even one that an adversary chose after seeing all that was
released before. With all clients in every release the whole is mu-GDP, mu^2 = E/s1^2 + T/s2^2, and no smaller
mu is true. Proof: docs/two-stage-proof.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.privacy.accountants import check_delta, check_relation
from privet.privacy.events import Relation, Release, Sampling


@dataclass(frozen=True)
class TwoStage:
    """Both stages with every client in every release.

    Attributes:
        statistics_releases: E >= 0.
        statistics_noise: Noise multiplier s1, over C1.
        rounds: T >= 0.
        noise: Noise multiplier s2, over C2.
        relation: ``zero-out`` (or ``add-remove``), or ``replace-one``, which doubles both sensitivities and
            so mu.
    """

    statistics_releases: int
    statistics_noise: float
    rounds: int
    noise: float
    relation: Relation = "zero-out"

    def __post_init__(self) -> None:
        check_relation(self.relation)

    @property
    def mu(self) -> float:
        """The GDP parameter: telling neighbours apart is as hard as telling N(0, 1) from N(mu, 1)."""
        squared = self.statistics_releases / self.statistics_noise**2 + self.rounds / self.noise**2
        return math.sqrt(squared) * (2 if self.relation == "replace-one" else 1)

    @property
    def privacy_loss(self) -> tuple[float, float]:
        """Mean and variance of the worst-case privacy loss, which is normal: (mu^2/2, mu^2), in nats."""
        return self.mu**2 / 2, self.mu**2

    def delta(self, epsilon: float) -> float:
        """delta(eps) = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2) (Balle and Wang, ICML 2018)."""
        return gaussian_delta(epsilon, self.mu)

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at ``delta``: the inverse of :meth:`delta`."""
        import dp_accounting

        check_delta(delta)
        return float(dp_accounting.get_epsilon_gaussian(1 / self.mu, delta)) if self.mu else 0.0

    def rdp(self, order: float) -> float:
        """Renyi DP at an order above 1: order * mu^2 / 2; an equality."""
        return order * self.mu**2 / 2

    def releases(
        self, sampling: Sampling | None = None, cohorts: tuple[str, str] | None = None
    ) -> list[Release]:
        """Both stages as the accountants take them.

        Args:
            sampling: How stage 2 samples clients, if it does; there is no closed form then, and PLD accounts
                it.
            cohorts: Names of two disjoint, fixed sets of clients, if each stage has its own; a client then
                pays for one stage only, and the guarantee is the larger of the two.
        """
        first, second = cohorts or (None, None)
        stages = []
        if self.statistics_releases:
            stages.append(
                Release("stage 1 statistics", self.statistics_noise, self.statistics_releases, cohort=first)
            )
        if self.rounds:
            sampled = sampling or Sampling.none()
            stages.append(Release("stage 2 codes", self.noise, self.rounds, sampled, cohort=second))
        return stages


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta at ``epsilon`` of a mu-GDP mechanism, in closed form; 0 where it is below 1e-300."""
    from scipy.special import log_ndtr

    if mu == 0:
        return 0.0
    upper, lower = log_ndtr(-epsilon / mu + mu / 2), epsilon + log_ndtr(-epsilon / mu - mu / 2)
    return float(math.exp(upper) * -math.expm1(min(lower - upper, 0.0)))


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
    rows = _rows(updates, sizes)
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


def _rows(updates: NDArray[np.floating], sizes: Sequence[int]) -> NDArray[np.float64]:
    rows = np.asarray(updates, np.float64)
    if rows.ndim != 2 or min(sizes, default=0) < 1 or sum(sizes) != rows.shape[1]:
        raise PrivetError(
            "updates do not have the sizes of the tensors",
            field="updates",
            given=f"shape {rows.shape}, sizes adding up to {sum(sizes)}",
            allowed="[b, D] with positive sizes that add up to D",
        )
    return rows
