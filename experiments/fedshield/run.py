"""FedShield-LLM sealed, unsealed and as published: what each costs, and that sealing changes nothing else.

Run ``python -m experiments.fedshield.run``; a run that was cut off goes on with the next row.

Every row runs `examples/fedshield.yaml` (four silos, one of which drops out) under another sealing level with the same
seeds. The sound rows must end with bit-equal adapters, or the study stops: integers on one grid are added, wherever
that happens. The faithful row is the paper's setting: CKKS, each client its own mask, dense ciphertexts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from experiments.fedshield.table import markdown
from experiments.study import ROOT, Results
from scipy.stats import binomtest

from privet.config import Config, parse, read_yaml
from privet.engines.local import Tap
from privet.federation import Federation, Secrets, federate
from privet.lora import factors_of
from privet.material import Material, codec_schedule, gather
from privet.measure import measure
from privet.messages import ROUND
from privet.pipeline import Floats
from privet.resolve import resolve
from privet.work import ExampleLike, LocalConfig, Trainer, Workplace

HERE = Path(__file__).parent
SOUND = ("none", "masked", "encrypted", "encrypted+masked")
SETTINGS = (*SOUND, "faithful")


@dataclass
class Timed:
    """A trainer that counts the CPU seconds of local training, so that the rest of a run can be told apart."""

    trainer: Trainer
    seconds: float = field(default=0.0)

    @property
    def dimension(self) -> int:
        """Trained values."""
        return self.trainer.dimension

    def set_flat(self, flat: Floats) -> None:
        """See `Trainer`."""
        self.trainer.set_flat(flat)

    def per_unit_gradients(
        self, examples: Sequence[ExampleLike], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        """See `Trainer`; not counted, since no row uses it."""
        return self.trainer.per_unit_gradients(examples, micro_batch)

    def mean_gradient(self, examples: Sequence[ExampleLike]) -> Floats:
        """See `Trainer`; not counted, since no row uses it."""
        return self.trainer.mean_gradient(examples)

    def train_locally(
        self, flat: Floats, examples: Sequence[ExampleLike], local: LocalConfig, seed: bytes
    ) -> Floats:
        """See `Trainer`."""
        started = time.process_time()
        try:
            return self.trainer.train_locally(flat, examples, local, seed)
        finally:
            self.seconds += time.process_time() - started


def configured(study: dict[str, Any], setting: str, seed: int, cache: Path | None) -> Config:
    """The example under a sealing level and a test seed, which all its secrets follow from."""
    raw = read_yaml(ROOT / "examples" / study["example"])
    raw |= {"insecure_test_seed": seed, "model": {"name": study["model"]}, "sealing": {"kind": setting}}
    raw["schedule"]["rounds"] = study["rounds"]
    raw["engine"] |= {"threads": 1, "cache_folder": str(cache) if cache else None}
    if setting == "faithful":
        raw["system"] |= {"faithful": True, "own_mask": study["own_mask"]}
        raw |= {"sealing": {"kind": "ckks"}, "codec": {"kind": "identity"}}
    return parse(raw)


def federation(config: Config, material: Material, trainer: Trainer, seed: int, tap: Tap) -> Federation:
    """The parties of one row; ``tap`` sees all that travels."""
    backbone = material.trainer.backbone
    resolved = resolve(
        config,
        dimension=backbone.dimension,
        parties=len(material.silos),
        factors=factors_of(backbone.layout),
    )
    places = [
        Workplace(name, trainer, examples, config.engine.micro_batch)
        for name, examples in material.silos.items()
    ]
    secrets = [Secrets.of_test_seed(seed, party) for party in range(len(places))]
    schedule = codec_schedule(config, material)
    return federate(resolved, places, secrets, backbone.initial_flat(), schedule, run="fedshield", tap=tap)


def measured(material: Material, config: Config, flat: Floats) -> dict[str, Any]:
    """Accuracy over all public test records with its 95 % Wilson interval, and mean NLL with its standard error."""
    silos = list(measure(material, flat, config.engine.micro_batch))
    records = np.array([row["records"] for row in silos])
    right = round(sum(row["accuracy"] * row["records"] for row in silos))
    interval = binomtest(right, int(records.sum())).proportion_ci(method="wilson")
    errors = np.array([row["nll_se"] for row in silos]) * records
    return {
        "records": int(records.sum()),
        "accuracy": right / int(records.sum()),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "nll": float(np.average([row["nll"] for row in silos], weights=records)),
        "nll_se": float(np.sqrt(np.square(errors).sum()) / records.sum()),
    }


def run(study: dict[str, Any], material: Material, setting: str, seed: int) -> dict[str, Any]:
    """One row: a whole run and what it gave."""
    config = configured(study, setting, seed, None)
    trainer = Timed(material.trainer)
    contributions: list[int] = []

    def tap(op: str, party: int, question: bytes, answer: bytes) -> None:
        if op == ROUND:
            contributions.append(len(answer))

    f = federation(config, material, trainer, seed, tap)
    survivors: list[int] = []
    f.server.observe = lambda kind, facts: (
        survivors.append(len(facts["survivors"])) if kind == "round" else None
    )
    wall, cpu = time.monotonic(), time.process_time()
    progress = f.engine.run(f.server.steps())
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    if progress.stopped is not None or len(survivors) != study["rounds"]:
        raise RuntimeError(f"{setting} did not come to its end: {progress.stopped}")
    contributed = len(contributions)  # a client that is away sends nothing and gets nothing
    epsilon = f.server.ledger.epsilon()
    return {
        "setting": setting,
        "seed": seed,
        "sealing": config.sealing.kind,
        "dimension": material.trainer.dimension,
        "survivors": survivors,
        **measured(material, config, f.flat),
        "bytes_up": f.engine.bytes_up,
        "bytes_down": f.engine.bytes_down,
        "bytes_of_first_contribution": contributions[0],
        "bytes_of_last_contribution": contributions[-1],
        "bytes_up_a_client_round": round(f.engine.bytes_up / contributed),
        "bytes_down_a_client_round": round(f.engine.bytes_down / contributed),
        "wall_seconds": wall,
        "training_cpu_seconds": trainer.seconds,
        "other_cpu_seconds": cpu - trainer.seconds,
        "epsilon": "none" if epsilon.reason else epsilon.headline.value,
        "reason": epsilon.reason,
        "adapter_sha256": hashlib.sha256(f.flat.tobytes()).hexdigest(),
    }


def require_equal_adapters(rows: Sequence[dict[str, Any]]) -> None:
    """Stop unless the sound rows of each seed end with one and the same adapter.

    Raises:
        RuntimeError: if sealing changed a bit.
    """
    for seed in sorted({row["seed"] for row in rows}):
        found = {
            r["setting"]: r["adapter_sha256"] for r in rows if r["seed"] == seed and r["setting"] in SOUND
        }
        if len(set(found.values())) > 1:
            raise RuntimeError(f"seed {seed}: sealed and unsealed adapters differ: {found}")


def main() -> None:
    """All rows of the configuration, the check, and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "prefix", help="hidden states are kept here"
    )
    options = parser.parse_args()
    study = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    results = Results(HERE / "results" / "smollm2.json", study)
    missing = [
        (s, seed) for seed in study["seeds"] for s in SETTINGS if not results.has(setting=s, seed=seed)
    ]
    if missing:
        material = gather(configured(study, "none", 0, options.cache))
        if not results.has(setting="base"):
            base = measured(
                material, configured(study, "none", 0, None), material.trainer.backbone.initial_flat()
            )
            results.add({"setting": "base", "seed": "", **base})
        for setting, seed in missing:
            row = run(study, material, setting, seed)
            results.add(row)
            print(f"seed {seed}, {setting}: accuracy {row['accuracy']:.4f}, NLL {row['nll']:.4f}", flush=True)
    require_equal_adapters([row for row in results.rows if row["setting"] != "base"])
    (HERE / "results" / "table.md").write_text(markdown(results.rows), encoding="utf-8")
    print(markdown(results.rows))


if __name__ == "__main__":
    main()
