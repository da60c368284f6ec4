"""The trade-off study: what it declares is what it runs, and searches never meet test records."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import experiments.study
import pytest
from experiments.tradeoff import estimates, run, summary
from experiments.tradeoff.setups import Setup, declared, merged, missing_searches, setups

STUDY = run.read_study()
BLOCKS = 6


class FakeRunner(SimpleNamespace):
    """Trains nothing; the loss is a parabola in log rate whose optimum moves with the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[tuple[str, float, int, bool]] = []

    def prepare(self, config: Any) -> Any:
        backbone = SimpleNamespace(initial_flat=lambda: 0.5)
        return SimpleNamespace(material=SimpleNamespace(trainer=SimpleNamespace(backbone=backbone)))

    def train(
        self, ground: Any, setup: Setup, rate: float, seed: int, *, final: bool
    ) -> tuple[dict[str, Any], float]:
        self.trained.append((setup.identity, rate, seed, final))
        least = (
            setup.rates[0] if setup.rates else 10
        )  # the optimum lies where the grid looks for it, or above
        optimum = math.log(least / 2 * (1 + 8 * (setup.noise or 0)))
        row = self.named(setup, rate, seed, "final" if final else "grid") | {
            "rounds": 1,
            "silos": 1,
            "bytes_up": 8,
        }
        row |= {"seconds": 1.0, "epsilon": None}
        return row, 0.3 + 0.1 * (math.log(rate) - optimum) ** 2 + 0.001 * seed

    def named(self, setup: Setup, rate: float | None, seed: int | None, stage: str) -> dict[str, Any]:
        return {
            "part": setup.part,
            "family": setup.family,
            "noise": setup.noise,
            "rate": rate,
            "seed": seed,
            "stage": stage,
            "setup": setup.identity,
            "task": setup.task,
        }

    def validate(self, ground: Any, setup: Setup, flat: float) -> dict[str, Any]:
        return {"validation": {"nll": flat}}

    def test(self, ground: Any, flat: float) -> dict[str, Any]:
        return {"test": {"nll": flat, "block_nll": [10 * flat] * BLOCKS, "block_records": [10] * BLOCKS}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRunner:
    runner = FakeRunner()
    monkeypatch.setitem(sys.modules, "experiments.tradeoff.runner", runner)  # type: ignore[arg-type]  # as a module
    monkeypatch.setattr("experiments.tradeoff.runner", runner, raising=False)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(experiments.study, "commit", lambda: "0")
    return runner


def go(go_on: Callable[[], bool] = lambda: True, parts: str = "ABCDEFG") -> list[Mapping[str, Any]]:
    study = run.Study(STUDY, Path(), go_on)
    study.run(parts)
    return study.results.rows


def keys(rows: list[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["setup"], r["rate"], r["seed"], r["stage"]) for r in rows]


def test_every_declared_configuration_is_sound() -> None:
    for setup in setups(STUDY):
        config = setup.config(1.0, 0)
        assert config.insecure_test_seed == 0
        if setup.noise is not None:
            assert config.privacy is not None
            assert config.privacy.noise_multiplier == setup.noise


def test_what_is_declared_is_what_runs(fake: FakeRunner) -> None:
    rows = go()
    grids = {setup.identity: setup.rates for setup in setups(STUDY) if setup.rates}
    added = [t for t in fake.trained if not t[3] and t[1] not in grids[t[0]]]
    zero_shots = sum(setup.silos == "nobody" for setup in setups(STUDY))
    assert len(fake.trained) + zero_shots == sum(declared(STUDY).values()) + len(added)
    assert len(set(fake.trained)) == len(fake.trained)
    counts = [re.findall(r"\d+", line) for line in run.count(STUDY)]
    assert [(int(a), int(b)) for a, b, _ in counts] == [(n, n) for n in declared(STUDY).values()]
    assert sum(int(c) for _, _, c in counts) == len(added)
    # Searches never meet the test records.
    assert all(("test" in row) == (row["stage"] == "final") for row in rows)
    results = estimates.found(STUDY, rows)
    assert len(results) == len({(s.family, s.noise) for s in setups(STUDY)})
    assert results["hedge", 1.652].rate == 80.0
    assert len(summary.against_local(results)) == 2 + 2 * 3
    assert all(f.bracketed for f in results.values() if (f.setup.noise or 0) < 3)


def test_a_study_that_was_cut_off_goes_on_without_repeating_a_row(fake: FakeRunner) -> None:
    whole = keys(go(parts="AB"))
    run.RESULTS.unlink()
    for _ in range(20):
        limit = len(fake.trained) + 9
        rows = go(lambda: len(fake.trained) < limit, "AB")  # noqa: B023 - called before the next limit is set
    found = keys(rows)
    assert len(found) == len(set(found))
    assert set(found) == set(whole)


def test_a_grid_grows_at_its_edge_and_no_further_than_allowed() -> None:
    setup = replace(next(s for s in setups(STUDY) if s.rates), rates=(2.5, 5.0, 10.0), search_seeds=(0,))

    def rows(losses: Mapping[float, float | None]) -> list[dict[str, Any]]:
        return [
            {"setup": setup.identity, "stage": "grid", "rate": rate, "seed": 0, "validation": {"nll": loss}}
            for rate, loss in losses.items()
        ]

    assert missing_searches([], setup, 4) == [(rate, 0) for rate in setup.rates]
    assert missing_searches(rows({2.5: 3.0, 5.0: 1.0, 10.0: 2.0}), setup, 4) == []
    assert missing_searches(rows({2.5: 1.0, 5.0: 2.0, 10.0: 3.0}), setup, 4) == [(1.25, 0)]
    assert missing_searches(rows({2.5: 3.0, 5.0: 2.0, 10.0: 1.0}), setup, 4) == [(20.0, 0)]
    assert missing_searches(rows({2.5: 3.0, 5.0: 2.0, 10.0: 1.0}), setup, 0) == []
    assert missing_searches(rows({2.5: 3.0, 5.0: 2.0, 10.0: None}), setup, 4) == []


def test_another_kind_replaces_its_section() -> None:
    base = {"codec": {"kind": "prune", "start_rate": 0.1}, "schedule": {"rounds": 3, "local": {"steps": 2}}}
    over = {"codec": {"kind": "identity"}, "schedule": {"local": {"batch_size": 4}}}
    expected = {
        "codec": {"kind": "identity"},
        "schedule": {"rounds": 3, "local": {"steps": 2, "batch_size": 4}},
    }
    assert merged(base, over) == expected
