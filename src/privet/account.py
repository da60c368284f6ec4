"""The calculator behind ``privet account FILE``: releases in a YAML file, epsilon by every accountant out.

A run's ``dp_event.json`` and ``privacy.json`` are taken too, and accounted again by `privet.privacy.ledger.reaccount`.

.. code-block:: yaml

    unit: record                # or client
    relation: add-remove        # zero-out, add-remove or replace-one
    delta: 1.0e-5
    releases:
      - {kind: gaussian, sigma: 1.0, count: 100, sampling: {kind: poisson, rate: 0.1}}
      - {kind: gaussian, sigma: 20.0, shares: {parties: 10, survivors: 7}}

``sigma`` is the noise's standard deviation over the norm C that each unit's vector is clipped to, whatever
the relation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from privet.config import Problem, Section, read_yaml
from privet.config_problems import wrong_value
from privet.errors import PrivetError
from privet.privacy.accountants import accountant_version, compute
from privet.privacy.events import (
    UNITS,
    AnyRelease,
    NoGuarantee,
    Relation,
    Release,
    Sampling,
    Shares,
    Unit,
    unknown_sampling,
)
from privet.privacy.ledger import SCHEMA as EVENTS
from privet.privacy.ledger import Ledger, reaccount
from privet.privacy.statement import SCHEMA as STATEMENT

_EXAMPLE = "docs/privacy-ledger.md shows a whole file"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AccountError(PrivetError):
    """All mistakes in a file of releases."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{count}\n{lines}", field=source, hint=_EXAMPLE)


class NoSampling(Section):
    """Every unit takes part."""

    kind: Literal["none"] = "none"

    def sampling(self) -> Sampling:
        """As it is accounted."""
        return Sampling.none()


class PoissonSampling(Section):
    """Each unit takes part independently; batches are not truncated."""

    kind: Literal["poisson"]
    rate: float = Field(gt=0, le=1, description="Probability that a unit takes part.")

    def sampling(self) -> Sampling:
        """As it is accounted."""
        return Sampling.poisson(self.rate)


class FixedSampling(Section):
    """Exactly ``size`` of ``population`` units, uniformly without replacement, anew for each release."""

    kind: Literal["fixed"]
    size: int = Field(ge=1, description="Units drawn.")
    population: int = Field(ge=1, description="Units drawn from, a public number.")

    @model_validator(mode="after")
    def _size_fits(self) -> FixedSampling:
        if self.size > self.population:
            raise ValueError(f"size {self.size} is larger than population {self.population}")
        return self

    def sampling(self) -> Sampling:
        """As it is accounted."""
        return Sampling.fixed(self.size, self.population)


class NoiseShares(Section):
    """Noise put together by several parties, each with 1/sqrt(``parties``) of sigma's standard deviation."""

    parties: int = Field(ge=1, description="Shares that make up the whole noise.")
    survivors: int = Field(ge=0, description="Shares that are in the sum.")
    subtract_own: bool = Field(False, description="The observer gave one share and takes it off.")

    @model_validator(mode="after")
    def _survivors_fit(self) -> NoiseShares:
        if self.survivors > self.parties:
            raise ValueError(f"survivors {self.survivors} are more than parties {self.parties}")
        return self


class GaussianRelease(Section):
    """Gaussian noise on a sum of clipped vectors, ``count`` times."""

    kind: Literal["gaussian"]
    name: str = Field("gaussian", description="What was released; does not change the cost.")
    sigma: Positive = Field(description="Noise multiplier: standard deviation over the clip norm.")
    count: int = Field(1, ge=1, description="How many times.")
    sampling: Annotated[NoSampling | PoissonSampling | FixedSampling, Field(discriminator="kind")] | None = (
        Field(None, description="Absent: every unit takes part.")
    )
    shares: NoiseShares | None = Field(None, description="Absent: the noise is whole.")
    delta_prime: float = Field(0.0, ge=0, lt=1, description="Total variation distance of one release.")
    cohort: str | None = Field(None, description="Name of a fixed, disjoint part of the units.")

    def release(self) -> Release:
        """As it is accounted."""
        sampling = (self.sampling or NoSampling()).sampling()
        shares = Shares(**self.shares.model_dump()) if self.shares else None
        return Release(self.name, self.sigma, self.count, sampling, self.delta_prime, shares, self.cohort)


class UnprotectedRelease(Section):
    """Something released without noise; epsilon becomes ``none``."""

    kind: Literal["unprotected"]
    name: str = Field("unprotected", description="What was released.")
    reason: str = Field("released without noise", description="Why no finite epsilon covers it.")

    def release(self) -> NoGuarantee:
        """As it is accounted."""
        return NoGuarantee(self.name, self.reason)


def _hyphens(value: object) -> object:
    return value.replace("_", "-").replace("/", "-") if isinstance(value, str) else value


class AccountFile(Section):
    """A file of releases about one data set."""

    unit: Unit = Field(description=f"Whose data is hidden: {', '.join(UNITS)}.")
    relation: Annotated[Relation, BeforeValidator(_hyphens)] = Field(description="Neighbouring relation.")
    delta: float = Field(gt=0, lt=1, description="The delta to promise.")
    releases: tuple[Annotated[GaussianRelease | UnprotectedRelease, Field(discriminator="kind")], ...] = (
        Field(min_length=1, description="Everything that was released, in any order.")
    )


def account(path: Path) -> dict[str, Any]:
    """Epsilon of the releases in a YAML file, or in a run's ``dp_event.json`` or ``privacy.json``, ready for JSON.

    Returns:
        ``epsilon`` (``exact``, ``pld``, ``rdp``, ``clt``, each a number or ``None``; the word ``"none"`` if
        there is no finite one), ``headline`` (``value``, ``method``), and what the numbers mean: ``unit``,
        ``relation``, ``delta``, ``delta_prime``, ``observer``, ``accountant``; of a run also
        ``observers``, the same by observer.

    Raises:
        PrivetError: if the file cannot be read.
        AccountError: naming every mistake in it.
    """
    raw = read_yaml(path, hint=_EXAMPLE)
    if raw.get("schema") in (EVENTS, STATEMENT):
        return _account_stored(path)
    return account_for(raw, str(path))


def _account_stored(path: Path) -> dict[str, Any]:
    """Epsilon of a run's ``dp_event.json`` or ``privacy.json``, of the worst observer first."""
    try:
        # As JSON, not as YAML, which takes 1e-05 for text
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] == STATEMENT:
            stored = _events_of(stored)
        computed, ledger = reaccount(stored), Ledger.from_json(stored)
    except (ValueError, KeyError, TypeError) as error:
        raise PrivetError(
            "is damaged", field=str(path), given=str(error), allowed="dp_event.json or privacy.json of a run"
        ) from None
    worst = ledger.trust.worst
    return {
        **computed["observers"][worst.name],
        "unit": ledger.unit,
        "observer": f"{worst.name}, the worst inside the trust model: {worst.description}",
        "accountant": computed["accountant"],
        "observers": computed["observers"],
    }


def _events_of(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger that a privacy statement was made of."""
    # A test seed's statement has none though every release is noised
    void = statement["epsilon"] == "none" and all(r["type"] != "no-guarantee" for r in statement["releases"])
    return {
        **{key: statement[key] for key in ("unit", "relation", "delta", "budget_epsilon")},
        "schema": EVENTS,
        "trust": {key: value for key, value in statement["trust_model"].items() if key != "text"},
        "events": statement["releases"],
        **({"no_guarantee": statement["reason"]} if void else {}),
    }


def account_for(raw: Mapping[str, Any], source: str = "releases") -> dict[str, Any]:
    """As :func:`account`, for a mapping that is already loaded."""
    try:
        file = AccountFile.model_validate(raw)
    except ValidationError as e:
        problems = [_problem(error) for error in e.errors(include_url=False) if not _follows(error)]
        raise AccountError(source, problems) from None
    releases: list[AnyRelease] = [entry.release() for entry in file.releases]
    return {
        **compute(releases, file.delta, file.relation).as_dict(),
        "unit": file.unit,
        "observer": "whoever sees the releases as the file describes them",
        "accountant": accountant_version(),
    }


_TAGS = frozenset({"gaussian", "unprotected", "none", "poisson", "fixed"})


def _follows(error: Any) -> bool:
    """Whether an error only says again that entries of a list are wrong."""
    return error["type"] == "too_short" and bool(error.get("input"))


def _problem(error: Any) -> Problem:
    path = ".".join(str(part) for part in error["loc"] if part not in _TAGS) or "file"
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        tag, allowed = context["tag"], context["expected_tags"].replace("'", "")
        if path.endswith("sampling"):
            refusal = unknown_sampling(tag)
            hint = f" ({refusal.hint})" if refusal.hint else ""
            return Problem(f"{path}.kind", refusal.message + hint, tag, refusal.allowed)
        return Problem(f"{path}.kind", "unknown kind of release", tag, allowed)
    if error["type"] in ("missing", "union_tag_not_found"):
        return Problem(path if error["type"] == "missing" else f"{path}.kind", "is missing")
    if error["type"] == "extra_forbidden":
        return Problem(path, "unknown key", error.get("input"))
    return wrong_value(path, error)
