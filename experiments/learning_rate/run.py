"""The server's learning rate for the examples, chosen on public records alone.

Run ``python -m experiments.learning_rate.run``.

The public part of the embedded data is cut in two by record: `hedge` trains on one half, in one silo with noise of
about the examples' multiplier, and is measured on the other. No record of a silo, of test or of validation data
is looked at, so the choice costs no privacy and the test figures of the examples are not the ones it was made on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from experiments.study import ROOT, Results

from privet.config import Config, NoSealing, parse, read_yaml
from privet.federation import Secrets, federate
from privet.lora import factors_of
from privet.material import Material, codec_schedule, gather, questions
from privet.measure import score
from privet.public_clip import public_clip_norm
from privet.resolve import resolve
from privet.work import Workplace

HERE = Path(__file__).parent


def configured(study: dict[str, Any], rate: float, sampled: float, seed: int) -> Config:
    """The example with the study's numbers; unsealed, one silo, under a test seed: it promises nothing."""
    raw = read_yaml(ROOT / "examples" / "hedge.yaml")
    raw["insecure_test_seed"] = seed
    raw["lora"]["layers"] = {"top": study["layers"]}
    raw["schedule"] |= {"rounds": study["rounds"], "sampling_rate": sampled, "expected_batch": study["batch"]}
    raw["schedule"]["server"]["learning_rate"] = rate
    raw["privacy"] |= {"noise_multiplier": study["noise_multiplier"], "trust": {"colluders": 0}}
    raw["engine"] |= {"threads": 1}
    del raw["privacy"]["target_epsilon"]
    return parse(raw).model_copy(update={"sealing": NoSealing()})


def measure_rate(
    study: dict[str, Any], material: Material, clip: float, rate: float, seed: int
) -> dict[str, Any]:
    """Train on the first half of the public records, measure on the second."""
    started = time.monotonic()
    train, held_out = material.public[::2], material.dataset.public[1::2]
    config = configured(study, rate, min(1.0, study["batch"] / len(train)), seed)
    backbone = material.trainer.backbone
    resolved = resolve(
        config, dimension=backbone.dimension, parties=1, clip_norm=clip, factors=factors_of(backbone.layout)
    )
    place = Workplace("public", material.trainer, train, config.engine.micro_batch)
    f = federate(
        resolved,
        [place],
        [Secrets.of_test_seed(seed, 0)],
        backbone.initial_flat(),
        codec_schedule(config, material),
        run="learning rate",
    )
    f.engine.run(f.server.steps())
    material.trainer.set_flat(f.flat)
    row = score(material, questions(config, held_out, material), config.engine.micro_batch)
    return {"rate": rate, "seed": seed, **row, "seconds": time.monotonic() - started}


def main() -> None:
    """All rates and seeds of the configuration; rows that exist are not measured again."""
    study = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    results = Results(HERE / "results" / "smollm2.json", study)
    config = configured(study, 1.0, 0.5, 0)
    material = gather(config)
    clip = public_clip_norm(config, material)
    for seed in study["seeds"]:
        for rate in study["rates"]:
            if not results.has(rate=rate, seed=seed):
                row = measure_rate(study, material, clip, rate, seed)
                results.add(row)
                print(
                    f"rate {rate}, seed {seed}: NLL {row['nll']:.4f}, accuracy {row['accuracy']:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
