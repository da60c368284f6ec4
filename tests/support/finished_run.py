"""The folder of a run that has ended, written file by file as a run writes it, without a model."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from privet.config import parse
from privet.init_template import template
from privet.lora import AdaptedLayer, AdapterLayout, LoraSpec
from privet.mechanism import GaussianMechanism
from privet.privacy.events import NoGuarantee, Sampling
from privet.privacy.ledger import Ledger
from privet.privacy.observers import TrustModel
from privet.privacy.statement import privacy_statement
from privet.run_folder import RunFolder, describe_environment, write_configs

SILOS = ("tweets", "movie", "amazon", "nyt")
ROUNDS = 40
SIGMA, CLIP, RATE, DIMENSION = 0.9, 2.5, 0.0183, 512
LAYOUT = AdapterLayout(
    LoraSpec(rank=4, layers=1),
    (
        AdaptedLayer("model.layers.1.self_attn.q_proj", 16, 16),
        AdaptedLayer("model.layers.1.self_attn.v_proj", 16, 16),
    ),
    ("q_proj", "v_proj"),
    (1,),
)


def finished_run(
    path: Path, system: str = "hedge", *, rounds: int = ROUNDS, stopped: str | None = None, ended: bool = True
) -> Path:
    """Write a run's folder; the numbers are made up, the privacy statement is a real ledger's."""
    folder = RunFolder.create(path)
    text = template(system)
    config = parse(yaml.safe_load(text))
    if config.privacy is not None:
        update = {"noise_multiplier": SIGMA, "clip_norm": CLIP, "max_epsilon": 8.0, "target_epsilon": None}
        config = config.model_copy(update={"privacy": config.privacy.model_copy(update=update)})
    write_configs(folder, text, config)
    folder.write_json("env.json", describe_environment())
    folder.write_json("dp_event.json", _ledger(system, rounds).to_json())
    folder.write_json("privacy.json", _statement(system, rounds))
    generator = np.random.default_rng(5)
    for number in range(rounds):
        folder.append("rounds.jsonl", _round(number, generator))
    for when, shift in (("before", 0.0), ("after", -0.12)) if ended else (("before", 0.0),):
        for index, silo in enumerate(SILOS):
            folder.append("metrics.jsonl", _metric(when, silo, 0.36 + 0.04 * index + shift, generator))
    if ended:
        LAYOUT.save_peft(
            generator.normal(size=LAYOUT.dimension).astype(np.float32), folder / "adapter", "small"
        )
        folder.write_json("result.json", _result(path, system, stopped))
    return path


@lru_cache
def _statement(system: str, rounds: int) -> dict[str, Any]:
    private = system != "fedavg"
    return privacy_statement(
        _ledger(system, rounds),
        mechanism="sum of clipped per-record gradients + rounded Gaussian shares" if private else "none",
        clip_norm=CLIP if private else None,
        noise_multiplier=SIGMA if private else None,
        fewest_survivors=len(SILOS),
    )


def _ledger(system: str, rounds: int) -> Ledger:
    if system == "fedavg":
        return Ledger("record", "add-remove", 1e-5, releases=[NoGuarantee("updates", "they are not noised")])
    trust = TrustModel.local(4) if system == "dp_lora" else TrustModel(4, 4, 1)
    mechanism = GaussianMechanism(CLIP, SIGMA, DIMENSION, trust.floor)
    ledger = Ledger("record", "add-remove", 1e-5, 8.0, trust=trust)
    ledger.charge(
        mechanism.release("sum of gradients", count=max(rounds, 1), sampling=Sampling.poisson(RATE))
    )
    return ledger


def _round(number: int, generator: np.random.Generator) -> dict[str, Any]:
    ledger_std = SIGMA * CLIP
    measured = float(ledger_std * generator.normal(1.0, 0.03))
    row: dict[str, Any] = {
        "schema": 1,
        "round": number,
        "attempt": 1 if number == 7 else 0,
        "survivors": [0, 1, 2, 3],
        "missing": {},
        "direction_norm": float(0.9 + 0.5 * np.exp(-number / 12) + 0.05 * generator.normal()),
        "seconds": float(generator.uniform(0.9, 1.2)),
        "bytes_up": 52_000 * (number + 1),
        "bytes_down": 200_000 * (number + 1),
        "epsilon_so_far": {"server": 1.0 + 0.1 * number},
        "simulated": {
            "sampled": [int(value) for value in generator.binomial([4000, 3600, 3300, 3000], RATE)],
            "noise_std_measured": measured,
            "noise_std_ledger": ledger_std,
            "interval": [0.9 * ledger_std, 1.1 * ledger_std],
            "zeroed_nonfinite": 0,
            "out_of_range": 0,
        },
    }
    return row


def _metric(when: str, silo: str, nll: float, generator: np.random.Generator) -> dict[str, Any]:
    accuracy = 1.12 - nll
    return {
        "schema": 1, "when": when, "round": None, "silo": silo, "records": int(generator.integers(250, 450)),
        "accuracy": accuracy, "accuracy_low": accuracy - 0.03, "accuracy_high": accuracy + 0.03,
        "nll": nll, "nll_se": 0.013,
    }  # fmt: skip


def _result(path: Path, system: str, stopped: str | None) -> dict[str, Any]:
    statement = json.loads((path / "privacy.json").read_text(encoding="utf-8"))
    table = statement["epsilon"] if isinstance(statement["epsilon"], dict) else {}
    return {
        "schema": 1, "run": path.name, "system": system, "stopped": stopped, "rounds": ROUNDS, "seconds": 301.5,
        "bytes_up": 2_080_000, "bytes_down": 8_000_000,
        "before": {"accuracy": 0.70, "nll": 0.42}, "after": {"accuracy": 0.82, "nll": 0.30},
        "epsilon": [
            {"observer": name, "value": row["value"], "method": row["method"], "text": row["observer"]}
            for name, row in table.items()
        ],
        "unit": statement["unit"], "relation": statement["relation"], "delta": statement["delta"],
        "adapter": str(path / "adapter"), "report": str(path / "report.html"),
    }  # fmt: skip
