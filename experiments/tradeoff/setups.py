"""What the study runs, declared before the first run starts: families of set-ups, rates, seeds, and their number.

A set-up is one family at one noise multiplier. It meets every rate of the grid with its search seeds. While the rate
of least mean validation loss is the grid's edge, the grid grows by a factor of two on that side. The rate that is
chosen so is then run with the other seeds too, and only these runs meet the test records.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privet.config import Config, NoSealing, parse

NOMINAL = 0.01
"""Below this multiplier the noise is nominal: the run stands for one without noise."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Setup:
    """One family at one noise multiplier.

    Attributes:
        part: Part of the study, A to G. Set-ups run in the order of ``families``, in which parts alternate.
        family: Name.
        noise: Noise multiplier; ``None`` where there is no noise.
        raw: Configuration without rate and seed.
        silos: Who holds the training records: ``silos`` as the data come, ``pooled`` in one place, ``public`` for
            the public records alone, ``clients`` for one client an article, a number for so many of them, or
            ``nobody``.
        share: Share of the training records.
        local_rate: Whether the rate is that of local steps too.
        rate_of: Family whose chosen rate is taken over; ``None`` searches.
        fixed_rate: Rate that was declared instead of searched.
        rates: Grid; empty where nothing is searched.
        search_seeds: Seeds at every rate of the grid.
        seeds: Seeds at the chosen rate.
        task: Name of the task.
    """

    part: str
    family: str
    noise: float | None
    raw: dict[str, Any] = field(repr=False)
    silos: str | int
    share: float
    local_rate: bool
    rate_of: str | None
    fixed_rate: float | None
    rates: tuple[float, ...]
    search_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    task: str

    @property
    def name(self) -> str:
        """Family and noise."""
        return self.family if self.noise is None else f"{self.family}, noise {self.noise:g}"

    @property
    def identity(self) -> str:
        """Hash of all that a row of this set-up depends on besides rate and seed."""
        facts = [self.raw, self.silos, self.share, self.local_rate]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def config(self, rate: float, seed: int) -> Config:
        """The run's configuration: under a test seed, and unsealed, because sealed and unsealed runs are equal.

        Records share micro-batches, which takes a third of the time; all set-ups are measured alike.
        """
        own: dict[str, Any] = {"server": {"learning_rate": rate}}
        if self.local_rate:
            own["local"] = {"learning_rate": rate}
        raw = merged(self.raw, {"schedule": own, "insecure_test_seed": seed})
        config = parse(raw, self.name)
        engine = config.engine.model_copy(update={"deterministic_units": False})
        return config.model_copy(update={"sealing": NoSealing(), "engine": engine})

    def declared(self) -> int:
        """Trainings, without those that a grid's edge may add."""
        if self.silos == "nobody":
            return 1
        if not self.rates:
            return len(self.seeds)
        again = 0 if self.trains_anew else len(set(self.seeds) & set(self.search_seeds))
        return len(self.rates) * len(self.search_seeds) + len(self.seeds) - again

    @property
    def trains_anew(self) -> bool:
        """Whether the final runs use more records than the grid's: only the control, which learns from public ones."""
        return self.silos == "public"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid over it, section by section; a ``kind`` that changes replaces its section."""
    result = dict(base)
    for name, value in over.items():
        old = result.get(name)
        changed = isinstance(value, Mapping) and isinstance(old, Mapping) and "kind" in value
        if changed and old is not None and value["kind"] != old.get("kind"):
            result[name] = dict(value)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            result[name] = merged(old, value)
        else:
            result[name] = value
    return result


def setups(study: Mapping[str, Any]) -> Iterator[Setup]:
    """All set-ups in the order in which they run."""
    for family in study["families"]:
        task = family.get("task", "sentiment")
        base = merged(merged(study["base"], study["tasks"][task]), family.get("set", {}))
        silos = family.get("silos", "silos")
        searched = silos != "nobody" and not {"rate_of", "rate"} & set(family)
        for noise in family.get("noises", [None]):
            raw = base
            if noise is not None:
                raw = merged(base, {"privacy": {"noise_multiplier": noise}})
            yield Setup(
                part=family["part"],
                family=family["name"],
                noise=noise,
                raw=raw,
                silos=silos,
                share=family.get("share", 1.0),
                local_rate=family.get("local_rate", False),
                rate_of=family.get("rate_of"),
                fixed_rate=family.get("rate"),
                rates=tuple(family.get("rates", study["rates"])) if searched else (),
                search_seeds=tuple(family.get("search_seeds", study["search_seeds"])),
                seeds=tuple(family.get("seeds", study["seeds"])),
                task=task,
            )


def declared(study: Mapping[str, Any]) -> dict[str, int]:
    """Declared runs of each part; a run that two parts name counts in the first."""
    counts: dict[str, int] = {}
    seen: set[tuple[str, float | None, int]] = set()
    for setup in setups(study):
        number = setup.declared()
        keys = {(setup.identity, setup.fixed_rate, seed) for seed in setup.seeds}
        if setup.rate_of is not None:
            number = len(keys - seen)
        seen |= keys
        counts[setup.part] = counts.get(setup.part, 0) + number
    return counts


def searched_of(setup: Setup, everything: Sequence[Setup]) -> Setup:
    """The set-up whose search chooses the rate: itself, or that of the family it follows."""
    if setup.rate_of is None:
        return setup
    return next(s for s in everything if s.family == setup.rate_of and s.noise == setup.noise and s.rates)


def grid_rows(rows: Sequence[Row], setup: Setup) -> list[Row]:
    """Rows of the search, by rising rate."""
    found = [r for r in rows if r["setup"] == setup.identity and r["stage"] == "grid"]
    return sorted(found, key=lambda r: r["rate"])


def best_rate(rows: Sequence[Row]) -> float:
    """The rate of the least mean validation loss among rows of one search; a loss that is no number is the worst."""
    losses: dict[float, list[float]] = {}
    for row in rows:
        value = row["validation"]["nll"]
        losses.setdefault(float(row["rate"]), []).append(math.inf if value is None else float(value))
    return min(losses, key=lambda rate: sum(losses[rate]) / len(losses[rate]))


def missing_searches(rows: Sequence[Row], setup: Setup, most_extensions: int) -> list[tuple[float, int]]:
    """Rates and seeds that the search still needs: those declared, else one rate beyond an edge with the optimum."""
    done = {(float(r["rate"]), int(r["seed"])) for r in grid_rows(rows, setup)}
    rates = sorted({*setup.rates, *(rate for rate, _ in done)})
    if left := [(rate, seed) for rate in rates for seed in setup.search_seeds if (rate, seed) not in done]:
        return left
    if not setup.rates or len(rates) - len(setup.rates) >= most_extensions:
        return []
    best = best_rate(grid_rows(rows, setup))
    beyond = 2 * best if best == max(rates) else best / 2 if best == min(rates) else None
    return [] if beyond is None else [(beyond, seed) for seed in setup.search_seeds]
