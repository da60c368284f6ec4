"""The privacy ledger: what was released so far, what it costs each observer, and whether the next release may
happen.

The ledger is charged before a release happens and never refunded. As JSON (``dp_event.json``) it holds all
that anybody needs to account the run again, with this code or without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from privet.errors import PrivetError
from privet.privacy.accountants import (
    Epsilons,
    accountant_version,
    check_delta,
    check_relation,
    compute,
    headline,
)
from privet.privacy.calibration import calibrate
from privet.privacy.events import (
    UNITS,
    AnyRelease,
    NoGuarantee,
    Relation,
    Release,
    Sampling,
    Shares,
    Unit,
)
from privet.privacy.filters import CountFilter, counted
from privet.privacy.observers import Observer, TrustModel, scaled

SCHEMA = "privet.dp-event/1"


class Ledger:
    """Releases in the order in which they were charged, under one unit, relation, delta and trust model.

    Equal releases in a row are stored once, with their count, so memory does not grow with the length of a
    run.

    Args:
        unit: Whose data the guarantee hides.
        relation: Neighbouring relation.
        delta: The delta to promise.
        budget_epsilon: Largest headline epsilon of the worst observer; ``None`` for no limit.
        trust: Who is trusted with what; by default everybody adds whole noise.
        releases: Releases so far.
    """

    def __init__(
        self,
        unit: Unit,
        relation: Relation,
        delta: float,
        budget_epsilon: float | None = None,
        *,
        trust: TrustModel | None = None,
        releases: Iterable[AnyRelease] = (),
    ) -> None:
        check_delta(delta)
        check_relation(relation)
        if unit not in UNITS:
            raise PrivetError("unknown privacy unit", field="unit", given=unit, allowed=", ".join(UNITS))
        if budget_epsilon is not None and not budget_epsilon > 0:
            raise PrivetError(
                "a budget is positive", field="max_epsilon", given=budget_epsilon, allowed="> 0"
            )
        self.unit, self.relation, self.delta, self.budget_epsilon = unit, relation, delta, budget_epsilon
        self.trust = trust or TrustModel.local()
        self._releases: list[AnyRelease] = []
        self._filter = CountFilter()
        for release in releases:
            self.charge(release)

    @property
    def releases(self) -> tuple[AnyRelease, ...]:
        """What was charged, in order, equal neighbours merged."""
        return tuple(self._releases)

    def charge(self, release: AnyRelease) -> None:
        """Write a release down; ask :meth:`would_exceed` first, or use :meth:`admit`."""
        last = self._releases[-1] if self._releases else None
        if isinstance(last, Release) and isinstance(release, Release) and last.times(1) == release.times(1):
            self._releases[-1] = last.times(last.count + release.count)
        elif last != release or isinstance(release, Release):
            self._releases.append(release)

    def epsilon(self, observer: str | Observer | None = None) -> Epsilons:
        """Epsilon of everything charged.

        Args:
            observer: An observer or its name; ``None`` is the worst one inside the trust model: the
                guarantee.
        """
        who = self.trust.worst if observer is None else observer
        if isinstance(who, str):
            who = self.trust.observer(who)
        return compute(self.trust.seen_by(who, self._releases), self.delta, self.relation)

    def epsilons(self) -> dict[str, Epsilons]:
        """Epsilon by the name of each observer."""
        by_factor: dict[float, Epsilons] = {}
        table = {}
        for observer in self.trust.observers():
            factor = self.trust.promised(observer)
            if factor not in by_factor:
                by_factor[factor] = self.epsilon(observer)
            table[observer.name] = by_factor[factor]
        return table

    def stages(self) -> list[dict[str, Any]]:
        """What each kind of release costs by itself at the whole delta, against the worst observer; for reading.

        One row a name: ``name``, ``observer``, ``count``, ``noise_multiplier`` and ``value`` with ``method``, or the
        word ``none`` with ``reason``. The guarantee is that of all together, which is less than the sum of these rows.
        """
        rows: list[dict[str, Any]] = []
        for name in dict.fromkeys(release.name for release in self._releases):
            members = [release for release in self._releases if release.name == name]
            found = compute(self.trust.seen_by(self.trust.worst, members), self.delta, self.relation)
            first, value = members[0], found.headline.value
            rows.append(
                {
                    "name": name,
                    "observer": self.trust.worst.name,
                    "count": sum(getattr(release, "count", 1) for release in members),
                    "noise_multiplier": getattr(first, "noise_multiplier", None),
                    "value": "none" if value is None else value,
                    "method": found.headline.method,
                    **({"reason": found.reason} if found.reason else {}),
                }
            )
        return rows

    def diagnostic(self, survivors: int) -> dict[str, float]:
        """Headline epsilon by observer had each sum held ``survivors`` shares; a diagnostic, no promise."""
        return {
            o.name: headline(
                scaled(self._releases, self.trust.factor(o, survivors)), self.delta, self.relation
            )
            for o in self.trust.observers()
        }

    def would_exceed(self, release: AnyRelease, planned: Sequence[AnyRelease] = ()) -> bool:
        """Whether charging ``release`` would take the worst observer's epsilon above the budget.

        The answer holds whoever decides what is released next, and by what (:func:`privet.privacy.filters.counted`).
        The first question about a release finds out by bisection how often it can be afforded; from then on
        the answer is a comparison, until something else is charged.

        Args:
            release: What is asked about.
            planned: What the run releases if it goes to its end without a retry, in order. Where releases are of more
                than one kind, budget that is planned for one is not lent to another.
        """
        if self.budget_epsilon is None:
            return False
        if isinstance(release, NoGuarantee) or any(isinstance(r, NoGuarantee) for r in self._releases):
            return True
        one = release.times(1)
        charged = [r for r in self._releases if isinstance(r, Release)]
        others = [r for r in charged if r.times(1) != one]
        count = release.count + sum(r.count for r in charged if r.times(1) == one)

        def affordable(times: int) -> bool:
            whole = counted([*others, one.times(times)], planned)
            seen = self.trust.seen_by(self.trust.worst, whole)
            return headline(seen, self.delta, self.relation) <= (self.budget_epsilon or 0.0)

        return not self._filter.allows((one, tuple(others), tuple(planned)), count, affordable)

    def admit(self, release: AnyRelease, planned: Sequence[AnyRelease] = ()) -> bool:
        """Charge ``release`` if the budget allows it; otherwise charge nothing and return false."""
        if self.would_exceed(release, planned):
            return False
        self.charge(release)
        return True

    def calibrate(
        self, make_releases: Callable[[float], Sequence[AnyRelease]], target_epsilon: float
    ) -> float:
        """Noise multiplier at which the planned releases, besides those charged, keep the worst observer to a
        target.

        Args:
            make_releases: The planned releases at a noise multiplier, as they will be charged.
            target_epsilon: Headline epsilon of the worst observer inside the trust model.
        """
        worst = self.trust.worst

        def seen(noise_multiplier: float) -> Sequence[AnyRelease]:
            return self.trust.seen_by(worst, [*self._releases, *make_releases(noise_multiplier)])

        return calibrate(seen, target_epsilon, self.delta, self.relation)

    def to_json(self) -> dict[str, Any]:
        """The whole ledger for ``dp_event.json``; floats survive JSON bit for bit."""
        return {
            "schema": SCHEMA,
            "unit": self.unit,
            "relation": self.relation,
            "delta": self.delta,
            "budget_epsilon": self.budget_epsilon,
            "trust": self.trust.to_json(),
            "events": [event_to_json(release) for release in self._releases],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Ledger:
        """The ledger that was stored, equal in every bit.

        Raises:
            PrivetError: if it is none of ours, or of another version.
        """
        if stored.get("schema") != SCHEMA:
            raise PrivetError(
                "is no ledger of this version", field="schema", given=stored.get("schema"), allowed=SCHEMA
            )
        try:
            return cls(
                stored["unit"],
                stored["relation"],
                stored["delta"],
                stored["budget_epsilon"],
                trust=TrustModel(**stored["trust"]),
                releases=events_from_json(stored["events"]),
            )
        except (KeyError, TypeError) as e:
            raise PrivetError("lacks a field or has one too many", field="ledger", given=str(e)) from None


def reaccount(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Account a stored ledger again, from its events alone: epsilon by observer.

    A ledger that says itself that nothing covers its run (``no_guarantee``) has none.
    """
    ledger = Ledger.from_json(stored)
    if reason := stored.get("no_guarantee"):
        ledger.charge(NoGuarantee("the whole run", str(reason)))
    return {
        "unit": ledger.unit,
        "relation": ledger.relation,
        "delta": ledger.delta,
        "accountant": accountant_version(),
        "observers": {name: epsilons.as_dict() for name, epsilons in ledger.epsilons().items()},
    }


def event_to_json(release: AnyRelease) -> dict[str, Any]:
    """A release as typed JSON, one key a parameter."""
    if isinstance(release, NoGuarantee):
        return {"type": "no-guarantee", **asdict(release)}
    sampling = {k: v for k, v in asdict(release.sampling).items() if v is not None}
    return {"type": "gaussian", **asdict(release), "sampling": sampling}


def events_from_json(events: Iterable[Mapping[str, Any]]) -> list[AnyRelease]:
    """The releases that :func:`event_to_json` wrote.

    Raises:
        PrivetError: for a type that this version does not know.
    """
    releases: list[AnyRelease] = []
    for event in events:
        fields = {k: v for k, v in event.items() if k != "type"}
        if event.get("type") == "no-guarantee":
            releases.append(NoGuarantee(**fields))
        elif event.get("type") == "gaussian":
            shares = Shares(**fields["shares"]) if fields.get("shares") else None
            releases.append(
                Release(**{**fields, "sampling": Sampling(**fields["sampling"]), "shares": shares})
            )
        else:
            raise PrivetError(
                "unknown type of event",
                field="events",
                given=event.get("type"),
                allowed="gaussian, no-guarantee",
            )
    return releases
