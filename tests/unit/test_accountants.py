"""Epsilon against known answers, an independent implementation, quadrature, and the traps of accounting."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.privacy.accountants import (
    CLT_WARNING,
    TOO_SMALL,
    Epsilons,
    adaptive,
    compute,
    headline,
)
from privet.privacy.calibration import calibrate
from privet.privacy.events import AnyRelease, NoGuarantee, Relation, Release, Sampling, Shares
from privet.privacy.pairs import dominating_pair, loss_distribution

MOST_TRIED = 8
"""Noise multipliers that a calibration accounts for at most: four to eight, and always the same."""
CASES = json.loads((Path(__file__).parents[1] / "cases" / "accounting.json").read_text())
RELATIONS: tuple[Relation, ...] = ("zero-out", "add-remove", "replace-one")


def sampled(q: float) -> Sampling:
    return Sampling.poisson(q)


# --- known answers


@pytest.mark.parametrize("case", CASES["single_stage"], ids=lambda c: f"q{c['q']}-s{c['sigma']}-T{c['T']}")
@pytest.mark.parametrize("relation", ["zero-out", "add-remove"])
def test_single_stage_cases(case: dict[str, Any], relation: Relation) -> None:
    found = compute([Release("a", case["sigma"], case["T"], sampled(case["q"]))], case["delta"], relation)
    assert found.pld == pytest.approx(case["pld"], rel=1e-3)
    assert found.rdp == pytest.approx(case["rdp"], rel=1e-3)
    assert found.clt == pytest.approx(case["clt"], rel=1e-3)
    if "mu_gdp" in case:
        assert found.exact == pytest.approx(case["mu_gdp"], abs=1e-6)
        assert found.headline.method == "exact"
    else:
        assert found.exact is None
        assert found.headline.method == "pld"
        assert case["prv_low"] <= found.value <= case["prv_up"]


@pytest.mark.parametrize("case", CASES["two_stage"])
def test_two_stage_case(case: dict[str, Any]) -> None:
    stages = [Release("one", case["sigma1"], case["E"]), Release("two", case["sigma2"], case["T"])]
    found = compute(stages, case["delta"])
    assert found.exact == pytest.approx(case["closed"], abs=1e-6)
    assert found.pld == pytest.approx(case["pld"], rel=1e-5)
    assert found.rdp == pytest.approx(case["rdp"], rel=1e-5)


@pytest.mark.parametrize("case", CASES["replace_one"])
def test_trap_01_replace_one_doubles_the_sensitivity(case: dict[str, Any]) -> None:
    """RDP as shipped keeps C for 2 C under replace-one and would say 2.1657 here."""
    found = compute([Release("a", case["sigma"], case["T"])], case["delta"], "replace-one")
    assert found.exact == pytest.approx(case["epsilon"], abs=1e-6)
    assert found.pld == pytest.approx(case["epsilon"], rel=1e-5)
    assert found.rdp is not None
    assert found.rdp >= case["epsilon"]
    assert found.value == pytest.approx(compute([Release("a", case["sigma"] / 2)], case["delta"]).value)


@pytest.mark.parametrize("case", CASES["fixed_size"])
@pytest.mark.parametrize("relation", ["replace-one", "zero-out"])
def test_trap_02_fixed_size_sampling_is_not_poisson(case: dict[str, Any], relation: Relation) -> None:
    sampling = Sampling.fixed(case["m"], case["n"])
    found = compute([Release("a", case["sigma"], case["T"], sampling)], case["delta"], relation)
    poisson = compute([Release("a", case["sigma"], case["T"], sampled(case["m"] / case["n"]))], case["delta"])
    assert found.value == pytest.approx(case["proved_upper"], rel=1e-3)
    assert case["attained"] < found.value <= case["proved_upper"]
    assert found.value > 2 * poisson.value
    assert found.exact is None
    assert found.rdp is None, "no accountant's RDP is proved for this pair"
    assert found.clt is None


def test_trap_02_fixed_size_with_little_noise_is_above_what_is_attained() -> None:
    """sigma 1, T 50, n 100, m 10: 22.6 is attained where RDP as shipped says 9.428."""
    found = compute([Release("a", 1.0, 50, Sampling.fixed(10, 100))], 1e-5, "replace-one")
    assert found.value > 22.6
    attained = compute([Release("a", 1.0, 50, Sampling.fixed(10, 100))], 1e-5, "add-remove")
    assert attained.value == pytest.approx(22.6, abs=0.05)


def test_independent_oracle_agrees_on_a_mixed_composition() -> None:
    """prv-accountant, an implementation by other authors, brackets a composition of two kinds."""
    from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism, PRVAccountant

    mechanisms = [
        PoissonSubsampledGaussianMechanism(noise_multiplier=0.8, sampling_probability=0.02),
        GaussianMechanism(noise_multiplier=15.0),
    ]
    oracle = PRVAccountant(prvs=mechanisms, max_self_compositions=[300, 4], eps_error=0.02, delta_error=1e-10)
    low, _, high = oracle.compute_epsilon(1e-5, [300, 4])
    found = headline([Release("a", 0.8, 300, sampled(0.02)), Release("b", 15.0, 4)], 1e-5)
    assert low <= found <= high


# --- the pairs, by quadrature


def mixture(
    x: NDArray[Any], weights: tuple[float, ...], means: tuple[float, ...], sigma: float
) -> NDArray[Any]:
    density = np.zeros_like(x)
    for weight, mean in zip(weights, means, strict=True):
        density += weight * np.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return density


def hockey_stick(p: NDArray[Any], q: NDArray[Any], epsilon: float, cell: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum() * cell)


def pair_delta(release: Release, relation: Relation, epsilon: float) -> float:
    pair = dominating_pair(release, relation)
    return float(loss_distribution(pair.sigma, pair.rate, pair.kind, 1e-3).get_delta_for_epsilon(epsilon))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.5])
def test_poisson_replace_one_pair_is_the_antipodal_mixture(epsilon: float) -> None:
    q, sigma = 0.3, 1.2
    x = np.arange(-15, 15, 1e-3)
    p = mixture(x, (1 - q, q), (0, 1), sigma)
    r = mixture(x, (1 - q, q), (0, -1), sigma)
    attained = hockey_stick(p, r, epsilon, 1e-3)
    assert pair_delta(Release("a", sigma, sampling=sampled(q)), "replace-one", epsilon) == pytest.approx(
        attained, rel=1e-3
    )


def test_poisson_replace_one_pair_dominates_other_vectors_in_the_plane() -> None:
    """Any two vectors of norm at most 1, at any angle, are easier to hide than opposite ones of norm 1."""
    q, sigma, cell = 0.4, 0.8, 0.03
    axis = np.arange(-5, 5, cell)
    gx, gy = np.meshgrid(axis, axis)

    def density(a: float, b: float) -> NDArray[Any]:
        out: NDArray[Any] = np.exp(-((gx - a) ** 2 + (gy - b) ** 2) / (2 * sigma**2)) / (
            2 * math.pi * sigma**2
        )
        return out

    for angle, r1, r2 in itertools.product((0.5, 1.5, 2.5, math.pi), (0.3, 1.0), (0.5, 1.0)):
        p = (1 - q) * density(0, 0) + q * density(r1, 0)
        r = (1 - q) * density(0, 0) + q * density(r2 * math.cos(angle), r2 * math.sin(angle))
        for epsilon in (0.0, 0.7, 1.5):
            bound = pair_delta(Release("a", sigma, sampling=sampled(q)), "replace-one", epsilon)
            assert hockey_stick(p, r, epsilon, cell**2) <= bound * (1 + 1e-3) + 1e-7


@pytest.mark.parametrize("relation", RELATIONS)
def test_fixed_size_pair_dominates_small_data_sets(relation: Relation) -> None:
    """All data sets of 4 records in {-1, 0, 1}, 2 drawn, and all their neighbours, in both orders."""
    n, m, sigma = 4, 2, 1.0
    x = np.arange(-14, 14, 5e-3)

    def output(data: tuple[float, ...]) -> NDArray[Any]:
        sums = tuple(float(sum(c)) for c in itertools.combinations(data, m))
        return mixture(x, (1 / len(sums),) * len(sums), sums, sigma)

    largest = dict.fromkeys((0.0, 0.5, 1.5), 0.0)
    for data in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), n):
        for changed in range(n):
            rest = data[:changed] + data[changed + 1 :]
            neighbours = {
                "replace-one": [(*rest, v) for v in (-1.0, 0.0, 1.0)],
                "zero-out": [(*rest, 0.0)],
                "add-remove": [rest],
            }[relation]
            p = output(data)
            for other in neighbours:
                r = output(other)
                for epsilon in largest:
                    both = (hockey_stick(p, r, epsilon, 5e-3), hockey_stick(r, p, epsilon, 5e-3))
                    largest[epsilon] = max(largest[epsilon], *both)
    for epsilon, attained in largest.items():
        bound = pair_delta(Release("a", sigma, sampling=Sampling.fixed(m, n)), relation, epsilon)
        assert attained <= bound * (1 + 1e-4)
        if relation != "zero-out":
            assert attained == pytest.approx(bound, rel=1e-3), "the pair is attained in one release"


@pytest.mark.parametrize("relation", RELATIONS)
def test_everybody_sampled_is_no_sampling(relation: Relation) -> None:
    assert compute([Release("a", 2.0, 5, sampled(1.0))], 1e-5, relation).exact == pytest.approx(
        compute([Release("a", 2.0, 5)], 1e-5, relation).value
    )


# --- composition


def test_order_names_and_splitting_do_not_change_a_digit() -> None:
    a = [
        Release("a", 1.0, 30, sampled(0.05)),
        Release("b", 9.0, 3),
        Release("c", 2.0, 7, Sampling.fixed(3, 90)),
    ]
    b = [*reversed(a[1:]), Release("x", 1.0, 12, sampled(0.05)), Release("y", 1.0, 18, sampled(0.05))]
    for relation in RELATIONS:
        assert compute(a, 1e-5, relation) == compute(b, 1e-5, relation)
        assert compute(a, 1e-5, relation).value == headline(b, 1e-5, relation)


@pytest.mark.parametrize("relation", RELATIONS)
def test_trap_11_dropping_any_release_changes_epsilon(relation: Relation) -> None:
    releases: list[AnyRelease] = [
        Release("statistics", 20.0, 3),
        Release("rounds", 1.5, 40, sampled(0.02)),
        Release("retry of round 7", 1.5, 1, sampled(0.02)),
        Release("evaluation", 30.0),
        Release("survivors of round 3", 8.0, shares=Shares(10, 7)),
        Release("fixed", 6.0, 2, Sampling.fixed(10, 500)),
    ]
    whole = headline(releases, 1e-5, relation)
    for i in range(len(releases)):
        assert headline(releases[:i] + releases[i + 1 :], 1e-5, relation) < whole * (1 - 1e-4), releases[
            i
        ].name


def test_disjoint_cohorts_cost_the_largest_and_share_what_touches_all() -> None:
    silos = [Release("a", 1.0, 10, sampled(0.1), cohort="a"), Release("b", 2.0, 10, sampled(0.1), cohort="b")]
    everybody = Release("all", 10.0)
    assert compute(silos, 1e-5).value == compute(silos[:1], 1e-5).value
    worst = compute([Release("a", 1.0, 10, sampled(0.1)), everybody], 1e-5)
    assert compute([*silos, everybody], 1e-5) == worst
    mixed = [Release("a", 1.0, 3, cohort="a"), Release("b", 5.0, 3, sampled(0.5), cohort="b")]
    assert compute(mixed, 1e-5).exact is None, "the closed form needs all cohorts"
    assert compute(mixed, 1e-5).value == headline(mixed, 1e-5)


def test_no_guarantee_is_none_with_the_reason() -> None:
    found = compute([Release("a", 1.0), NoGuarantee("statistics", "exact means and stds")], 1e-5)
    assert found.headline.value is None
    assert found.headline.method == "none"
    assert found.value == math.inf
    assert found.as_dict()["epsilon"] == "none"
    assert "exact means" in found.as_dict()["reason"]
    known = compute([Release("a", 1.0, shares=Shares(3, 1, subtract_own=True))], 1e-5)
    assert known.reason is not None
    assert "no noise is left" in known.reason


def test_nothing_released_costs_nothing() -> None:
    assert compute([], 1e-5) == Epsilons("zero-out", 1e-5, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_the_central_limit_value_comes_with_its_warning() -> None:
    found = compute([Release("a", 1.0, 1000, sampled(0.01))], 1e-5)
    assert found.clt is not None
    assert found.clt < found.value, "it under-reports here"
    assert found.as_dict()["clt_note"] == CLT_WARNING


# --- what runs is not quite the Gaussian


@pytest.mark.parametrize("sampling", [Sampling(), sampled(0.1)])
def test_the_distance_to_the_ideal_is_charged_with_both_of_its_sides(sampling: Sampling) -> None:
    """(e, d)-DP at distance t is (e, d + (1 + e^e) t)-DP; the reported epsilon must satisfy it."""
    distance, count, delta = 1e-10, 50, 1e-5
    found = compute([Release("a", 8.0, count, sampling, distance)], delta)
    ideal = compute([Release("a", 8.0, count, sampling)], delta)
    assert found.value > ideal.value
    assert found.delta_prime >= (1 + math.exp(found.value)) * distance * count
    at_what_is_left = compute([Release("a", 8.0, count, sampling)], delta - found.delta_prime)
    assert found.value == pytest.approx(at_what_is_left.value, rel=1e-9)


def test_a_distance_that_takes_more_than_half_of_delta_is_refused() -> None:
    releases = [Release("a", 2.0, 10, delta_prime=1e-7)]
    assert "too far from the ideal" in (compute(releases, 1e-5).reason or "")
    assert headline(releases, 1e-5) == math.inf


# --- calibration


@pytest.mark.parametrize("rounds", [40, 1000])
@pytest.mark.parametrize("target", [0.25, 1.0, 8.0])
def test_calibration_is_verified_tight_and_fast(rounds: int, target: float) -> None:
    tried = []

    def planned(sigma: float) -> list[Release]:
        tried.append(sigma)
        return [Release("a", sigma, rounds, sampled(0.02))]

    headline(planned(1.0), 1e-5)  # loads what it needs
    tried.clear()
    started = time.process_time()
    sigma = calibrate(planned, target, 1e-5)
    assert time.process_time() - started < 5, "0.4 to 0.9 s where it was set"
    assert len(tried) <= MOST_TRIED
    assert target * (1 - 2e-3) <= headline(planned(sigma), 1e-5) <= target


def test_calibration_of_both_stages_together() -> None:
    def planned(sigma: float) -> list[Release]:
        return [Release("one", 5 * sigma, 3), Release("two", sigma, 100, sampled(0.1))]

    for relation in RELATIONS:
        sigma = calibrate(planned, 2.0, 1e-5, relation)
        assert 1.996 <= headline(planned(sigma), 1e-5, relation) <= 2.0


def test_calibration_refuses_the_impossible() -> None:
    with pytest.raises(PrivetError, match="no amount of noise"):
        calibrate(lambda s: [Release("a", s), Release("fixed", 1.0)], 0.5, 1e-5)
    with pytest.raises(PrivetError, match="no amount of noise"):
        calibrate(lambda s: [Release("a", s), NoGuarantee("b", "exact")], 0.5, 1e-5)
    with pytest.raises(PrivetError, match="positive"):
        calibrate(lambda s: [Release("a", s)], 0.0, 1e-5)
    with pytest.raises(PrivetError, match="needs no noise"):
        calibrate(lambda s: [Release("a", s, sampling=sampled(1e-7))], 1.0, 1e-5)


def test_extremes_are_finite_numbers_or_none_with_the_reason() -> None:
    assert compute([Release("a", 1e6)], 1e-5).exact == 0.0
    assert compute([Release("a", 0.01)], 1e-5).clt is None
    tiny = [Release("a", 1.0, 1000, sampled(0.01))]
    assert "too small" in (compute(tiny, 1e-16).reason or "")
    assert headline(tiny, 1e-16) == math.inf
    at_twelve = compute([Release("a", 0.7, 2048, sampled(0.01))], 1e-12, "add-remove")
    assert at_twelve.reason == TOO_SMALL, (
        "12.4533 comes out there, and 12.4796 by adding the same losses one by one"
    )
    assert compute([Release("a", 0.7, 2048, sampled(0.01))], 1e-10, "add-remove").pld is not None
    closed = compute([Release("a", 1.0)], 1e-16)
    assert closed.exact is not None
    assert closed.pld is None


@pytest.mark.parametrize(("delta", "limit"), [(1e-5, 8.0), (1e-5, 1.0), (1e-8, 3.0), (1e-5, 0.1)])
def test_adaptive_epsilon_is_an_upper_bound_and_close_where_the_limit_is_reached(
    delta: float, limit: float
) -> None:
    def made(sigma: float) -> list[AnyRelease]:
        return [Release("a", sigma, 10), Release("b", 2 * sigma, 100, sampled(0.02))]

    sigma = calibrate(made, limit, delta, "add-remove")
    at_limit = adaptive(made(sigma), delta, "add-remove", limit)
    assert headline(made(sigma), delta, "add-remove") <= at_limit < 1.3 * limit
    assert adaptive([NoGuarantee("b", "exact")], delta, "add-remove", limit) == math.inf
    rounds = [Release("a", 0.635, 400, sampled(0.02))]  # two runs of 200 rounds, worth 8.0 if fixed before
    assert 8.0 < adaptive(rounds, 1e-5, "add-remove", 8.0) < 1.2 * 8.0, "docs/deploy.md quotes 1.16"
    alike = [Release("a", 0.863, 80, sampled(0.009))]  # worth 1.0 if fixed before
    assert 4 < adaptive(alike, 1e-5, "add-remove", 1.0) < 5, "and 5.0: with so little noise nothing more fits"
    fixed_size = [Release("a", sigma, 1, Sampling("fixed", 0.1, 10, 100))]
    assert adaptive(fixed_size, delta, "zero-out", limit) == math.inf, "no sound Renyi bound"


def test_bad_delta_and_relation_are_refused() -> None:
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(PrivetError, match="delta"):
            compute([Release("a", 1.0)], delta)
    with pytest.raises(PrivetError, match="neighbouring relation"):
        compute([Release("a", 1.0)], 1e-5, "swap")  # type: ignore[arg-type]  # what a user may ask for
