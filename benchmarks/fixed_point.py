"""CPU seconds of noise, clipping, rounding, sampling and packing; best of seven, one thread, no data needed.

Run: OMP_NUM_THREADS=1 python benchmarks/fixed_point.py [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from privet.clip import clip_rows
from privet.fixed_point import Grid, round_units
from privet.keys import derive
from privet.noise import rounded_gaussian
from privet.packing import pack, unpack
from privet.sampling import poisson_sample

ROOT = bytes(32)
REPEATS = 7


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest run."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def batch(units: int, dimension: int) -> tuple[np.ndarray, Grid, list[bytes]]:
    """Random units with their grid and keys."""
    rows = np.random.Generator(np.random.PCG64(0)).standard_normal((units, dimension)).astype(np.float32)
    return rows, Grid.for_clip(1.0, dimension), [derive(ROOT, i) for i in range(units)]


def measure() -> dict[str, float]:
    """Names of the pieces of work and their CPU seconds."""
    results = {
        f"noise, 1M draws, s = {std:g}": seconds(lambda std=std: rounded_gaussian(std, 10**6, ROOT))
        for std in (4.0, 317.0, 1e4, 1e6)
    }
    for units, dimension in ((256, 12_288), (1, 10**6)):
        rows, grid, keys = batch(units, dimension)
        results[f"clip [{units}, {dimension}]"] = seconds(lambda rows=rows: clip_rows(rows, 1.0))
        clipped, _ = clip_rows(rows, 1.0)
        results[f"round [{units}, {dimension}]"] = seconds(
            lambda clipped=clipped, grid=grid, keys=keys: round_units(clipped, grid, keys)
        )
    results["sample 1M units"] = seconds(lambda: poisson_sample(10**6, 0.01, ROOT))
    for bits in (16, 19, 20, 41):
        values = np.random.Generator(np.random.PCG64(1)).integers(0, 2**bits, 10**6, dtype=np.uint64)
        packed = pack(values, bits)
        results[f"pack 1M values of {bits} bits"] = seconds(
            lambda values=values, bits=bits: pack(values, bits)
        )
        results[f"unpack 1M values of {bits} bits"] = seconds(
            lambda packed=packed, bits=bits: unpack(packed, bits, 10**6)
        )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    found = measure()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"| {name} | {value:.4f} |")
