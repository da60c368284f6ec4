"""How far one record moves the summed contributions of the others through the arithmetic of their micro-batch.

    python benchmarks/company.py examples/hedge.yaml engine.threads=1

Gradients are clipped to their median norm C and rounded to the grid of the run with equal randomness, with and without
the record that leaves. With ``engine.deterministic_units=true`` nothing moves; what that costs is measured on draws of
one silo's records, in turn with free micro-batches.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from privet.clip import clip_rows
from privet.config import load
from privet.fixed_point import round_units
from privet.material import gather
from privet.mechanism import GaussianMechanism
from privet.tokenise import Example

FLOOR = 3
DRAW, REPEATS = 32, 30
"""Records of a draw, as many as a silo of the example draws on average; draws that are timed."""


def main(path: str, overrides: Sequence[str]) -> None:
    """Measure both cases and print a line for each."""
    config = load(Path(path), overrides)
    material = gather(config)
    trainer = material.trainer
    generator = np.random.default_rng(1)
    flat = trainer.backbone.initial_flat()
    trainer.set_flat(flat + (0.02 * generator.standard_normal(len(flat))).astype(np.float32))
    examples = sorted((e for silo in material.silos.values() for e in silo), key=len)

    def gradients(batch: Sequence[Example]) -> dict[str, np.ndarray]:
        rows = trainer.per_unit_gradients(batch, config.engine.micro_batch)
        return {name: row.copy() for names, part in rows for name, row in zip(names, part, strict=True)}

    def measure(what: str, batch: Sequence[Example], gone: int) -> None:
        full, rest = gradients(batch), gradients([e for k, e in enumerate(batch) if k != gone])
        clip = float(np.median([np.linalg.norm(row) for row in full.values()]))
        grid = GaussianMechanism(clip, 1.0, len(flat), FLOOR).grid
        keys = [hashlib.sha256(name.encode()).digest() for name in rest]
        with_it, without = (
            clip_rows(np.stack([each[name] for name in rest]), clip)[0] for each in (full, rest)
        )
        moved = np.linalg.norm((with_it - without).sum(axis=0, dtype=np.float64)) / clip
        integers = round_units(with_it, grid, keys).sum(axis=0) - round_units(without, grid, keys).sum(axis=0)
        steps = float(np.linalg.norm(integers.astype(np.float64))) / grid.bound
        changed = int((with_it != without).any(axis=1).sum())
        print(f"{what}: {changed} of {len(rest)} others change; their sum by {moved:.4f} C, {steps:.4f} Δ")

    quarter = len(examples) // 4
    alike = examples[quarter : quarter + 31]
    lengths = f"{len(alike[0])} to {len(alike[-1])} tokens beside one of {len(examples[-1])}"
    measure(f"31 records of {lengths}, which leaves", [*alike, examples[-1]], 31)
    some = [examples[i] for i in sorted(generator.choice(len(examples), 65, replace=False))]
    for gone in (5, 40):
        measure(f"65 records at random, number {gone} by length leaves", some, gone)

    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + REPEATS):
        drawn = [examples[i] for i in sorted(generator.choice(len(examples), DRAW, replace=False))]
        trainer.backbone.warm(drawn)
        for fixed, seconds in taken.items():
            trainer.backbone.deterministic_units = fixed
            start = time.perf_counter()
            gradients(drawn)
            seconds.append(time.perf_counter() - start)
    ratios = np.array(taken[True][1:]) / np.array(taken[False][1:])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"{DRAW} records at random: shapes of their own length take {middle:.2f} times free micro-batches' time "
        f"(quartiles {low:.2f} and {high:.2f}, {REPEATS} draws)"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
