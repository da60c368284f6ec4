"""How the study's server optimiser was chosen: trials at one noise, judged on public records alone.

Run ``python -m experiments.tradeoff.pilot``; a pilot that was cut off goes on where it stopped. What is tried stands in
``pilot.json``, in the order in which it was thought of.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.study import ROOT, Results
from experiments.tradeoff.run import HERE, read_study
from experiments.tradeoff.setups import Setup, merged, setups

RATE_OF_A_RECORD = 0.009 / 128
"""Sampling rate over expected batch, as in the study."""


def tried(trial: Mapping[str, Any], study: Mapping[str, Any]) -> Setup:
    """The study's first set-up of `hedge` with a trial's schedule, optimiser and noise."""
    base = next(setup for setup in setups(study) if setup.family == "hedge")
    server = {name: trial[name] for name in ("momentum", "decay", "warmup_rounds")}
    schedule = {
        "rounds": trial["rounds"],
        "expected_batch": trial["batch"],
        "sampling_rate": trial["batch"] * RATE_OF_A_RECORD,
        "server": server,
    }
    over = {"schedule": schedule, "privacy": {"noise_multiplier": trial["noise"]}}
    return replace(base, noise=trial["noise"], raw=merged(base.raw, over))


def main() -> None:
    """Train every trial that is missing and measure it on the public records."""
    from experiments.tradeoff import runner

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "prefix", help="frozen layers' states")
    cache = parser.parse_args().cache
    study = read_study()
    declared = json.loads((HERE / "pilot.json").read_text(encoding="utf-8"))
    results = Results(HERE / "results" / "pilot.json", {"pilot": "server optimiser"})
    ground = None
    for trial in declared["trials"]:
        setup = tried(trial, study)
        for seed in trial["seeds"]:
            row = {name: value for name, value in trial.items() if name != "seeds"} | {"seed": seed}
            if results.has(**row):
                continue
            if ground is None:
                config = setup.config(1.0, 0)
                engine = config.engine.model_copy(update={"cache_folder": str(cache)})
                ground = runner.prepare(config.model_copy(update={"engine": engine}))
            started = time.monotonic()
            _, flat = runner.train(ground, setup, trial["rate"], seed, final=False)
            row |= {
                **runner.validate(ground, setup, flat),
                "seconds": round(time.monotonic() - started, 1),
            }
            results.add(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
