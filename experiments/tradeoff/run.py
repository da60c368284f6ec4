"""Utility against noise: hedge, local noise, codecs and controls on one grid of learning rates.

Run ``python -m experiments.tradeoff.run``; ``--count`` says how many of the declared runs stand. A study that was
cut off goes on where it stopped, run by run. Add ``--minutes`` to stop after some time, ``--parts`` for some parts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.study import ROOT, Results
from experiments.tradeoff.setups import (
    Setup,
    best_rate,
    declared,
    grid_rows,
    missing_searches,
    searched_of,
    setups,
)

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "smollm2.json"


def read_study() -> dict[str, Any]:
    """The declaration."""
    study: dict[str, Any] = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    return study


def open_results(study: Mapping[str, Any]) -> Results:
    """The result file. Its hash covers what all runs share; each row names its own set-up besides."""
    return Results(RESULTS, {name: study[name] for name in ("base", "tasks")})


class Study:
    """The loop over set-ups, with one loaded model at a time."""

    def __init__(self, study: dict[str, Any], cache: Path, go_on: Callable[[], bool]) -> None:
        self.study, self.cache, self.go_on = study, cache, go_on
        self.results = open_results(study)
        self.all = list(setups(study))
        self._loaded: tuple[str, Any] = ("", None)
        self._flats: dict[tuple[float, int], tuple[dict[str, Any], Any]] = {}

    def run(self, parts: str) -> None:
        """Every set-up of some parts, as long as time is left."""
        for setup in self.all:
            if setup.part in parts and self.go_on():
                self._setup(setup)

    def _setup(self, setup: Setup) -> None:
        if setup.silos == "nobody":
            if not self.results.has(setup=setup.identity):
                self._zero_shot(setup)
            return
        self._flats.clear()
        while setup.rates and (
            left := missing_searches(self.results.rows, setup, self.study["most_extensions"])
        ):
            for rate, seed in left:
                if not self.go_on():
                    return
                self._search(setup, rate, seed)
        rate = self._chosen(setup)
        for seed in setup.seeds:
            done = self.results.has(setup=setup.identity, rate=rate, seed=seed, stage="final")
            if rate is not None and not done and self.go_on():
                self._finish(setup, rate, seed)

    def _chosen(self, setup: Setup) -> float | None:
        """The set-up's rate, or that of the one it follows; ``None`` while that one's search is not done."""
        if setup.fixed_rate is not None:
            return setup.fixed_rate
        searched = searched_of(setup, self.all)
        rows = self.results.rows
        if missing_searches(rows, searched, self.study["most_extensions"]):
            return None
        return best_rate(grid_rows(rows, searched))

    def _zero_shot(self, setup: Setup) -> None:
        from experiments.tradeoff import runner

        ground = self._ground(setup)
        flat = ground.material.trainer.backbone.initial_flat()
        measured = {**runner.validate(ground, setup, flat), **runner.test(ground, flat)}
        self._add(setup, {**runner.named(setup, None, None, "final"), "rounds": 0, **measured})

    def _search(self, setup: Setup, rate: float, seed: int) -> None:
        from experiments.tradeoff import runner

        ground = self._ground(setup)
        row, flat = runner.train(ground, setup, rate, seed, final=False)
        if not setup.trains_anew:
            self._flats[rate, seed] = (row, flat)
        self._add(setup, {**row, **runner.validate(ground, setup, flat)})

    def _finish(self, setup: Setup, rate: float, seed: int) -> None:
        from experiments.tradeoff import runner

        ground = self._ground(setup)
        if (rate, seed) in self._flats:
            row, flat = self._flats[rate, seed]  # the same run, bit for bit
        else:
            row, flat = runner.train(ground, setup, rate, seed, final=True)
        self._add(setup, {**row, "stage": "final", **runner.test(ground, flat)})

    def _add(self, setup: Setup, row: Mapping[str, Any]) -> None:
        self.results.add(row)
        losses = ", ".join(f"{on} {row[on]['nll']}" for on in ("validation", "test") if on in row)
        seconds = f"{row.get('seconds', 0):.0f} s"
        print(
            f"{setup.part} {setup.name}: rate {row['rate']}, seed {row['seed']}: {losses}, {seconds}",
            flush=True,
        )

    def _ground(self, setup: Setup) -> Any:
        from experiments.tradeoff import runner

        config = setup.config(1.0, 0)
        engine = config.engine.model_copy(update={"cache_folder": str(self.cache)})
        config = config.model_copy(update={"engine": engine})
        key = config.model_dump_json(include={"model", "data", "lora", "evaluation"})
        if self._loaded[0] != key:
            self._loaded = ("", None)  # give the memory back before the next model is loaded
            self._loaded = (key, runner.prepare(config))
        return self._loaded[1]


def count(study: Mapping[str, Any]) -> list[str]:
    """One line a part: trainings declared, those that stand, and those that a grid's edge added."""
    lines, everything = [], list(setups(study))
    anew = {setup.identity for setup in everything if setup.trains_anew}
    grids = {setup.identity: setup.rates for setup in everything if setup.rates}
    trainings: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in sorted(open_results(study).rows, key=lambda r: r["stage"] == "final"):
        # At the chosen rate, a seed of the search is not trained again.
        stage = row["stage"] if row["setup"] in anew else ""
        trainings.setdefault((row["setup"], row["rate"], row["seed"], stage), row)
    for part, number in declared(study).items():
        own = [r for r in trainings.values() if r["part"] == part]
        added = sum(r["stage"] == "grid" and r["rate"] not in grids[r["setup"]] for r in own)
        lines.append(f"part {part}: {len(own) - added} of {number} declared, {added} added at a grid's edge")
    return lines


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", action="store_true", help="say how many runs stand, and stop")
    parser.add_argument("--parts", default="ABCDEFG", help="parts to run")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so long")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "prefix", help="frozen layers' states")
    given = parser.parse_args()
    study = read_study()
    if given.count:
        print("\n".join(count(study)))
        return
    started = time.monotonic()
    print("\n".join(count(study)), flush=True)
    Study(study, given.cache, lambda: time.monotonic() - started < 60 * given.minutes).run(given.parts)
    print("\n".join(count(study)), flush=True)


if __name__ == "__main__":
    main()
