"""The study's figures from its result file: ``python -m experiments.tradeoff.figure``.

A colour means one thing in all panels (:data:`COLOURS`). Markers stand at measured levels only, the same that the
tables read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.study import ROOT
from experiments.tradeoff.estimates import LEVELS, Found, difference, found, level
from experiments.tradeoff.run import open_results, read_study
from experiments.tradeoff.setups import NOMINAL
from experiments.tradeoff.summary import promised

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = ROOT / "docs" / "figures"
COLOURS = {
    "hedge": "#1f5fa8",
    "four layers": "#7b4fb5",
    "local noise": "#d9741a",
    "central": "#111111",
    "no_noise": "#8a5a2b",
    "zero_shot": "#666666",
    "public": "#2b8a3e",
    "public_four": "#7f9c14",
    "subspace": "#0f9aa8",
    "projection": "#d6568f",
    "dr_encoder": "#b3261e",
}
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


def of_silos(results: Results, sigma: float) -> list[tuple[int, Found]]:
    """Numbers of silos, each with the level that its local noise stands at: those of the tables."""
    levels = [(n, level(results, "hedge", math.sqrt(n) * sigma)) for n in SILOS]
    return [(n, f) for n, f in levels if f is not None]


def _bars(axis: Axes, at: list[float], points: list[Found], colour: str, label: str, **how: Any) -> None:
    losses = [f.loss() for f in points]
    errors = [e.over_seeds or 0.0 for e in losses]
    style = {"marker": "o", "ms": 5, "capsize": 3, "linewidth": 1.4, **how}
    axis.errorbar(at, [e.value for e in losses], yerr=errors, color=COLOURS[colour], label=label, **style)


def _references(axis: Axes, results: Results, **names: float) -> None:
    """Dashed lines that no noise moves, each with its name above it, which ends at a share of the axis."""
    lines = {
        "zero_shot": (("zero-shot", None), "zero-shot"),
        "public": (("public data alone", 0.001), "public data, 2 layers"),
        "public_four": (("public data alone, top 4 layers", 0.001), "public data, 4 layers"),
        "no_noise": (("hedge", 0.001), "no noise, 2 layers"),
    }
    for name, at in names.items():
        key, label = lines[name]
        if key in results:
            _named_line(axis, results[key].loss().value, name, label, at)


def _named_line(axis: Axes, value: float, colour: str, label: str, at: float, **how: Any) -> None:
    from matplotlib.patheffects import withStroke

    axis.axhline(value, color=COLOURS[colour], linewidth=1.1, **{"linestyle": "--", **how})
    text = axis.annotate(
        label, (at, value), xycoords=("axes fraction", "data"), xytext=(0, 1), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=COLOURS[colour],
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _curve(axis: Axes, results: Results) -> None:
    points, deeper = curve(results), curve(results, "hedge, top 4 layers")
    for family, colour, label in (
        (points, "hedge", "hedge, top 2 layers"),
        (deeper, "four layers", "hedge, top 4 layers"),
    ):
        noises = [f.setup.noise or 0.0 for f in family]
        _bars(axis, noises, family, colour, label)
        dots: dict[str, Any] = {"s": 7, "color": COLOURS[colour], "alpha": 0.4, "zorder": 3, "linewidths": 0}
        for noise, f in zip(noises, family, strict=True):
            axis.scatter([noise] * len(f.nll), f.nll, **dots)
    if ("central DP-SGD", 0.424) in results:
        f = results["central DP-SGD", 0.424]
        _bars(axis, [0.424 * 1.13], [f], "central", "central DP-SGD, 2 layers", marker="^", linestyle="none")
    _references(axis, results, zero_shot=0.99, public=0.99, public_four=0.99, no_noise=0.99)
    axis.set_xscale("log", base=2)
    axis.set_xticks([f.setup.noise or 0.0 for f in points], [f"{f.setup.noise:g}" for f in points])
    axis.minorticks_off()
    axis.set_xlabel("noise multiplier σ of the opened sum")
    axis.set_title("Loss against noise", loc="left", fontsize=10, fontweight="bold", pad=16)
    for epsilon, sigma in LEVELS.items():
        axis.axvline(sigma, color="#999999", linewidth=0.9, linestyle=":")
        axis.annotate(
            f"ε = {epsilon}", (sigma, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=8, color="#444444",
        )  # fmt: skip
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.9))


def _silos(axis: Axes, results: Results) -> None:
    """Levels that the tables of shared against local noise read; lines only join them."""
    for (epsilon, sigma), face in zip(LEVELS.items(), (COLOURS["local noise"], "white"), strict=True):
        points = of_silos(results, sigma)
        if not points:
            continue
        at = [float(SILOS.index(n)) for n, _ in points]
        _bars(
            axis, at, [f for _, f in points], "local noise", f"local noise, ε = {epsilon}",
            marker="s", linestyle=":", markerfacecolor=face,
        )  # fmt: skip
        shared = level(results, "hedge", sigma)
        if shared:
            label = f"hedge, any number of silos, ε = {epsilon}"
            _named_line(axis, shared.loss().value, "hedge", label, 0.99, linestyle="-")
    _references(axis, results, zero_shot=0.99, public=0.29)
    axis.set_xticks(range(len(SILOS)), [str(n) for n in SILOS])
    axis.set_xlabel("silos n; with local noise the sum has √n σ")
    axis.set_title(
        "Shared against local noise at equal ε, top 2 layers",
        loc="left",
        fontsize=10,
        fontweight="bold",
        pad=16,
    )
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.9))


def _codecs(axis: Axes, results: Results) -> None:
    families = {
        "hedge": ("hedge", "no codec, 12,288 values"),
        "hedge, public subspace k=64": ("subspace", "public subspace, 64 values"),
        "hedge, random projection k=64": ("projection", "random projection, 64 values"),
        "dr_encoder, k=768": ("dr_encoder", "dr_encoder, 768 values"),
    }
    for place, (family, (colour, label)) in enumerate(families.items()):
        points = [f for f in curve(results, family) if 0.1 < (f.rows[0].get("epsilon") or 0.0) < 10]
        if points:
            at = [float(f.rows[0]["epsilon"]) * 1.07 ** (place - 1.5) for f in points]
            _bars(axis, at, points, colour, label)
    _references(axis, results, zero_shot=0.99, public=0.86)
    axis.set_xscale("log")
    axis.set_xticks([0.147, 1, 8], ["0.15", "1", "8"])
    axis.minorticks_off()
    axis.set_xlabel("ε (points are set apart)")
    axis.set_title("Codecs, top 2 layers", loc="left", fontsize=10, fontweight="bold", pad=16)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.93))


def _gains(axis: Axes, results: Results) -> None:
    """The tables of shared against local noise, with their whole errors."""
    names = {"hedge": ("hedge", 2), "hedge, top 4 layers": ("four layers", 4)}
    for place, (name, (colour, layers)) in enumerate(names.items()):
        for shift, (epsilon, sigma) in enumerate(LEVELS.items()):
            shared = level(results, name, sigma)
            pairs = [(n, level(results, name, math.sqrt(n) * sigma)) for n in SILOS[1:]]
            gains = [(n, difference(local, shared)) for n, local in pairs if local and shared]
            axis.errorbar(
                [SILOS.index(n) + 0.09 * (place + 2 * shift - 1.5) for n, _ in gains],
                [gain.value for _, gain in gains],
                yerr=[gain.error or 0.0 for _, gain in gains],
                color=COLOURS[colour], marker="o", ms=5, capsize=3, linestyle="none",
                markerfacecolor="white" if shift else COLOURS[colour],
                label=f"top {layers} layers, ε = {epsilon}",
            )  # fmt: skip
    axis.axhline(0.0, color="#999999", linewidth=0.9)
    axis.set_xticks(range(1, len(SILOS)), [str(n) for n in SILOS[1:]])
    axis.set_xlabel("silos n (points are set apart)")
    axis.set_ylabel("nats gained by sharing the noise")
    axis.set_title("Gain of shared over local noise", loc="left", fontsize=10, fontweight="bold", pad=16)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.93))


def _clients(axis: Axes, results: Results) -> None:
    """What clients as units gain over zero-shot, paired by block, against their number."""
    zero = results["nyt zero-shot", None]
    lines = {
        ("", 0.001): ("no_noise", "whole updates, no noise"),
        (", public subspace k=16", 1.7): ("subspace", "span of 16 public gradients, ε = 8"),
        ("", 1.7): ("hedge", "whole updates, ε = 8"),
    }
    numbers: set[int] = set()
    for (codec, noise), (colour, label) in lines.items():
        keys = [(f"nyt, {clients} clients{codec}", noise) for clients in ("10", "50", "all")]
        points = [results[key] for key in keys if key in results]
        gains = [difference(zero, f) for f in points]
        at = [int(f.rows[0]["silos"]) for f in points]
        numbers.update(at)
        axis.errorbar(
            at, [gain.value for gain in gains], yerr=[gain.error or 0.0 for gain in gains],
            color=COLOURS[colour], marker="o", ms=5, capsize=3, linewidth=1.4, label=label,
        )  # fmt: skip
    alone = difference(zero, results["nyt, public data alone", 0.001]).value
    _named_line(axis, alone, "public", "21 public articles alone", 0.99)
    _named_line(axis, 0.0, "zero_shot", "zero-shot", 0.99)
    axis.set_xscale("log")
    axis.set_xticks(sorted(numbers), [str(n) for n in sorted(numbers)])
    axis.minorticks_off()
    axis.set_xlabel("clients, one an article of nyt")
    axis.set_ylabel("nats gained over zero-shot, next token")
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def draw(results: Results, folder: Path) -> None:
    """Both sheets into a folder."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    promises = {
        task: promised([f for f in results.values() if f.setup.task == task]) for task in ("sentiment", "nyt")
    }
    sheets: dict[str, tuple[list[Any], tuple[float, float], str]] = {
        "tradeoff": (
            [_curve, _silos, _codecs, _gains],
            (9.4, 8.6),
            "SmolLM2-135M on four silos' sentiment records, 40 rounds of 124 records on average.\n"
            f"ε {promises['sentiment']}.\n"
            "Bars: one standard error over seeds, of seeds and test records for gains; "
            "small dots: seeds.",
        ),
        "client_level": (
            [_clients],
            (6.2, 5.2),
            "SmolLM2-135M, articles of nyt as clients, 8 rounds of one step.\n"
            f"ε {promises['nyt']}.\n"
            "Bars: one standard error of seeds and test records.",
        ),
    }
    for name, (draws, size, title) in sheets.items():
        rows = (len(draws) + 1) // 2
        figure, grid = plt.subplots(
            rows, len(draws) // rows, figsize=size, squeeze=False, layout="constrained"
        )
        panels = list(grid.flat)
        for panel in panels[1:3]:
            panel.sharey(panels[0])  # losses on one scale
        for panel, paint in zip(panels, draws, strict=True):
            paint(panel, results)
            panel.grid(alpha=0.2)
            panel.tick_params(labelsize=8.5)
            panel.spines[["top", "right"]].set_visible(False)
            if not panel.get_ylabel():
                panel.set_ylabel("test NLL in nats")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        figure.savefig(folder / f"{name}.png", dpi=190, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    """``tradeoff.png``: records as units, against noise, silos and codecs. ``client_level.png``: clients as units."""
    draw(found(read_study(), open_results(read_study()).rows), FIGURES)


if __name__ == "__main__":
    main()
