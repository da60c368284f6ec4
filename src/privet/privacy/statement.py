"""The privacy statement of a run, ``privacy.json``: what is promised, to whom, how it was found, what is not
covered.

No epsilon stands in it without its observer, unit, relation and delta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from privet.privacy.accountants import Epsilons, accountant_version
from privet.privacy.events import NoGuarantee, Release
from privet.privacy.ledger import Ledger, event_to_json
from privet.privacy.observers import Observer

SCHEMA = "privet.privacy/1"

NOT_COVERED: tuple[str, ...] = (
    "Search over hyper-parameters, clip norms or models on the private data: every further run is another "
    "release.",
    "Groups: k records of one person, where the unit is a record, have the weaker guarantee of a group of k.",
    "Side channels: the time a round takes, the size of its messages, and dropouts that depend on data.",
    "Integrity: a participant who sends wrong values can spoil the model, though not weaken the others' "
    "guarantee by more than its own noise share.",
    "Ends that follow from what was told: epsilon counts the releases that were made as if their number had been fixed "
    "before. If the run was stopped, or a round tried again, because of what earlier ones told, budget_epsilon is "
    "what holds; where there is none, nothing this small does.",
    "Facts about the population, which a model may learn and reveal whether or not anybody took part.",
)

_HIDDEN = {"record": "one training record", "client": "all that one client holds"}
_NEIGHBOURS = {
    "zero-out": "whether it counted or was zero",
    "add-remove": "whether it was there",
    "replace-one": "which of any two values it had",
}


def privacy_statement(
    ledger: Ledger,
    *,
    mechanism: str,
    clip_norm: float | None,
    noise_multiplier: float | None,
    not_covered: Sequence[str] = (),
    fewest_survivors: int | None = None,
    void: str | None = None,
) -> dict[str, Any]:
    """``privacy.json`` of a run.

    Args:
        ledger: Everything the run released.
        mechanism: The mechanism in words, e.g. ``sum of clipped per-record gradients + rounded Gaussian
            shares``.
        clip_norm: L2 bound of one unit's contribution; ``None`` where nothing is clipped.
        noise_multiplier: sigma as configured or calibrated; ``None`` where nothing is noised.
        not_covered: What else this run's guarantee leaves out, beside ``NOT_COVERED``.
        fewest_survivors: Fewest contributions in any opened sum, for the diagnostic.
        void: Why the run promises nothing whatever its ledger says (`Config.void`).

    Returns:
        A JSON value of schema ``privet.privacy/1``; docs/privacy-ledger.md describes its keys. ``epsilon`` is
        the word
        ``none``, with ``reason``, if the worst observer inside the trust model has no finite epsilon.
    """
    table = ledger.epsilons()
    guarantee = table[ledger.trust.worst.name]
    sampling = {event["sampling"]["kind"]: event["sampling"] for event in _events(ledger, Release)}
    diagnostic: dict[str, Any] = {"fewest_survivors": fewest_survivors, "epsilon": None}
    if fewest_survivors is not None and ledger.trust.noise == "shares":
        diagnostic["epsilon"] = {
            name: value if math.isfinite(value) else "none"
            for name, value in ledger.diagnostic(fewest_survivors).items()
        }
    statement = {
        "schema": SCHEMA,
        "unit": ledger.unit,
        "relation": ledger.relation,
        "delta": ledger.delta,
        "delta_prime": guarantee.delta_prime,
        "epsilon": "none"
        if guarantee.reason
        else {o.name: _row(o, table[o.name]) for o in ledger.trust.observers()},
        **({"reason": guarantee.reason} if guarantee.reason else {}),
        "guarantee": _sentence(ledger, guarantee),
        **({"stages": stages} if len(stages := ledger.stages()) > 1 else {}),
        "budget_epsilon": ledger.budget_epsilon,
        "mechanism": mechanism,
        "clip_norm": clip_norm,
        "noise_multiplier": noise_multiplier,
        "sampling": list(sampling.values()),
        "releases": [event_to_json(release) for release in ledger.releases],
        "accountant": accountant_version(),
        "trust_model": {**ledger.trust.to_json(), "text": ledger.trust.describe()},
        "diagnostic": diagnostic,
        "not_covered": [*NOT_COVERED, *not_covered],
    }
    return statement if void is None else without_guarantee(statement, void)


def without_guarantee(statement: dict[str, Any], reason: str) -> dict[str, Any]:
    """The statement of a run that promises nothing whatever its ledger says."""
    kept = {name: value for name, value in statement.items() if name != "stages"}
    return {
        **kept,
        "epsilon": "none",
        "reason": reason,
        "guarantee": f"none: {reason}",
        "diagnostic": {**statement["diagnostic"], "epsilon": None},
    }


def _events(ledger: Ledger, kind: type[Release | NoGuarantee]) -> list[dict[str, Any]]:
    return [event_to_json(release) for release in ledger.releases if isinstance(release, kind)]


def _row(observer: Observer, epsilons: Epsilons) -> dict[str, Any]:
    headline = epsilons.headline
    row: dict[str, Any] = {
        "value": "none" if headline.value is None else headline.value,
        "method": headline.method,
        "exact": epsilons.exact,
        "pld": epsilons.pld,
        "rdp": epsilons.rdp,
        "clt": epsilons.clt,
        "observer": observer.description,
        "inside_trust_model": observer.inside,
    }
    if epsilons.clt is not None:
        row["clt_note"] = epsilons.as_dict()["clt_note"]
    return row | ({"reason": epsilons.reason} if epsilons.reason else {})


def rounded_up(value: float) -> str:
    """Four significant digits, never below the value: a sentence must not promise more than was proved."""
    exact = Decimal(value)
    if exact == 0:
        return "0"
    step = Decimal(1).scaleb(exact.adjusted() - 3)
    return f"{exact.quantize(step, rounding=ROUND_CEILING):f}"


def _sentence(ledger: Ledger, guarantee: Epsilons) -> str:
    if guarantee.reason:
        return f"No finite epsilon: {guarantee.reason}."
    return (
        f"epsilon = {rounded_up(guarantee.value)} ({guarantee.headline.method}) at delta = {ledger.delta:g} for "
        f"{_HIDDEN[ledger.unit]} ({ledger.relation}: {_NEIGHBOURS[ledger.relation]}), against the worst "
        f"observer that the trust model allows: {ledger.trust.worst.description}."
    )
