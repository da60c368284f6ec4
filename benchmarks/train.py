"""Training speed of `Backbone` beside a plain peft loop; prints a table, or JSON with ``--json``.

Run: python benchmarks/train.py [--json] [--threads N] [--model NAME] [--factors both|freeze_a] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import sys

from privet.bench_train import Workload, bench_train
from privet.model_config import ModelConfig


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--model", default=ModelConfig().name)
    parser.add_argument("--factors", choices=["both", "freeze_a"], default="both")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    workload = Workload(layers=args.layers, factors=args.factors, threads=args.threads, repeats=args.repeats)
    found = bench_train(
        ModelConfig(name=args.model), workload, observe=lambda text: print(text, file=sys.stderr, flush=True)
    )
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for row in found["rows"]:
        private = f"  x {row['over_non_private']} of non-private" if "over_non_private" in row else ""
        print(
            f"{row['supervision']:7} {row['path']:24} {row['step_seconds']:8.4f} s/step "
            f"{row['tokens_per_second']:9.1f} tokens/s  {row['speedup']:6.2f} x peft "
            f"({row['speedup_cpu']:.2f} x in CPU seconds){private}"
        )
    print(f"filling the cache: {found['fill']['seconds_a_batch']} s a batch")


if __name__ == "__main__":
    main()
