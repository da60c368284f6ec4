"""What a plan says is what the finished run's ledger, statement and byte counts say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.toy import DIMENSION, WideTrainer, config, examples, federation, split
from support.toy_runs import gatherer

import privet.cast
import privet.runs
from privet import plan
from privet.cli.plan_view import plan_view
from privet.config import Config, to_yaml
from privet.errors import PrivetError
from privet.model_size import ModelSize

CLIENT = {"unit": "client", "relation": "zero-out"}
DP_LORA = {"system": {"kind": "dp_lora"}, "sealing": {"kind": "none"}, "schedule": {"local": {"steps": 3}}}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four silos of toy records, and the toy's dimension in place of a model's."""
    silos = [SimpleNamespace(name=f"silo{i}") for i in range(4)]
    dataset = SimpleNamespace(silos=silos, test={}, test_public=False, public=[1], size=80)
    monkeypatch.setattr(plan, "load_data", lambda config: dataset)
    everything = (np.arange(DIMENSION, dtype=np.int64),)
    monkeypatch.setattr(plan, "model_size", lambda config: ModelSize(1000, 800, DIMENSION, everything))
    monkeypatch.setattr(privet.cast, "gather", gatherer(4))


def real(**sections: Any) -> Config:
    return config(insecure_test_seed=None, **sections)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"privacy": CLIENT},
        {"privacy": {"noise_multiplier": None, "target_epsilon": 2.0}},
        DP_LORA,
        {"system": {"kind": "fedavg"}, "privacy": None},
    ],
)
def test_a_plan_promises_what_the_run_then_has(sections: dict[str, Any], tmp_path: Path) -> None:
    asked = real(**sections)
    planned = plan.make(asked).as_dict()
    assert planned["refusals"] == []
    result = privet.runs.start(asked, to_yaml(asked), tmp_path / "run")
    assert result["stopped"] is None
    statement = json.loads((tmp_path / "run" / "privacy.json").read_text(encoding="utf-8"))
    if asked.privacy is None:
        assert statement["epsilon"] == "none"
        assert all(row["epsilon"] is None and row["reason"] for row in planned["observers"])
    else:
        found = {name: (row["value"], row["method"]) for name, row in statement["epsilon"].items()}
        assert {row["observer"]: (row["epsilon"], row["method"]) for row in planned["observers"]} == found
        assert planned["noise_multiplier"] == statement["noise_multiplier"]
        assert (planned["unit"], planned["relation"], planned["delta"]) == tuple(
            statement[name] for name in ("unit", "relation", "delta")
        )
    assert planned["rounds"] == result["rounds"]
    assert planned["trained_values"] == DIMENSION


@pytest.mark.parametrize(
    ("seal", "size"),
    [
        ("none", 30_000),
        ("masked", 30_000),
        ("encrypted", 30_000),
        ("encrypted+masked", 30_000),
        ("ckks", 3000),
    ],
)
@pytest.mark.parametrize(("codec", "optimiser"), [("identity", "average"), ("prune", "adam")])
def test_planned_bytes_are_those_that_travel(
    seal: str, size: int, codec: str, optimiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 2 %, keys, signatures, the sealed state and its mask included; 11 rounds are two epochs of keys."""
    monkeypatch.setattr(plan, "model_size", lambda config: ModelSize(10**6, 10**6, size, (np.arange(size),)))
    schedule = {
        "rounds": 11,
        "sampling_rate": None,
        "expected_batch": None,
        "server": {"kind": optimiser, "learning_rate": 1.0},
    }
    pruned = {"kind": "prune", "start_round": 2, "start_rate": 0.2, "end_rate": 0.7}
    asked = config(
        system={"kind": "fedshield"},
        privacy=None,
        sealing={"kind": seal},
        schedule=schedule,
        codec=pruned if codec == "prune" else {"kind": codec},
    )
    planned = plan.make(asked).as_dict()
    f = federation(asked, split(examples(40), 4), trainer=WideTrainer, dimension=size)
    f.engine.run(f.server.steps())
    assert f.server.progress.number == 11
    for way in ("up", "down"):
        each = getattr(f.engine, f"bytes_{way}") / (11 * 4)
        assert planned[f"bytes_{way}_per_client_round"] == pytest.approx(each, rel=0.02), way


def test_a_plan_for_another_epsilon() -> None:
    planned = plan.make(real(), target_epsilon=1.5).as_dict()
    worst = max(row["epsilon"] for row in planned["observers"] if row["inside_trust_model"])
    assert 1.4 < worst <= 1.5
    with pytest.raises(PrivetError) as caught:
        plan.make(real(system={"kind": "fedavg"}, privacy=None), target_epsilon=1.5)
    assert caught.value.field == "--epsilon"
    assert caught.value.hint


def test_refusals_come_before_the_run() -> None:
    planned = plan.make(real(privacy={"noise_multiplier": 0.5, "max_epsilon": 0.1})).as_dict()
    assert any("budget" in reason for reason in planned["refusals"])
    insecure = plan.make(config()).as_dict()
    assert all(
        row["epsilon"] is None and "insecure_test_seed" in row["reason"] for row in insecure["observers"]
    )


def test_noise_over_signal() -> None:
    """sigma C sqrt(D) over the expected batch at full length, to the rounding of the grid."""
    planned = plan.make(real(privacy={"clip_norm": 0.5, "noise_multiplier": 2.0})).as_dict()
    assert planned["noise_norm"] == pytest.approx(2.0 * 0.5 * DIMENSION**0.5, rel=0.02)
    assert planned["largest_signal"] == pytest.approx(40 * 0.5)
    assert planned["noise_to_signal"] == pytest.approx(planned["noise_norm"] / planned["largest_signal"])


def test_noise_over_the_expected_signal() -> None:
    """The mean of clipped units adds up to n kappa C; kappa is declared, or what public records gave."""
    noisy = real(privacy={"clip_norm": "public", "noise_multiplier": 2.0})
    planned = plan.make(noisy).as_dict()
    assert planned["coherence_source"] == "declared"
    assert planned["expected_signal"] == pytest.approx(plan.COHERENCE["record"] * 40)
    assert planned["noise_to_expected_signal"] == pytest.approx(
        planned["noise_to_signal"] / plan.COHERENCE["record"]
    )
    measured = plan.make(noisy, measured=plan.PublicSignal(clip_norm=0.5, coherence=0.1)).as_dict()
    assert measured["coherence_source"] == "measured on public records"
    assert measured["expected_signal"] == pytest.approx(0.1 * 0.5 * 40)
    assert measured["noise_to_expected_signal"] == pytest.approx(measured["noise_norm"] / 2.0)
    assert measured["noise_norm"] == pytest.approx(2.0 * 0.5 * DIMENSION**0.5, rel=0.02)


def test_the_ratio_follows_rate_rounds_code_and_epsilon() -> None:
    def ratio(epsilon: float, **sections: Any) -> float:
        return float(plan.make(real(**sections), epsilon).as_dict()["noise_to_expected_signal"])

    schedule = {"rounds": 4, "sampling_rate": 0.2, "expected_batch": 40}
    base = ratio(2.0)
    assert ratio(1.0) > base
    assert ratio(2.0, schedule=schedule | {"rounds": 16}) > base
    # Twice the rate is twice the records, at less than twice the noise.
    assert ratio(2.0, schedule=schedule | {"sampling_rate": 0.4, "expected_batch": 80}) < base
    code = {"kind": "random_projection", "ratio": 4}
    assert ratio(2.0, codec=code) == pytest.approx(base / 2, rel=0.05)


def test_the_view_says_both_ratios_and_how_the_server_steps() -> None:
    server = {"learning_rate": 20.0, "warmup_rounds": 2, "decay": "linear"}
    schedule = {"rounds": 4, "sampling_rate": 0.2, "expected_batch": 40, "server": server}
    planned = plan.make(real(schedule=schedule)).as_dict()
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*plan_view(planned))
    shown = console.export_text()
    assert "adam, rate 20 after 2 rounds of warm-up, linear decay to zero" in shown
    assert f"{planned['noise_to_signal']:.4g} (norms, in one round)" in shown
    assert f"{planned['noise_to_expected_signal']:.4g} (coherence 0.1, declared)" in shown


def test_nothing_to_see_has_no_ratio_and_no_noise_no_signal() -> None:
    unseen = plan.make(real(), measured=plan.PublicSignal(1.0, 0.0)).as_dict()
    assert unseen["expected_signal"] == 0
    assert unseen["noise_to_expected_signal"] is None
    assert "coherence" not in plan.make(real(system={"kind": "fedavg"}, privacy=None)).as_dict()
