"""The study's figures from its result file: ``python -m experiments.tradeoff.figure``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from experiments.study import ROOT
from experiments.tradeoff.estimates import LEVELS as EPSILONS
from experiments.tradeoff.estimates import Found, difference, found
from experiments.tradeoff.run import open_results, read_study
from experiments.tradeoff.setups import NOMINAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = ROOT / "docs" / "figures"
BLUE, ORANGE, GREEN, GREY, RED = "#1f5fa8", "#d9741a", "#2b8a3e", "#666666", "#b3261e"
SILOS = (1, 4, 16, 64)
Results = Mapping[tuple[str, float | None], Found]


def curve(results: Results, name: str = "hedge") -> list[Found]:
    """One family by rising noise; noise that is nominal left out."""
    chosen = [
        f
        for (family, noise), f in results.items()
        if family == name and noise is not None and noise > NOMINAL
    ]
    return sorted(chosen, key=lambda f: f.setup.noise or 0.0)


def read_off(results: Results, noise: float) -> tuple[float, float] | None:
    """NLL and its error over seeds at a noise: linear in log noise between the measured levels."""
    points = curve(results)
    levels = [math.log(f.setup.noise or 1.0) for f in points]
    if len(points) < 2 or not math.exp(levels[0]) * 0.999 <= noise <= math.exp(levels[-1]) * 1.001:
        return None
    values = [f.loss().value for f in points]
    errors = [f.loss().over_seeds or 0.0 for f in points]
    at = math.log(noise)
    return float(np.interp(at, levels, values)), float(np.interp(at, levels, errors))


def _curve(axis: Axes, results: Results) -> None:
    points = curve(results)
    noises = [f.setup.noise for f in points]
    losses = [f.loss() for f in points]
    axis.errorbar(
        noises,
        [e.value for e in losses],
        yerr=[e.over_seeds or 0.0 for e in losses],
        color=BLUE,
        marker="o",
        capsize=3,
        label="top 2 layers: mean at the rate that validation chose",
    )
    if deeper := curve(results, "hedge, top 4 layers"):
        axis.errorbar(
            [f.setup.noise for f in deeper],
            [f.loss().value for f in deeper],
            yerr=[f.loss().over_seeds or 0.0 for f in deeper],
            color=ORANGE,
            marker="s",
            ms=4,
            capsize=3,
            linestyle=":",
            label="top 4 layers",
        )
    for f in points:
        axis.scatter([f.setup.noise] * len(f.nll), f.nll, s=9, color=BLUE, alpha=0.45, zorder=3)
    if ("central DP-SGD", 0.424) in results:
        f = results["central DP-SGD", 0.424]
        axis.errorbar(
            [0.424 * 1.11], [f.loss().value], yerr=[f.loss().over_seeds or 0.0], color=RED, marker="^", ms=5,
            capsize=3, linestyle="none", label=f"central DP-SGD, {len(f.rows)} seeds",
        )  # fmt: skip
    axis.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.62))
    lines = {
        ("zero-shot", None): (GREY, "zero-shot"),
        ("public data alone", 0.001): (GREEN, "public data alone, top 2 layers"),
        ("public data alone, top 4 layers", 0.001): (GREEN, "public data alone, top 4 layers"),
        ("hedge", 0.001): (RED, "no noise, top 2 layers"),
    }
    for key, (colour, label) in lines.items():
        if key in results:
            value = results[key].loss().value
            axis.axhline(value, color=colour, linestyle="--", linewidth=1)
            axis.annotate(
                label, (0.985, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=8, color=colour,
            )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks([n or 0.0 for n in noises], [f"{n:g}" for n in noises])
    axis.minorticks_off()
    axis.set_xlabel("noise multiplier σ of the opened sum (n silos with local noise: √n σ)")
    axis.set_ylabel("test NLL in nats")
    axis.set_title("Loss against noise", loc="left", fontsize=10, fontweight="bold")
    for epsilon, sigma in EPSILONS.items():
        axis.axvline(sigma, color=BLUE, alpha=0.25, linewidth=5)
        axis.annotate(
            f"ε = {epsilon}", (sigma, 0.98), xycoords=("data", "axes fraction"), rotation=90, va="top",
            ha="right", fontsize=8, color=BLUE,
        )  # fmt: skip


def _silos(axis: Axes, results: Results) -> None:
    for (epsilon, sigma), colour, shift in zip(EPSILONS.items(), (BLUE, ORANGE), (-0.06, 0.06), strict=True):
        found_at = [(n, read_off(results, math.sqrt(n) * sigma)) for n in SILOS]
        kept = [(n, at) for n, at in found_at if at is not None]
        if not kept:
            continue
        axis.errorbar(
            [SILOS.index(n) + shift for n, _ in kept],
            [at[0] for _, at in kept],
            yerr=[at[1] for _, at in kept],
            color=colour,
            marker="s",
            capsize=3,
            linestyle=":",
            label=f"local noise, ε = {epsilon}",
        )
        first = kept[0][1]
        axis.axhline(
            first[0], color=colour, linewidth=1.2, label=f"hedge, any number of silos, ε = {epsilon}"
        )
    for key, colour in ((("zero-shot", None), GREY), (("public data alone", 0.001), GREEN)):
        if key in results:
            axis.axhline(results[key].loss().value, color=colour, linestyle="--", linewidth=1)
    axis.set_xticks(range(len(SILOS)), [str(n) for n in SILOS])
    axis.set_xlabel("silos n")
    axis.set_title("Shared against local noise at equal ε", loc="left", fontsize=10, fontweight="bold")
    axis.legend(fontsize=7.5, frameon=False)


def _codecs(axis: Axes, results: Results) -> None:
    families = {
        "hedge": (BLUE, "identity, 12,288 values"),
        "hedge, public subspace k=64": (GREEN, "public subspace, 64 values"),
        "hedge, random projection k=64": (ORANGE, "random projection, 64 values"),
        "dr_encoder, k=768": (RED, "dr_encoder's autoencoder, 768 values"),
    }
    measured = (0.424, 0.826, 1.652, 0.453, 0.884, 1.723)
    for place, (family, (colour, label)) in enumerate(families.items()):
        points = sorted(
            (f for (name, noise), f in results.items() if name == family and noise in measured),
            key=lambda f: f.setup.noise or 0.0,
        )
        if points:
            losses = [f.loss() for f in points]
            axis.errorbar(
                [f.rows[0]["epsilon"] * 1.06 ** (place - 1) for f in points],
                [e.value for e in losses],
                yerr=[e.over_seeds or 0.0 for e in losses],
                color=colour,
                marker="o",
                capsize=3,
                label=label,
            )
    for key, colour in ((("zero-shot", None), GREY), (("public data alone", 0.001), GREEN)):
        if key in results:
            axis.axhline(results[key].loss().value, color=colour, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    shown = [0.146, 1, 8]
    axis.set_xticks(shown, ["0.15", "1", "8"])
    axis.minorticks_off()
    axis.set_xlabel("ε, per record, δ = 1e-5")
    axis.set_title("Codecs", loc="left", fontsize=10, fontweight="bold")
    axis.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.9))


def _clients(axis: Axes, results: Results) -> None:
    """What clients as units gain over zero-shot, paired by block, against their number."""
    zero = results["nyt zero-shot", None]
    lines = {
        ("", 0.001): (GREY, "whole updates, no noise"),
        (", public subspace k=16", 1.7): (GREEN, "span of 16 public gradients, ε = 8"),
        ("", 1.7): (BLUE, "whole updates, ε = 8"),
    }
    numbers: set[int] = set()
    for (codec, noise), (colour, label) in lines.items():
        keys = [(f"nyt, {clients} clients{codec}", noise) for clients in ("10", "50", "all")]
        points = [results[key] for key in keys if key in results]
        gains = [difference(zero, f) for f in points]
        at = [int(f.rows[0]["silos"]) for f in points]
        numbers.update(at)
        axis.errorbar(
            at,
            [gain.value for gain in gains],
            yerr=[gain.error or 0.0 for gain in gains],
            color=colour,
            marker="o",
            capsize=3,
            label=label,
        )
    alone = difference(zero, results["nyt, public data alone", 0.001]).value
    marks = ((alone, ORANGE, "21 public articles alone", "top"), (0.0, GREY, "zero-shot", "bottom"))
    for value, colour, label, side in marks:
        axis.axhline(value, color=colour, linestyle="--", linewidth=1)
        axis.annotate(
            label, (0.985, value), xycoords=("axes fraction", "data"), ha="right", va=side,
            fontsize=8, color=colour,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xticks(sorted(numbers), [str(n) for n in sorted(numbers)])
    axis.minorticks_off()
    axis.set_xlabel("clients, one an article of nyt")
    axis.set_ylabel("nats gained over zero-shot, next token")
    axis.set_title("Client level", loc="left", fontsize=10, fontweight="bold")
    axis.legend(fontsize=7.5, frameon=False, loc="upper left")


def main() -> None:
    """``tradeoff.png``: records as units, against noise, silos and codecs. ``client_level.png``: clients as units."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    study = read_study()
    results = found(study, open_results(study).rows)
    sheets = {
        "tradeoff": (
            [_curve, _silos, _codecs],
            "SmolLM2-135M on four silos' sentiment records, 40 rounds of 128. Bars: standard error over seeds; "
            "small dots: seeds",
        ),
        "client_level": (
            [_clients],
            "SmolLM2-135M, 8 rounds of one step. Bars: standard error of\n"
            "seeds and test records, paired. ε per client, zero-out",
        ),
    }
    for name, (draws, title) in sheets.items():
        figure, panels = plt.subplots(
            1, len(draws), figsize=(5.2 * len(draws), 4.8), sharey=True, squeeze=False
        )
        for panel, draw in zip(panels[0], draws, strict=True):
            draw(panel, results)
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
        figure.tight_layout()
        figure.savefig(FIGURES / f"{name}.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
