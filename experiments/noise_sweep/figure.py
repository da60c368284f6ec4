"""Figure of the study from its result file: ``python -m experiments.noise_sweep.figure --model smollm2``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from experiments.noise_sweep.run import best_rate
from experiments.study import arguments

HERE = Path(__file__).parent
MARKS = {"dr_encoder": "o", "random_projection": "s", "count_sketch": "^", "no codec": "x"}


def main() -> None:
    """Test loss against epsilon, mean and range over seeds; on the right the search for the rate."""
    import matplotlib.pyplot as plt

    given = arguments(__doc__ or "")
    stored = json.loads((HERE / "results" / f"{given.model}.json").read_text(encoding="utf-8"))
    study, rows = stored["config"], stored["rows"]
    epsilons, methods = study["epsilons"], study["methods"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
    base = next(r for r in rows if r["method"] == "untrained")
    left.axhline(base["test_nll"], color="grey", ls="--", label="base model (rate 0)")
    for index, method in enumerate(methods):
        for at, epsilon in enumerate(epsilons):
            chosen = {"method": method, "epsilon": epsilon, "final": True}
            chosen["rate"] = best_rate(rows, method, epsilon, study["seeds"][0])
            found = [r["test_nll"] for r in rows if chosen.items() <= r.items()]
            label = method.replace("_", " ") if at == len(epsilons) - 1 else None
            place = at + 0.12 * (index - (len(methods) - 1) / 2)
            style = {"color": f"C{index}", "label": label, "capsize": 3, "fmt": MARKS[method]}
            if not found:
                # Its best rate is 0.
                left.errorbar(place, base["test_nll"], markerfacecolor="white", **style)
                continue
            mean = float(np.mean(found))
            left.errorbar(place, mean, [[mean - min(found)], [max(found) - mean]], **style)
    left.set_xticks(range(len(epsilons)), ["none" if e is None else f"{e:g}" for e in epsilons])
    left.set_xlabel("ε (client, zero-out, δ = 1e-5); none: no clip, no noise; hollow: best not trained")
    left.set_ylabel("test loss, nats: mean and range over seeds")
    left.legend()
    left.grid(alpha=0.3)
    for index, method in enumerate(methods):
        for epsilon, style in zip(epsilons, (":", "-.", "--", "-"), strict=False):
            search = sorted(
                (r["rate"], r["validation_nll"])
                for r in rows
                if not r["final"] and (r["method"], r["epsilon"]) == (method, epsilon)
            )
            if search:
                right.plot(*zip(*search, strict=True), ls=style, color=f"C{index}", marker=".")
    right.axhline(base["validation_nll"], color="grey", ls="--")
    right.set_xscale("log", base=2)
    rates = sorted({r["rate"] for r in rows} - {0.0})
    right.set_xticks(rates, [f"{rate:g}" for rate in rates])
    lowest = min(r["validation_nll"] for r in rows)
    right.set_ylim(lowest - 0.01, 2 * base["validation_nll"] - lowest + 0.04)
    right.set_xlabel("server rate (one grid for all)")
    right.set_ylabel("validation loss, nats (what is far above is cut off)")
    names = ["none" if e is None else f"{e:g}" for e in epsilons]
    right.set_title("search, one seed; dotted to solid: ε = " + ", ".join(names), fontsize=9)
    right.grid(alpha=0.3)
    figure.suptitle(
        f"{study['silos']} clients, {study['ratio']}x compression, {given.model}, {study['rounds']} rounds"
    )
    figure.tight_layout()
    figure.savefig(HERE / "results" / f"{given.model}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
