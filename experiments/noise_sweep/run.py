"""Utility against epsilon at a fixed compression: DR-Encoder beside projections to the same size.

Run ``python -m experiments.noise_sweep.run`` (``--model small`` takes minutes where SmolLM2 takes hours).

48 clients, one client as the privacy unit. DR-Encoder pays for its stage 1 out of the same epsilon. One grid of server
rates serves all methods. Its lower end is rate 0, which is the base model and costs no run; where any method's best
rate lies at the upper end it is widened for all, one step each time that this is run. Rates are chosen on public
records that trained and fitted nothing; test records are looked at by runs at the best rate under three seeds (the
first of which is the search's own run). Where the best rate is 0, there is nothing to run: the method at that epsilon
is the base model. Without an epsilon nothing is clipped or noised, and DR-Encoder's statistics are exact. Sums are
opened without masks, which change no bit (tests/integration/test_dr_encoder.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from experiments.study import ROOT, Results, arguments, commit

from privet.codecs import Codec, Sources, build, median_code_norm
from privet.config import Config, NoSealing, parse, read_yaml
from privet.federation import Secrets, federate
from privet.lora import factors_of
from privet.material import Material, Question, codec_schedule, gather, layout_of, questions
from privet.measure import score
from privet.plan import planned_ledger
from privet.resolve import Resolved, resolve
from privet.work import Workplace

HERE = Path(__file__).parent
Study = Mapping[str, Any]
Item = TypeVar("Item")
Cell = tuple[str, float | None, float, int]
"""Method, epsilon, rate and seed."""
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Ground:
    """Loaded model and data.

    Attributes:
        material: Its public records are the half that codecs and clip norms may look at.
        validation: Questions of the other half.
        test: Test questions, equally many of each domain.
        updates: Local updates on blocks of the first half, float32 [n, D], for clip norms.
        kept: Folder with what runs ended with, so that a final run need not repeat that of the search.
    """

    material: Material
    validation: list[Question]
    test: list[Question]
    updates: np.ndarray
    kept: Path


def configured(study: Study, method: str, epsilon: float | None, rate: float, seed: int) -> Config:
    """The example with the study's numbers."""
    raw = read_yaml(ROOT / "examples" / "dr_encoder.yaml")
    encoder = method == "dr_encoder"
    raw |= {"seed": seed, "insecure_test_seed": seed, "model": {"name": study["model"]}}
    raw["data"]["partition"] |= {"silos": study["silos"]}
    raw["data"]["split"] = {"test": 0.09, "public": 0.08}
    raw["lora"] |= {"layers": {"top": study["layers"]}, "factors": study["factors"]}
    raw["schedule"] = {
        "rounds": study["rounds"],
        "local": study["local"],
        "server": {**study["server"], "learning_rate": rate},
    }
    raw["privacy"] |= {"target_epsilon": epsilon, "clip_norm": 1.0}
    if encoder:
        raw["codec"] |= {"ratio": study["ratio"], "allow_useless": True, **study["training"]}
        raw["system"]["faithful"] = epsilon is None
        raw["system"]["statistics"] |= {"releases": study["releases"]}
    else:
        raw["system"] = {"kind": "fedavg" if epsilon is None else "hedge"}
        raw["codec"] = {"kind": "identity"}
        if method != "no codec":
            raw["codec"] = {"kind": method, "ratio": study["ratio"], "allow_useless": True}
    if epsilon is None:
        del raw["privacy"]
    raw["evaluation"] = {"metric": "choices"}
    raw["engine"] = {"threads": 1, "cache_mebibytes": study["cache_mebibytes"], "diagnostics": False}
    return parse(raw)


def prepare(study: Study, cache: Path) -> Ground:
    """Load, and divide the public records in two by group."""
    config = configured(study, "no codec", None, 1.0, 0)
    engine = config.engine.model_copy(update={"cache_folder": str(cache)})
    material = gather(config.model_copy(update={"engine": engine}))
    records = material.dataset.public
    names = sorted({r.group or r.id for r in records})
    fit = set(names[::2])
    first = {r.id for r in records if (r.group or r.id) in fit}
    held_out = [r for r in records if r.id not in first]
    order = np.random.default_rng(0).permutation(len(held_out))[: study["validation"]]
    each = study["test"] // len(material.test)
    test = [q for asked in material.test.values() for q in _drawn(asked, each)]
    material = replace(material, public=[e for e in material.public if e.id in first])
    material.silos = {name: _drawn(held, study["records"]) for name, held in material.silos.items()}
    local, trainer = config.schedule.local, material.trainer
    initial, size = trainer.backbone.initial_flat(), local.steps * local.batch_size
    blocks = [material.public[i : i + size] for i in range(0, len(material.public) - size, size)][:24]
    updates = [trainer.train_locally(initial, block, local, bytes(32)) - initial for block in blocks]
    asked = questions(config, [held_out[i] for i in order], material)
    return Ground(material, asked, test, np.stack(updates), cache.parent / "noise_sweep")


def _drawn(items: Sequence[Item], count: int) -> list[Item]:
    """``count`` of them by a fixed seed: as they come, the embedded data have one label after the other."""
    return [items[i] for i in sorted(np.random.default_rng(0).permutation(len(items))[:count])]


def clip_norm(ground: Ground, config: Config) -> float:
    """Median length of public updates' codes; the autoencoder's codes are as long as updates."""
    if config.system.kind == "dr_encoder":
        return float(np.median(np.linalg.norm(ground.updates, axis=1)))
    codec: Codec = build(config.codec, Sources(layout_of(ground.material)), seed=config.seed)
    return median_code_norm(codec, ground.updates)


def resolved(ground: Ground, config: Config) -> Resolved:
    """The run with its noise, at the clip norm of its codes."""
    layout = ground.material.trainer.backbone.layout
    if config.privacy is not None:
        privacy = config.privacy.model_copy(update={"clip_norm": clip_norm(ground, config)})
        config = config.model_copy(update={"privacy": privacy})
    return resolve(
        config,
        dimension=layout.dimension,
        parties=len(ground.material.silos),
        factors=factors_of(layout),
        layout=layout_of(ground.material),
    )


def measured(study: Study, ground: Ground, cell: Cell, *, final: bool) -> dict[str, Any]:
    """One run: validation metrics, and test metrics of a final one."""
    text = json.dumps([commit(), study, cell], sort_keys=True)
    file = ground.kept / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    if not file.exists():
        row, flat = trained(study, ground, cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, row=json.dumps(row), flat=flat)
    with np.load(file) as stored:
        row, flat = json.loads(str(stored["row"])), stored["flat"]
    if final:
        ground.material.trainer.set_flat(flat)
        row = row | _metrics("test", score(ground.material, ground.test, 32))
    return {**row, "final": final}


def trained(study: Study, ground: Ground, cell: Cell) -> tuple[dict[str, Any], np.ndarray]:
    """One training and its validation metrics."""
    started, (method, epsilon, rate, seed) = time.process_time(), cell
    asked = configured(study, method, epsilon, rate, seed)
    run = resolved(ground, asked)
    plain = replace(run, config=run.config.model_copy(update={"sealing": NoSealing()}))
    material, parties = ground.material, range(len(ground.material.silos))
    told: dict[str, Any] = {}
    f = federate(
        plain,
        [Workplace(n, material.trainer, e, asked.engine.micro_batch) for n, e in material.silos.items()],
        [Secrets.of_test_seed(seed, party) for party in parties],
        material.trainer.backbone.initial_flat(),
        codec_schedule(asked, material, lambda kind, facts: told.update(facts) if kind == "codec" else None),
        run="noise sweep",
    )
    f.engine.run(f.server.steps())
    material.trainer.set_flat(f.flat)
    row: dict[str, Any] = {"method": method, "epsilon": epsilon, "rate": rate, "seed": seed}
    row |= _metrics("validation", score(material, ground.validation, asked.engine.micro_batch))
    if epsilon is not None:
        row |= {"noise_multiplier": run.facts.noise_multiplier, "clip_norm": run.facts.clip_norm}
        row["stages"] = [
            {name: stage[name] for name in ("name", "count", "noise_multiplier", "value")}
            for stage in planned_ledger(run).stages()
        ]
    size = f.server.size
    row |= {"size": size, "dimension": len(f.flat), "cosine": told.get("cosine")}
    return row | {"cpu_seconds": round(time.process_time() - started, 1)}, f.flat


def _metrics(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{metric}": row[metric] for metric in ("nll", "nll_se", "accuracy")}


def untrained(ground: Ground) -> dict[str, Any]:
    """The base model: what rate 0 leaves."""
    ground.material.trainer.set_flat(ground.material.trainer.backbone.initial_flat())
    row = _metrics("validation", score(ground.material, ground.validation, 32))
    return row | _metrics("test", score(ground.material, ground.test, 32))


def best_rate(rows: list[dict[str, Any]], method: str, epsilon: float | None, seed: int) -> float:
    """The rate with the lowest validation loss among the search runs and the base model, whose rate is 0."""
    found = [r for r in rows if (r["method"], r["epsilon"], r["seed"]) == (method, epsilon, seed)]
    found = [r for r in found if not r["final"]] + [r for r in rows if r["method"] == UNTRAINED]
    return float(min(found, key=lambda r: r["validation_nll"])["rate"])


def main() -> None:
    """Search, widen the grid where a best rate lies at its upper end, then the other seeds."""
    given, study = arguments(__doc__ or ""), json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    study |= study.pop("models")[given.model]
    results = Results(HERE / "results" / f"{given.model}.json", study)
    ground = prepare(study, given.updates.parent / "prefix")
    done, first = 0, study["seeds"][0]

    def go(method: str, epsilon: float | None, rate: float, seed: int, final: bool) -> bool:
        nonlocal done
        key = {"method": method, "epsilon": epsilon, "rate": rate, "seed": seed, "final": final}
        if results.has(**key):
            return True
        if done == given.limit:
            return False
        done += 1
        row = measured(study, ground, (method, epsilon, rate, seed), final=final)
        results.add(row)
        print({k: v for k, v in row.items() if k != "stages"}, flush=True)
        return True

    if not results.has(method=UNTRAINED):
        about = {"method": UNTRAINED, "epsilon": None, "seed": first, "final": True, "rate": 0.0}
        results.add(about | untrained(ground))
    cells = [(method, epsilon) for epsilon in study["epsilons"] for method in study["methods"]]
    rates = sorted({*study["rates"], *(r["rate"] for r in results.rows if r["method"] != UNTRAINED)})
    for step in range(study["extensions"] + 1):
        if not all(go(m, e, rate, first, False) for rate in rates for m, e in cells):
            return
        at_edge = [c for c in cells if best_rate(results.rows, *c, first) == max(rates)]
        if step < study["extensions"] and at_edge:
            rates.append(max(rates) * study["factor"])
    for seed in study["seeds"]:
        for method, epsilon in cells:
            rate = best_rate(results.rows, method, epsilon, first)
            if rate and not go(method, epsilon, rate, seed, True):
                return
    print(f"rates {sorted(rates)}; best at the upper end: {at_edge or 'nowhere'}", flush=True)
    assert not math.isnan(sum(r["validation_nll"] for r in results.rows))


if __name__ == "__main__":
    main()
