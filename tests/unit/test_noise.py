"""The quick sampler, the exact one behind it, and the arithmetic that ties them together."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.special import ndtri

from privet import noise
from privet.errors import PrivetError
from privet.keys import Stream, derive
from privet.noise import rounded_gaussian, sum_of_shares_tv, tv_distance_bound

KEY = bytes(range(32))


def words(count: int) -> np.ndarray:
    return Stream(derive(KEY, "test words")).uint64(count)


def test_inverse_is_far_more_accurate_than_the_tolerance() -> None:
    """The quick path errs by less than 2**-43 if ndtri does by less than 2**-46; it stays below 2**-48.

    Tail probabilities are what the sampler forms, (w + 1/2) / 2**64, for random w, for w log-uniform down
    to 1 (so that p reaches 2**-63) and for every power of two. Error by one Newton step of mpmath at 200
    bits, which is itself accurate to some 2**-95.
    """
    bulk = words(1500) & np.uint64(2**63 - 1)
    tail = (2.0 ** (63 * Stream(derive(KEY, "tail")).uniform(1500))).astype(np.uint64)
    corners = np.uint64(1) << np.arange(63, dtype=np.uint64)
    probability = (np.concatenate([bulk, tail, corners, corners + np.uint64(1)]) + 0.5) * 2.0**-64
    assert probability.min() < 2.0**-62.5
    found = ndtri(probability)
    worst = mpmath.mpf(0)
    with mpmath.workprec(200):
        for p, z in zip(probability.tolist(), found.tolist(), strict=True):
            worst = max(worst, abs(mpmath.ncdf(z) - mpmath.mpf(p)) / mpmath.npdf(z))
    assert worst < 2.0**-48
    assert noise.TOLERANCE > 2**7 * (2.0**-41 / 5 + 2.0**-46 + 2.6 * 2.0**-53 + 2.0**-50)


@pytest.mark.parametrize("std", [0.3, 1.0, 4.0, 317.25, 1e6, 2.0**40])
def test_exact_path_agrees_with_the_quick_path_wherever_that_decides(std: float) -> None:
    sample = words(300)
    quick, undecided = noise._quick(std, sample)
    decided = np.setdiff1d(np.arange(sample.size), undecided)
    assert decided.size > 250 or std == 2.0**40  # there one step is less than the tolerance: nothing is quick
    for index in decided:
        assert noise._exact(std, int(sample[index]), KEY) == quick[index]


@pytest.mark.parametrize("std", [4.0, 1000.5])
def test_a_huge_tolerance_sends_all_draws_the_exact_way_and_changes_none(
    std: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = rounded_gaussian(std, 400, KEY)
    calls = []
    exact = noise._exact

    def counted(*args: object) -> int:
        calls.append(args)
        return exact(*args)

    monkeypatch.setattr(noise, "_exact", counted)
    monkeypatch.setattr(noise, "TOLERANCE", 1.0)
    assert (rounded_gaussian(std, 400, KEY) == quick).all()
    assert len(calls) == 400
    assert len({call[-1] for call in calls}) == 400  # each draw has further bits of its own


def test_draws_on_a_boundary_are_split_by_further_bits() -> None:
    """A first word whose interval holds a boundary goes to either side in the right proportion.

    400 refinements against a binomial; |z| < 5 fails an honest sampler with probability below 1e-6, and the
    keys are fixed.
    """
    std, k = 5.0, 3
    with mpmath.workprec(300):
        boundary = mpmath.erfc((k + mpmath.mpf(0.5)) / (std * mpmath.sqrt(2))) / 2 * mpmath.mpf(2) ** 64
        word, share = int(mpmath.floor(boundary)), float(boundary - mpmath.floor(boundary))
    assert 0.05 < share < 0.95
    rounded, undecided = noise._quick(std, np.array([word, word | 1 << 63], dtype=np.uint64))
    assert undecided.tolist() == [0, 1]
    assert np.abs(rounded).max() <= k + 1
    drawn = [noise._exact(std, word, derive(KEY, i)) for i in range(400)]
    assert set(drawn) == {k, k + 1}
    # tail probabilities below the boundary are the larger magnitudes
    z = (drawn.count(k + 1) - 400 * share) / math.sqrt(400 * share * (1 - share))
    assert abs(z) < 5
    assert noise._exact(std, word | 1 << 63, derive(KEY, 0)) == -drawn[0]


def test_the_tail_is_not_cut_off() -> None:
    """A zero first word means a magnitude beyond 8.5 standard deviations, decided by further bits."""
    std = 100.0
    _, undecided = noise._quick(std, np.array([0, 1 << 63, 5], dtype=np.uint64))
    assert undecided.tolist() == [0, 1, 2]
    drawn = np.array([noise._exact(std, 0, derive(KEY, i)) for i in range(200)])
    # p is uniform below 2**-64: half of the draws lie beyond the quantile of 2**-65
    assert drawn.min() >= math.floor(-ndtri(2.0**-64) * std)
    median = -ndtri(2.0**-65) * std
    assert 60 < (drawn > median).sum() < 140  # fails an honest sampler with probability below 1e-7
    assert noise._exact(std, 1 << 63, derive(KEY, 0)) == -drawn[0]


def test_draws_do_not_depend_on_how_many_follow() -> None:
    long = rounded_gaussian(7.0, 100_000, KEY)
    assert long.dtype == np.int64
    assert (rounded_gaussian(7.0, 40_000, KEY) == long[:40_000]).all()
    assert rounded_gaussian(7.0, 0, KEY).shape == (0,)
    assert (rounded_gaussian(7.0, 1000, derive(KEY, 1)) != long[:1000]).any()


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, 2.0**41])
def test_impossible_deviations_are_refused(std: float) -> None:
    with pytest.raises(PrivetError, match="standard deviation"):
        rounded_gaussian(std, 1, KEY)


@pytest.mark.parametrize(
    ("n", "std", "value"),
    [(2, 1.0, 2.0962617791693193e-05), (2, 2.0, 2.9006900557822e-18), (2, 3.0, 1.07381057416690e-39)],
)
def test_sum_of_two_shares_costs_what_it_was_computed_to_cost(n: int, std: float, value: float) -> None:
    found = sum_of_shares_tv(n, std)
    assert found == pytest.approx(value, rel=1e-12)
    assert found == pytest.approx(4 / math.pi**2 * math.exp(-((math.pi * std) ** 2)), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "std"),
    [(2, 0.4), (2, 0.7), (2, 1.0), (2, 4.0), (3, 0.5), (3, 1.0), (3, 2.0), (4, 1.0), (5, 0.6), (6, 1.0)],
)
def test_bound_on_sums_of_shares_holds(n: int, std: float) -> None:
    true, bound = sum_of_shares_tv(n, std), tv_distance_bound(n, std)
    assert 0 < true <= bound
    if n == 2 and std >= 1:
        assert bound < true * (1 + 1e-9)
    # the true rate, exp(-2 pi^2 s^2 (1 - 1/n)), with a constant below 2/3
    if n > 2 and std >= 1:
        assert true < 2 / 3 * math.exp(-2 * (math.pi * std) ** 2 * (1 - 1 / n))


def test_bound_on_sums_of_shares_is_monotone_and_never_zero() -> None:
    assert tv_distance_bound(1, 4.0) == 0.0
    assert sum_of_shares_tv(1, 1.0) < 1e-60  # nothing but the arithmetic's own error
    bounds = [tv_distance_bound(n, 4.0) for n in (2, 3, 10, 63, 64, 65, 1000, 10**9)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 1.07e-69
    assert 0 < tv_distance_bound(2, 300.0) < 1e-300
    assert tv_distance_bound(10, 0.01) == 1.0


def test_distance_is_refused_where_it_cannot_be_computed() -> None:
    for n, std in ((0, 1.0), (2, 0.0), (2, 30.0)):
        with pytest.raises(ValueError, match=r"share|small"):
            sum_of_shares_tv(n, std)
    with pytest.raises(ValueError, match="share"):
        tv_distance_bound(0, 1.0)
