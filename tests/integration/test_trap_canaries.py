"""Canaries in one run: how well an observer tells records inside from records outside, against the ledger."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.canary import MuEstimate, estimate_mu, mu_of_epsilon, power, visible_mu
from support.planted import axes, federation, run
from support.toy import config

from privet.privacy.accountants import compute
from privet.privacy.events import Release, Sampling

CANARIES = 512
ROUNDS = 4


def audited(rate: float, sigma: float, seed: int = 7) -> tuple[MuEstimate, list[Any], NDArray[np.float64]]:
    """A run with half of the canaries inside: the estimate, the ledger's releases, and the scores."""
    inside = np.random.default_rng(seed).permutation(np.arange(CANARIES) % 2 == 0)
    canaries = [c for c, coin in zip(axes(CANARIES, CANARIES), inside, strict=True) if coin]
    c = config(
        insecure_test_seed=seed,
        schedule={"rounds": ROUNDS, "sampling_rate": rate},
        privacy={"noise_multiplier": sigma, "trust": {"colluders": 0}},
    )
    f = federation(c, [canaries[i::4] for i in range(4)], CANARIES)
    scores = np.sum(run(f).sums, axis=0) / f.server.system.pipeline.rounding.grid.bound
    return estimate_mu(scores, inside, alpha=1e-6), list(f.server.ledger.releases), scores


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_trap_09_canaries_are_as_visible_as_the_ledger_says(sigma: float) -> None:
    """At q = 1 the ledger's mu is exact: it lies inside the interval (false alarm 2e-6), which is about 1 wide.

    The upper bound is the positive control: an attack that saw nothing would fail here.
    """
    estimate, releases, _ = audited(1.0, sigma)
    mu = math.sqrt(math.fsum(r.count / r.noise_multiplier**2 for r in releases if isinstance(r, Release)))
    assert mu == pytest.approx(math.sqrt(ROUNDS) / sigma)
    assert estimate.low <= mu
    # A canary is a percent shorter than the sensitivity, which has room for rounding.
    assert estimate.high >= 0.985 * mu
    assert estimate.high - estimate.low < 1.2
    epsilon = compute(releases, 1e-5).value
    assert mu_of_epsilon(epsilon, 1e-5) == pytest.approx(mu, rel=1e-4)
    assert power(2 * mu, mu, CANARIES, alpha=1e-6) > 0.99, "half the noise would be found"


def test_trap_04_canaries_are_seen_no_better_than_their_sampling_allows() -> None:
    """At q < 1 the scores show q sqrt(T)/sigma' only: inside the interval (false alarm 2e-6)."""
    rate, sigma = 0.5, 1.0
    estimate, releases, _ = audited(rate, sigma)
    assert estimate.low <= visible_mu(rate, sigma, ROUNDS) <= estimate.high / 0.985
    assert estimate.low <= mu_of_epsilon(compute(releases, 1e-5).value, 1e-5)


def test_canaries_have_power_at_full_participation_only() -> None:
    """What docs/mutants.md says: halved noise is surely found at q = 1, and hardly ever from q = 0.5 down."""

    def found(rate: float) -> float:
        release = Release("sum", 1.0, ROUNDS, Sampling.poisson(rate) if rate < 1 else Sampling.none())
        claimed = mu_of_epsilon(compute([release], 1e-5).value, 1e-5)
        return power(visible_mu(rate, 0.5, ROUNDS), claimed, CANARIES)

    assert found(1.0) > 0.999
    assert all(found(rate) < 0.05 for rate in (0.5, 0.2, 0.05))


def test_the_interval_of_mu_holds_its_level() -> None:
    """Bounds at 5 % miss the truth 5 % of the time: 800 drawn audits, false alarm 1e-5 (binomial, two bounds)."""
    generator, inside = np.random.default_rng(1), np.arange(60) % 2 == 0
    low = high = 0
    for _ in range(800):
        estimate = estimate_mu(generator.standard_normal(60) + 0.7 * inside, inside, alpha=0.05)
        low += estimate.low > 0.7
        high += estimate.high < 0.7
    for missed in (low, high):
        assert abs(missed - 40) < 4.6 * math.sqrt(800 * 0.05 * 0.95)
    assert power(0.7, 0.7, 60, alpha=0.05) == pytest.approx(0.05)
