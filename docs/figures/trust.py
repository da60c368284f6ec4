"""Draw ``docs/figures/trust.svg``: what each group of colluding parties learns under each sealing level.

    python docs/figures/trust.py

The file is the same every time.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

NOTHING, SUM, ALL, LAST = "nothing", "the sum", "each\ncontribution", "the last\ncontribution"
COLOURS = {NOTHING: "#dfeee3", SUM: "#fbeec6", ALL: "#f3c3b6", LAST: "#f3c3b6"}
COALITIONS = (
    "the server\nalone",
    "one client\nalone",
    "the server and\none client",
    "a cheating server and\nmore than a third",
    "all clients\nbut one",
)
LEVELS: dict[str, tuple[str, ...]] = {
    "none": (ALL, SUM, ALL, ALL, LAST),
    "masked": (SUM, SUM, SUM, ALL, LAST),
    "encrypted": (NOTHING, SUM, ALL, ALL, LAST),
    "encrypted+masked": (NOTHING, SUM, SUM, ALL, LAST),
    "ckks": (NOTHING, SUM, ALL, ALL, LAST),
}


def draw(path: Path) -> None:
    """Write the figure."""
    mpl.rcParams["svg.hashsalt"] = "privet"
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = plt.subplots(figsize=(8.6, 4.0))
    for row, (level, cells) in enumerate(LEVELS.items()):
        axes.text(-0.08, row + 0.5, level, ha="right", va="center", fontsize=10, family="monospace")
        for column, cell in enumerate(cells):
            axes.add_patch(
                Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, facecolor=COLOURS[cell], edgecolor="none")
            )
            axes.text(column + 0.5, row + 0.5, cell, ha="center", va="center", fontsize=9)
    for column, coalition in enumerate(COALITIONS):
        axes.text(column + 0.5, -0.12, coalition, ha="center", va="bottom", fontsize=9)
    axes.set_xlim(-1.45, len(COALITIONS))
    axes.set_ylim(len(LEVELS), -0.85)
    axes.set_axis_off()
    axes.text(-1.45, -0.12, "Who acts together:", ha="left", va="bottom", fontsize=9, style="italic")
    figure.tight_layout(pad=0.3)
    figure.savefig(path, metadata={"Date": None, "Creator": "docs/figures/trust.py"})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
