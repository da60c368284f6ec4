"""Figure of the study from its result file: ``python -m experiments.reconstruction.figure --model smollm2``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from experiments.study import arguments

HERE = Path(__file__).parent
MARKS = "osv^DPX<>*"
PANELS = {
    "mean_std": "stage-1 statistics, or less",
    "exact": "exact or public updates",
}


def main() -> None:
    """Cosine against ratio, one panel for statistics and one for updates; the control in both."""
    import matplotlib.pyplot as plt

    given = arguments(__doc__ or "")
    stored = json.loads((HERE / "results" / f"{given.model}.json").read_text(encoding="utf-8"))
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in stored["rows"]:
        if "cosine" in row:
            found[row["codec"]][row["ratio"]].append(row["cosine"])
    ratios = stored["config"]["ratios"]
    figure, panels = plt.subplots(1, 2, figsize=(12, 6.5), sharey=True)
    for panel, (side, title) in zip(panels, PANELS.items(), strict=True):
        index = 0
        for codec, points in sorted(found.items(), key=lambda item: -np.mean(item[1][min(item[1])])):
            prior = codec.split("/")[0]
            known = prior in {"exact", "public"}
            if prior != "nothing" and known != (side == "exact"):
                continue
            there = sorted(points)
            means = [float(np.mean(points[r])) for r in there]
            name = codec.replace("/", ": ").replace("mean_std", "mean + std")
            if codec == "nothing/random projection":
                panel.plot(there, means, "k--", label=name, zorder=3)
                continue
            panel.plot(there, means, MARKS[index], ls="-", color=f"C{index}", label=name, markersize=5)
            index += 1
        panel.set_xscale("log", base=2)
        panel.set_xticks(ratios, [f"{r}x" for r in ratios])
        panel.set_title(f"learned from {title}")
        panel.set_xlabel("ratio D/k")
        panel.grid(alpha=0.3)
        panel.legend(
            fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12), title="made from: codec"
        )
    panels[0].set_ylabel("cosine to the update, held-out clients")
    figure.suptitle(f"Reconstruction of single LoRA updates, {given.model}; mean over seeds")
    figure.tight_layout()
    figure.savefig(HERE / "results" / f"{given.model}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
