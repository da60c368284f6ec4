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
from dataclasses import dataclass

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
