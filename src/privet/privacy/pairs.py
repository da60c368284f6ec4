"""The pair of one-dimensional distributions that dominates a release, and its privacy loss distribution.

For one release with rate q and noise multiplier s (over C). N(m) is the normal with mean m and variance s^2.
H_a(P || Q) = sup_A P(A) - a Q(A) is the hockey-stick divergence. A pair (P, Q) dominates when its H_a is no
smaller than the mechanism's on any neighbours, for every a >= 0; for a < 1, H_a(P || Q) = 1 - a + a H_{1/a}(Q
|| P). Dominating pairs that are fixed before compose, also when each mechanism under them is chosen by what came before
(Zhu, Dong and Wang, AISTATS 2022, arXiv 2106.08567). Pairs that are chosen so need a filter (`accountants.adaptive`).

``none``, and ``poisson`` under zero-out and add-remove
    The two directions ((1-q) N(0) + q N(1), N(0)) and its swap, each composed with itself. The data set with
    the unit is the same in all releases, so the directions never mix. Exact.
``poisson`` under replace-one
    ((1-q) N(0) + q N(1), (1-q) N(0) + q N(-1)), composed with itself. Exact, attained by opposite vectors.
    Proof: given the other units' draws, the outputs are (1-q) N_0 + q N_x and (1-q) N_0 + q N_y, norms of x
    and y at most 1. By advanced joint convexity (Balle, Barthe and Gaboardi, NeurIPS 2018) H_a is q
    H_{a'}(N_x || (1-b) N_0 + b N_y) with a' = 1 + (a-1)/q and b = a/a': the mean under N_x of a convex
    function of (1-b) L_0 + b L_y, where the law of each likelihood ratio L depends on its centre's distance
    to x only. With given laws, the weighted sum is largest in convex order when both are increasing functions
    of one normal (comonotone: Dhaene et al., Insurance Math. Econ. 31, 2002), that is, when 0 and y lie on
    one ray from x. On that line the worst set is a half-line, whose divergence grows with both distances. So
    x = -y with norm 1, in both orders and, by the swap, for a < 1.
``fixed`` under add-remove
    Poisson's two directions at noise s/2, each composed with itself. A unit in the sample displaces another
    one, which may be its opposite, so N(1) becomes N(2). q = size/population.
``fixed`` under zero-out and replace-one
    The symmetric pair whose H_a is that of the larger of those two directions for every a, composed with
    itself. Proof: with P0, P1, P2 the outputs without the unit, with it and with its substitute, advanced
    joint convexity as above gives q H_{a'}(P1 || (1-b) P0 + b P2), and coupling the samples puts P0 and P2
    within distance 2 of P1: at most q H_{a'}(N(2) || N(0)), the direction ((1-q) N(0) + q N(2), N(0)), for a
    >= 1 and *either* order of the neighbours; the swap gives a < 1. A maximum of two such profiles is one of
    a pair (it is convex, and H_0 = 1). Composing the two directions apart is attained (n=100, m=10, s=4,
    T=100, delta=1e-5: 2.337) but not known to suffice, since data sets exist where one order is worst in one
    release and the other in the next (Lebeda, Regehr, Kamath and Steinke, arXiv 2405.20769, warn of this);
    the pair of the larger ones (2.541) is proved, and it is what we report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from privet.privacy.events import Relation, Release

_MAX_POINTS = 400_000
_POINTS_PER_STD = 30.0


class Pair(NamedTuple):
    """A dominating pair, composed with itself ``times`` times.

    Attributes:
        sigma: Noise over the pair's unit of distance.
        times: How many times it is composed.
        rate: Probability q.
        kind: ``apart`` (two directions), ``replace`` (opposite mixtures) or ``larger`` (see the module
            docstring).
    """

    sigma: float
    times: int
    rate: float
    kind: Literal["apart", "replace", "larger"]

    @property
    def gaussian(self) -> bool:
        """Whether it is N(1) against N(0): times/sigma^2 is then all there is to it."""
        return self.rate == 1 and self.kind == "apart"

    @property
    def std(self) -> float:
        """Rough standard deviation of one privacy loss, for the grid."""
        return min(self.rate * math.sqrt(math.expm1(min(self.sigma**-2, 700))), 1 / self.sigma)

    @property
    def extent(self) -> float:
        """Rough size of the largest privacy loss that matters, for the grid."""
        loss = 10 / self.sigma + 0.5 / self.sigma**2
        return max(loss + math.log(self.rate), self.rate * loss)


def dominating_pair(release: Release, relation: Relation) -> Pair:
    """The pair that dominates a release under a neighbouring relation (proofs in the module docstring)."""
    sigma, count, s = release.effective_noise_multiplier, release.count, release.sampling
    if s.everybody and (s.kind != "fixed" or relation != "add-remove"):
        return Pair(sigma / (2 if relation == "replace-one" else 1), count, 1.0, "apart")
    if s.kind == "poisson":
        return Pair(sigma, count, s.rate, "replace" if relation == "replace-one" else "apart")
    return Pair(sigma / 2, count, s.rate, "apart" if relation == "add-remove" else "larger")


def grid_interval(pairs: Sequence[Pair]) -> float:
    """Interval of the grid on which the privacy losses of ``pairs`` are discretised.

    Connecting the dots adds up to about h^2/4 to the variance of every single loss, so h is a thirtieth of
    their root mean square standard deviation: within 1e-4 relative in epsilon, always from above. The number
    of points is bounded, because each costs microseconds; a coarser grid only makes epsilon larger.
    """
    variance = math.fsum(p.times * p.std**2 for p in pairs)
    typical = math.sqrt(variance / sum(p.times for p in pairs))
    extent = max(p.extent for p in pairs)
    total = extent + 10 * math.sqrt(variance)
    finest = max(1e-6, extent / _MAX_POINTS, total / (10 * _MAX_POINTS))
    return max(finest, min(typical / _POINTS_PER_STD, max(1e-3, extent / 1e4)))


@lru_cache(maxsize=32)
def loss_distribution(sigma: float, rate: float, kind: str, interval: float) -> Any:
    """A pair's ``dp_accounting`` privacy loss distribution, pessimistic on a grid of that interval."""
    import numpy as np
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    if kind != "larger":
        relation = (
            NeighboringRelation.REPLACE_ONE if kind == "replace" else NeighboringRelation.ADD_OR_REMOVE_ONE
        )
        return pld.from_gaussian_mechanism(
            sigma,
            sampling_prob=rate,
            value_discretization_interval=interval,
            neighboring_relation=relation,
        )
    remove, add = (
        GaussianPrivacyLoss(sigma, sampling_prob=rate, adjacency_type=direction)
        for direction in (AdjacencyType.REMOVE, AdjacencyType.ADD)
    )
    upper = math.ceil(remove.connect_dots_bounds().epsilon_upper / interval)
    lower = math.floor(add.connect_dots_bounds().epsilon_lower / interval)
    positive = np.arange(max(lower, 0), upper + 1) * interval
    negative = np.arange(lower, 0) * interval
    deltas = np.concatenate([add.get_delta_for_epsilon(negative), remove.get_delta_for_epsilon(positive)])
    deltas = np.minimum.accumulate(deltas)  # delta never grows with epsilon; rounding errors do
    return pld.PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, lower, upper, deltas)
    )
