"""Figure of the study from its result file: ``python -m experiments.cosine.figure --model smollm2``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from experiments.study import arguments

HERE = Path(__file__).parent


def main() -> None:
    """One bar a codec and noise multiplier; on the right with the public mean direction taken out."""
    import matplotlib.pyplot as plt

    given = arguments(__doc__ or "")
    stored = json.loads((HERE / "results" / f"{given.model}.json").read_text(encoding="utf-8"))
    noises = stored["config"]["noises"]
    found: dict[tuple[bool, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in stored["rows"]:
        if "cosine" in row:
            found[row["removed"], row["codec"]][row.get("noise", 0.0)].append(row["cosine"])
    names = sorted({codec for _, codec in found}, key=lambda c: np.mean(found[False, c].get(noises[-1], [0])))
    figure, panels = plt.subplots(1, 2, figsize=(13, 0.42 * len(names) + 1.5), sharey=True)
    places, height = np.arange(len(names)), 0.8 / len(noises)
    for panel, removed in zip(panels, (False, True), strict=True):
        for index, noise in enumerate(noises):
            values = [float(np.mean(found[removed, name].get(noise, [np.nan]))) for name in names]
            panel.barh(
                places + (len(noises) / 2 - index - 0.5) * height, values, height, label=f"z = {noise:g}"
            )
        panel.set_title("public mean direction removed" if removed else "whole update")
        panel.set_xlabel("cosine to the true mean update")
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(places, names, fontsize=8)
    panels[1].legend()
    clients = stored["config"]["updates"]["clients"]
    figure.suptitle(f"Mean of {clients} clients' LoRA updates under client-level noise, {given.model}")
    figure.tight_layout()
    figure.savefig(HERE / "results" / f"{given.model}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
