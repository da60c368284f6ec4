"""What a run releases, as values that can be accounted, stored and compared.

A :class:`Release` is built by the mechanism that runs, from the same object, so what is accounted cannot
drift from what is executed. Nothing here imports the accountant: ``dp_accounting`` is loaded by
:meth:`Release.event` only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from privet.errors import PrivetError

Relation: TypeAlias = Literal["zero-out", "add-remove", "replace-one"]
"""The neighbouring relation: one unit's contribution becomes zero, one joins or leaves, one is swapped."""

Unit: TypeAlias = Literal["record", "client"]
"""Whose presence is hidden: one training record, or everything that one client holds."""

RELATIONS: tuple[Relation, ...] = get_args(Relation)
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Sampling:
    """Which units take part in a release; the draw is fresh and independent for each of them.

    Attributes:
        kind: ``none`` (all take part), ``poisson`` (each independently with probability ``rate``) or
            ``fixed`` (``size`` out of ``population``, uniformly without replacement). Batches are never
            truncated or padded.
        rate: Probability that a unit takes part, in (0, 1], dimensionless; 1 for ``none``.
        size: Units drawn by ``fixed``.
        population: Units that ``fixed`` draws from: a declared public constant.
    """

    kind: Literal["none", "poisson", "fixed"] = "none"
    rate: float = 1.0
    size: int | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("none", "poisson", "fixed"):
            raise unknown_sampling(self.kind)
        if not (math.isfinite(self.rate) and 0 < self.rate <= 1):
            raise PrivetError(
                "a sampling rate is a probability",
                field="sampling.rate",
                given=self.rate,
                allowed="0 < rate <= 1",
            )
        if self.kind == "none" and self.rate != 1:
            raise PrivetError("no sampling means rate 1", field="sampling.rate", given=self.rate, allowed="1")
        if self.kind == "fixed":
            if not (self.size and self.population and 0 < self.size <= self.population):
                raise PrivetError(
                    "fixed-size sampling draws some of the population",
                    field="sampling.size",
                    given=f"size {self.size} of population {self.population}",
                    allowed="1 <= size <= population",
                )
            object.__setattr__(self, "rate", self.size / self.population)
        elif self.size is not None or self.population is not None:
            raise PrivetError(
                f"'{self.kind}' sampling has no size or population",
                field="sampling",
                given=f"size {self.size}, population {self.population}",
                allowed="size and population with kind 'fixed' only",
            )

    @classmethod
    def none(cls) -> Sampling:
        """Every unit takes part in every release."""
        return cls()

    @classmethod
    def poisson(cls, rate: float) -> Sampling:
        """Each unit takes part independently with probability ``rate``."""
        return cls("poisson", rate)

    @classmethod
    def fixed(cls, size: int, population: int) -> Sampling:
        """Exactly ``size`` of ``population`` units take part, drawn uniformly without replacement."""
        return cls("fixed", size / population if 0 < size <= population else 1.0, size, population)

    @property
    def everybody(self) -> bool:
        """Whether all units surely take part, so that sampling amplifies nothing."""
        return self.rate == 1.0


def unknown_sampling(kind: object) -> PrivetError:
    """The refusal of a sampling scheme without a sound account here; shuffling is named, since many ask."""
    shuffled = isinstance(kind, str) and "shuf" in kind.lower()
    return PrivetError(
        "shuffling is not Poisson sampling: it has no account here, and charging it as Poisson under-reports"
        if shuffled
        else "unknown sampling kind",
        field="sampling.kind",
        given=kind,
        allowed="none, poisson, fixed",
        hint="charge epochs in full (kind: none, count: epochs), or sample with Poisson"
        if shuffled
        else None,
    )


@dataclass(frozen=True)
class Shares:
    """Noise put together from equal shares: each party adds 1/sqrt(``parties``) of the standard deviation.

    Attributes:
        parties: Shares that make up the whole noise (the declared floor).
        survivors: Shares that are in the sum.
        subtract_own: The observer gave one of them and takes it off again.
    """

    parties: int
    survivors: int
    subtract_own: bool = False

    def __post_init__(self) -> None:
        if self.parties < 1 or self.survivors < 0:
            raise PrivetError(
                "noise shares need at least one party and no negative number of survivors",
                field="shares",
                given=f"parties {self.parties}, survivors {self.survivors}",
                allowed="parties >= 1, survivors >= 0",
            )

    @property
    def factor(self) -> float:
        """Standard deviation that protects, over the whole noise's: sqrt(survivors' shares / parties)."""
        protecting = self.survivors - (1 if self.subtract_own else 0)
        return math.sqrt(max(protecting, 0) / self.parties)


@dataclass(frozen=True)
class Release:
    """``count`` equal releases: sampled units' vectors of norm at most C, summed, plus N(0, (sigma C)^2 I).

    Attributes:
        name: What was released, e.g. ``stage 2 codes``; two releases that differ in name only cost the same.
        noise_multiplier: sigma, the noise's standard deviation over C, where C bounds one unit's L2 norm: the
            sensitivity under zero-out and add-remove. Under replace-one it is 2 C, and the accountants double
            it.
        count: How many times it was released.
        sampling: Which units took part.
        delta_prime: Upper bound on the total variation distance between one release as it runs and the
            Gaussian above. It costs (1 + e^epsilon) times as much in delta; see ``accountants.compute``.
        shares: How the noise was put together, if from shares; ``None`` if whole.
        cohort: Name of a fixed, data-independent part of the units that alone is touched; ``None`` touches
            all. Parts with different names are disjoint, so a unit pays for its own part only.
    """

    name: str
    noise_multiplier: float
    count: int = 1
    sampling: Sampling = Sampling()
    delta_prime: float = 0.0
    shares: Shares | None = None
    cohort: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise PrivetError(
                "a noise multiplier is positive",
                field=f"release '{self.name}'.noise_multiplier",
                given=self.noise_multiplier,
                allowed="a finite number > 0",
                hint="a release without noise has no finite epsilon: say so with NoGuarantee and the reason",
            )
        if isinstance(self.count, bool) or self.count < 1:
            raise PrivetError(
                "a release happens at least once",
                field=f"release '{self.name}'.count",
                given=self.count,
                allowed=">= 1",
            )
        if not 0 <= self.delta_prime < 1:
            raise PrivetError(
                "a total variation distance is a probability",
                field=f"release '{self.name}'.delta_prime",
                given=self.delta_prime,
                allowed="0 <= delta_prime < 1",
            )

    @property
    def effective_noise_multiplier(self) -> float:
        """sigma that protects: the noise multiplier times the factor of the shares that are in the sum."""
        return self.noise_multiplier * (self.shares.factor if self.shares else 1.0)

    def times(self, count: int) -> Release:
        """The same release, ``count`` times."""
        return replace(self, count=count)

    def scaled(self, factor: float) -> Release:
        """The same release as somebody sees it for whom its noise is ``factor`` times as large."""
        return replace(self, noise_multiplier=self.noise_multiplier * factor)

    def event(self) -> Any:
        """The release as a ``dp_accounting.DpEvent`` for zero-out and add-remove.

        The event's noise multiplier is over C. dp-accounting 0.6.0's RDP accountant keeps C under
        ``REPLACE_ONE`` where the sensitivity is 2 C: never give it this event with that relation.
        """
        import dp_accounting

        event = dp_accounting.GaussianDpEvent(self.effective_noise_multiplier)
        if self.sampling.kind == "poisson":
            event = dp_accounting.PoissonSampledDpEvent(self.sampling.rate, event)
        elif self.sampling.kind == "fixed":
            event = dp_accounting.SampledWithoutReplacementDpEvent(
                self.sampling.population, self.sampling.size, event
            )
        return event if self.count == 1 else dp_accounting.SelfComposedDpEvent(event, self.count)


@dataclass(frozen=True)
class NoGuarantee:
    """A release that no finite epsilon covers, and why; e.g. exact statistics of a client's update."""

    name: str
    reason: str

    def event(self) -> Any:
        """The release as a ``dp_accounting.NonPrivateDpEvent``."""
        import dp_accounting

        return dp_accounting.NonPrivateDpEvent()


AnyRelease: TypeAlias = Release | NoGuarantee
