"""What sealing costs: every level beside FedShield's path, its growth with the vector, and a shared pruning mask.

Run: OMP_NUM_THREADS=1 python benchmarks/sealing.py [--json FILE] [--repeats 5] [--skip-growth]

Growth runs each path and size in a process of its own, once, so that its peak memory is its own. Imports alone
(numpy, TenSEAL, the package) take the memory in the row with 0 values.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from privet.bench_sealing import PATHS, bench_sealing, make_path, measure, row

CLIENTS = 3
VALUES = 1 << 20
GROWTH = (1 << 18, 1 << 20, 1 << 22, 1 << 24)
KEPT = 0.5


def alone(path: str, values: int) -> dict[str, Any]:
    """Cost of one sum, and the peak memory of this process in MiB."""
    way = make_path(path, CLIENTS)
    cost = measure(way, values, CLIENTS) if values else None
    facts: dict[str, Any] = {"path": path, "values": values, "clients": CLIENTS, "peak_mib": peak_mib()}
    if cost is not None:
        facts |= {"encrypt_s": round(cost.seal, 4), "total_s": round(cost.total, 4)}
        facts |= {"upload_bytes": cost.upload, "expansion": round(cost.upload / (4 * values), 4)}
    return facts


def peak_mib() -> int:
    """Peak memory of this process since it began; ``ru_maxrss`` would count its parent's before it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise OSError("this system does not tell a process its peak memory")


def growth() -> Iterator[dict[str, Any]]:
    """`alone` in a fresh process for each path and size."""
    for values in (0, *GROWTH):
        for path in PATHS:
            command = [sys.executable, __file__, "--alone", path, str(values)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            yield json.loads(done.stdout)


def shared_mask(repeats: int) -> Iterator[dict[str, Any]]:
    """Whole vectors beside the half of their coordinates that a mask keeps which is the same for all clients."""
    kept = np.random.default_rng(0).random(VALUES) < KEPT
    for path in PATHS[1:]:
        way = make_path(path, CLIENTS)
        whole = [measure(way, VALUES, CLIENTS) for _ in range(repeats)]
        half = [
            measure(way, VALUES, CLIENTS, lambda vector: vector[kept[: len(vector)]]) for _ in range(repeats)
        ]
        facts = row(path, VALUES, CLIENTS, half, sorted(cost.total for cost in whole)[repeats // 2])
        facts["speedup_over_whole"] = facts.pop("speedup")
        yield {"kept": KEPT, **facts, "bytes_over_whole": round(half[0].upload / whole[0].upload, 4)}


def main() -> None:
    """Print the three tables as they come; with ``--json`` write them to a file as well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-growth", action="store_true")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(alone(options.alone[0], int(options.alone[1]))))
        return
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    result: dict[str, Any] = {"machine": machine}
    tables: dict[str, Iterable[dict[str, Any]]] = {
        "levels": bench_sealing(VALUES, CLIENTS, options.repeats),
        "shared_mask": shared_mask(max(1, options.repeats // 2 | 1)),
    }
    if not options.skip_growth:
        tables["growth"] = growth()
    for name, rows in tables.items():
        print(name)
        result[name] = []
        for facts in rows:
            result[name].append(facts)
            print("  " + "  ".join(f"{key}={value}" for key, value in facts.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
