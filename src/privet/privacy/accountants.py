"""Epsilon of a list of releases: closed form, privacy loss distributions, RDP and the central-limit value.

All accounting is done by ``dp-accounting``, on pairs of distributions that ``pairs.py`` proves to dominate.
Where an accountant has no sound answer, its value is ``None``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from privet.errors import PrivetError
from privet.privacy.events import RELATIONS, AnyRelease, NoGuarantee, Relation, Release, Sampling
from privet.privacy.pairs import Pair, dominating_pair, grid_interval, loss_distribution

CLT_WARNING = "approximation, can under-report"
TOO_FAR = (
    "what runs is too far from the ideal Gaussian for this delta: (1 + e^epsilon) times the distance exceeds "
    "half of delta"
)
SMALLEST_DELTA = 1e-10
"""Least delta that convolved privacy losses are asked at. Their tails have the rounding errors of a Fourier transform,
which are not pessimistic: with 2,048 rounds at q = 0.01 and sigma = 0.7, epsilon comes out 0.2 % too small at 1e-12."""
_MOST_RELEASES = 1 << 40
TOO_SMALL = "delta is too small for the numerical accountant; a larger one has a finite epsilon"


@dataclass(frozen=True)
class Headline:
    """The number to quote, and how it was found; ``value`` is ``None`` when there is no finite epsilon."""

    value: float | None
    method: Literal["exact", "pld", "none"]


@dataclass(frozen=True)
class Epsilons:
    """Epsilon at one delta by each accountant, all for the same observer, unit and relation.

    Attributes:
        relation: Neighbouring relation.
        delta: The whole delta that is promised.
        delta_prime: The part of it spent on what runs being not quite the Gaussian: (1 + e^epsilon) times the
            total variation distance. The accountants were asked at ``delta - delta_prime``.
        exact: Closed form of a mu-GDP mechanism; ``None`` unless every release is a Gaussian on all units.
        pld: Privacy loss distributions, pessimistically discretised: an upper bound, tight to about 1e-4.
        rdp: Renyi DP, a looser upper bound to cross-check; ``None`` where no sound bound is at hand.
        clt: Central-limit value; may be too small, never a guarantee.
        reason: Why there is no finite epsilon, if there is none.
    """

    relation: Relation
    delta: float
    delta_prime: float
    exact: float | None
    pld: float | None
    rdp: float | None
    clt: float | None
    reason: str | None = None

    @property
    def headline(self) -> Headline:
        """The closed form where it is exact, else PLD."""
        if self.exact is not None:
            return Headline(self.exact, "exact")
        return Headline(self.pld, "pld") if self.pld is not None else Headline(None, "none")

    @property
    def value(self) -> float:
        """The headline as a number, infinite when there is no guarantee."""
        value = self.headline.value
        return math.inf if value is None else value

    def as_dict(self) -> dict[str, Any]:
        """The parts for JSON; ``"epsilon"`` is the word ``"none"``, with a reason, when there is none."""
        methods = {name: getattr(self, name) for name in ("exact", "pld", "rdp", "clt")}
        return {
            "epsilon": "none" if self.reason else methods,
            "headline": asdict(self.headline),
            "relation": self.relation,
            "delta": self.delta,
            "delta_prime": self.delta_prime,
            **({"clt_note": CLT_WARNING} if self.clt is not None else {}),
            **({"reason": self.reason} if self.reason else {}),
        }


def accountant_version() -> str:
    """Name and version of the accountant, for reports."""
    from importlib.metadata import version

    return f"dp-accounting {version('dp-accounting')}"


def compute(releases: Sequence[AnyRelease], delta: float, relation: Relation = "zero-out") -> Epsilons:
    """Epsilon of all releases together.

    What runs may differ from the ideal Gaussian by a total variation distance t, the sum of the releases'
    ``delta_prime``. Then (epsilon, d)-DP of the ideal gives (epsilon, d + (1 + e^epsilon) t)-DP of what runs.
    With e2 = epsilon(delta/2), delta' = (1 + e^e2) t is enough as long as it is at most delta/2, since then
    epsilon(delta - delta') <= e2.

    Args:
        releases: What was released about one data set, in any order; equal ones are merged.
        delta: The delta to promise, in (0, 1).
        relation: Neighbouring relation.

    Returns:
        All accountants' values; no epsilon, with the reason, if delta' would exceed delta/2. With several
        cohorts, each method's largest over the cohorts; with nothing released, zeros.

    Raises:
        PrivetError: if ``delta`` is no probability, or the relation unknown.
    """
    check_delta(delta)
    check_relation(relation)
    if reason := no_guarantee(releases):
        return _none(delta, relation, reason)
    parts, exact = _parts([r for r in releases if isinstance(r, Release)], relation)
    found = [_headline(part, delta, relation, exact) for part in parts]
    if any(math.isinf(value) for value, _ in found):
        too_far = any(delta_prime > delta / 2 for _, delta_prime in found)
        return _none(delta, relation, TOO_FAR if too_far else TOO_SMALL)
    results = [_one_part(part, delta, relation, exact, at) for part, at in zip(parts, found, strict=True)]

    def largest(method: str) -> float | None:
        values = [getattr(result, method) for result in results]
        return None if None in values else max(values)

    exact_value, pld, rdp, clt = (largest(method) for method in ("exact", "pld", "rdp", "clt"))
    return Epsilons(relation, delta, max(r.delta_prime for r in results), exact_value, pld, rdp, clt)


def headline(releases: Sequence[AnyRelease], delta: float, relation: Relation = "zero-out") -> float:
    """The headline epsilon alone, infinite without a guarantee; skips the accountants that only cross-check.

    The number is bit for bit the one that :func:`compute` reports.
    """
    check_delta(delta)
    check_relation(relation)
    if no_guarantee(releases):
        return math.inf
    parts, exact = _parts([r for r in releases if isinstance(r, Release)], relation)
    return max(_headline(part, delta, relation, exact)[0] for part in parts)


def adaptive(releases: Sequence[AnyRelease], delta: float, relation: Relation, limit: float) -> float:
    """Epsilon of releases whose noise and sampling may have been chosen by what earlier ones told.

    Composing privacy loss distributions takes all of them to be fixed before. Renyi DP at one order that was fixed
    before adds up all the same (Feldman and Zrnic, NeurIPS 2021, arXiv 2008.11193, theorem 4.3), and so does the
    distance of what runs from the Gaussian.

    Args:
        releases: What was released about one data set, in the order in which it was.
        delta: The delta to promise.
        relation: Neighbouring relation.
        limit: The epsilon that is not to be exceeded; with the first release and delta it fixes the order.

    Returns:
        An upper bound; infinite without a guarantee, and where no sound Renyi bound is at hand (`Epsilons.rdp`).
    """
    check_delta(delta)
    check_relation(relation)
    if no_guarantee(releases):
        return math.inf
    noised = [r for r in releases if isinstance(r, Release)]
    order = _order(noised[0], delta, relation, limit) if noised else None
    if order is None:
        return math.inf if noised else 0.0

    def ask(some: Sequence[Release], at: float, under: Relation) -> float:
        value = _rdp_epsilon(some, at, under, (order,))
        return math.inf if value is None else value

    parts, _ = _parts(noised, relation)
    return max(_headline_by(ask, part, delta, relation)[0] for part in parts)


def _order(first: Release, delta: float, relation: Relation, limit: float) -> float | None:
    """The order that is best for as many releases like ``first`` as are worth ``limit``, or up to twice as many.

    What is released first was chosen before anything was told, so the order is fixed before, too.
    """
    import dp_accounting

    accountant, total, best = dp_accounting.rdp.RdpAccountant(), 0, (0.0, 2.0)
    pair = dominating_pair(first, relation)
    if pair.kind != "apart":
        return None
    while best[0] < limit and total < _MOST_RELEASES:
        accountant.compose(_event(pair), max(total, 1))
        total = max(2 * total, 1)
        best = accountant.get_epsilon_and_optimal_order(delta)
    return float(best[1])


def no_guarantee(releases: Sequence[AnyRelease]) -> str | None:
    """Why no finite epsilon covers the releases, or ``None`` if one does."""
    reasons = []
    for r in releases:
        if isinstance(r, NoGuarantee):
            reasons.append(f"{r.name}: {r.reason}")
        elif r.effective_noise_multiplier == 0:
            reasons.append(f"{r.name}: no noise is left for an observer who knows all of its shares")
    return "; ".join(dict.fromkeys(reasons)) or None


def check_delta(delta: float) -> None:
    """Refuse a delta outside (0, 1)."""
    if not 0 < delta < 1:
        raise PrivetError("delta is a probability", field="delta", given=delta, allowed="0 < delta < 1")


def check_relation(relation: str) -> None:
    """Refuse an unknown neighbouring relation."""
    if relation not in RELATIONS:
        raise PrivetError(
            "unknown neighbouring relation", field="relation", given=relation, allowed=", ".join(RELATIONS)
        )


def _parts(releases: Sequence[Release], relation: Relation) -> tuple[list[tuple[Release, ...]], bool]:
    """What one unit can be touched by, and whether all of it has the closed form.

    A part holds the releases on everybody and those on one cohort. Equal releases are merged whatever their
    names, and sorted, so that order and names cannot change a digit.
    """
    names = sorted({r.cohort for r in releases if r.cohort is not None})
    touching = [[r for r in releases if r.cohort in (None, name)] for name in names] or [list(releases)]
    exact = all(dominating_pair(r, relation).gaussian for r in releases)
    return sorted({_merged(part) for part in touching}, key=repr), exact


def _merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    """One release for all that cost the same, with their counts added, in an order of their own."""
    counts: dict[tuple[float, Sampling, float], int] = {}
    for r in releases:
        cost = (r.effective_noise_multiplier, r.sampling, r.delta_prime)
        counts[cost] = counts.get(cost, 0) + r.count
    merged = (
        Release("", sigma, count, sampling, distance) for (sigma, sampling, distance), count in counts.items()
    )
    return tuple(sorted(merged, key=repr))


def _none(delta: float, relation: Relation, reason: str) -> Epsilons:
    return Epsilons(relation, delta, 0.0, None, None, None, None, reason)


def _one_part(
    releases: tuple[Release, ...],
    delta: float,
    relation: Relation,
    exact: bool,
    found: tuple[float, float],
) -> Epsilons:
    """All accountants' values for a part, given its headline and its delta'."""
    value, delta_prime = found
    ideal_delta = _left(delta, delta_prime)
    return Epsilons(
        relation,
        delta,
        delta_prime,
        value if exact else None,
        _finite(_pld_epsilon(releases, ideal_delta, relation) if exact else value),
        _finite(_rdp_epsilon(releases, ideal_delta, relation)),
        _clt_epsilon(releases, ideal_delta, relation),
    )


def _headline(
    releases: tuple[Release, ...], delta: float, relation: Relation, exact: bool
) -> tuple[float, float]:
    """The headline epsilon, and delta'; infinite if that takes more than half of delta."""
    return _headline_by(_exact_epsilon if exact else _pld_epsilon, releases, delta, relation)


def _headline_by(
    ask: Callable[[Sequence[Release], float, Relation], float],
    releases: Sequence[Release],
    delta: float,
    relation: Relation,
) -> tuple[float, float]:
    """Epsilon by one accountant, and delta'."""
    distance = math.fsum(r.count * r.delta_prime for r in releases)
    delta_prime = 0.0
    if distance:
        exponent = ask(releases, delta / 2, relation)
        delta_prime = distance * (1 + math.exp(exponent)) if exponent < 700 else math.inf
        if delta_prime > delta / 2:
            return math.inf, delta_prime
    return ask(releases, _left(delta, delta_prime), relation), delta_prime


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _left(delta: float, delta_prime: float) -> float:
    """``delta - delta_prime``, rounded down."""
    return math.nextafter(delta - delta_prime, 0.0) if delta_prime else delta


def _exact_epsilon(releases: Sequence[Release], delta: float, relation: Relation) -> float:
    """Gaussians on all units are mu-GDP, mu^2 = sum of count/sigma^2 (Dong, Roth and Su, JRSS B 2022)."""
    pairs = [dominating_pair(r, relation) for r in releases]
    return _gdp_epsilon(math.fsum(p.times / p.sigma**2 for p in pairs), delta)


def _clt_epsilon(releases: Sequence[Release], delta: float, relation: Relation) -> float | None:
    """GDP-CLT: mu^2 = sum of count q^2 (e^(1/s^2) - 1), Poisson only (Bu, Dong, Long and Su, HDSR 2020)."""
    if relation == "replace-one" or any(r.sampling.kind == "fixed" for r in releases):
        return None
    if any(r.effective_noise_multiplier < 0.2 for r in releases):
        return None  # e^(1/s^2) says nothing any more, and soon leaves the range of float64
    return _gdp_epsilon(
        math.fsum(
            r.count * r.sampling.rate**2 * math.expm1(r.effective_noise_multiplier**-2) for r in releases
        ),
        delta,
    )


def _gdp_epsilon(mu_squared: float, delta: float) -> float:
    """Epsilon of a mu-GDP mechanism."""
    import dp_accounting
    import numpy as np

    if not mu_squared:
        return 0.0
    with np.errstate(divide="ignore"):  # log(0), where sigma is so large that epsilon is 0
        return float(dp_accounting.get_epsilon_gaussian(mu_squared**-0.5, delta))


def _rdp_epsilon(
    releases: Sequence[Release], delta: float, relation: Relation, orders: Sequence[float] | None = None
) -> float | None:
    """RDP of the pairs whose directions compose apart: Renyi divergences grow with domination.

    The accountant is always asked under its add-or-remove relation, about pairs that already hold the sensitivity
    of ours: under its REPLACE_ONE it keeps C where the sensitivity is 2 C (dp-accounting 0.6.0).
    """
    import dp_accounting

    accountant = dp_accounting.rdp.RdpAccountant(orders)
    logging.getLogger("absl").setLevel(logging.ERROR)  # else a line for each fractional order that it skips
    for pair in (dominating_pair(r, relation) for r in releases):
        if pair.kind != "apart":
            return None
        accountant.compose(_event(pair), pair.times)
    return float(accountant.get_epsilon(delta))


def _event(pair: Pair) -> Any:
    """One release under a pair whose directions compose apart, as dp-accounting calls it."""
    import dp_accounting

    event = dp_accounting.GaussianDpEvent(pair.sigma)
    return event if pair.gaussian else dp_accounting.PoissonSampledDpEvent(pair.rate, event)


def _pld_epsilon(releases: Sequence[Release], delta: float, relation: Relation) -> float:
    """Convolution of the pairs' privacy loss distributions; the Gaussians among them first become one."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    pairs = [dominating_pair(r, relation) for r in releases]
    if delta < SMALLEST_DELTA and not all(p.gaussian for p in pairs):
        return math.inf
    mu_squared = math.fsum(p.times / p.sigma**2 for p in pairs if p.gaussian)
    terms = [Pair(mu_squared**-0.5, 1, 1.0, "apart")] if mu_squared else []
    terms += [p for p in pairs if not p.gaussian]
    if not terms:
        return 0.0
    interval = grid_interval(terms)
    composed = pld.identity(value_discretization_interval=interval)
    for pair in terms:
        single = loss_distribution(pair.sigma, pair.rate, pair.kind, interval)
        composed = composed.compose(single.self_compose(pair.times) if pair.times > 1 else single)
    return float(composed.get_epsilon_for_delta(delta))
