"""Figures of a report as inline SVG that follows the page's colours, light or dark, on screen and on paper.

matplotlib draws with marker colours that no design would use; afterwards each is replaced by a CSS variable, and text
stays text in the page's own font. Ids get the figure's name as a prefix, so that several figures share one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privet.report import numbers
from privet.report.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, RULE = "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    c: f"--s{i + 1}" for i, c in enumerate(SERIES)
}
WIDTH = 7.2
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "privet", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": RULE, "axes.titlecolor": INK,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.6,
    "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.frameon": False, "legend.fontsize": 8.5,
    "legend.labelcolor": MUTED, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "lines.linewidth": 1.5, "figure.constrained_layout.use": True, "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: Used in ids.
        title: What it shows; also its accessible name.
        description: What a reader sees in it, in words, for those who cannot.
        svg: The drawing.
        caption: How to read it.
    """

    name: str
    title: str
    description: str
    svg: str
    caption: str


def utility(record: RunRecord) -> Figure | None:
    """Loss and accuracy of each silo before and after, with intervals; ``None`` without metrics."""
    rows = [row for row in record.silos if row.before and row.after]
    if not rows:
        return None
    metrics = [("nll", "loss (nats), lower is better")]
    if all(row.after.get("accuracy") is not None and row.before.get("accuracy") is not None for row in rows):
        metrics.append(("accuracy", "accuracy, higher is better"))
    height = 0.9 + 0.42 * len(rows)

    def draw(axes: list[Axes]) -> None:
        from matplotlib.ticker import MaxNLocator

        for ax, (metric, label) in zip(axes, metrics, strict=True):
            for position, row in enumerate(rows):
                for when, shift, color, marker in (
                    ("before", 0.13, MUTED, "o"),
                    ("after", -0.13, SERIES[0], "D"),
                ):
                    part = row.before if when == "before" else row.after
                    low, high = _interval(part, metric)
                    y = len(rows) - 1 - position + shift
                    ax.plot([low, high], [y, y], color=color, linewidth=1.6, solid_capstyle="butt")
                    name = when if position == 0 else None
                    ax.plot([part[metric]], [y], marker, color=color, markersize=5, label=name)
            ax.set_title(label)
            ax.set_ylim(-0.6, len(rows) - 0.4)
            ax.grid(axis="y", visible=False)
            ax.tick_params(length=0)
        axes[0].set_yticks(range(len(rows)), [row.silo for row in reversed(rows)])
        for ax in axes[1:]:
            ax.set_yticks(range(len(rows)), [""] * len(rows))
            ax.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.2)

    moved = "; ".join(
        f"{row.silo}: loss {numbers.loss(row.before['nll'])} to {numbers.loss(row.after['nll'])}"
        for row in rows
    )
    return Figure(
        "utility",
        "Test metrics of each silo before and after",
        moved,
        _svg("utility", draw, height, columns=len(metrics)),
        "Points are measured values; bars are 95 % intervals. The table below holds the numbers.",
    )


def directions(record: RunRecord) -> Figure | None:
    """Norm of the opened and decoded direction, and the mean time of a round; ``None`` before the first round."""
    rows = [row for row in record.rounds if row.get("direction_norm") is not None]
    if len(rows) < 2:
        return None

    def draw(axes: list[Axes]) -> None:
        x = [row["round"] + 1 for row in rows]
        axes[0].plot(x, [row["direction_norm"] for row in rows], color=SERIES[0])
        axes[0].set_title("norm of the opened mean")
        axes[0].set_ylim(bottom=0)
        axes[1].plot(x, [row["seconds"] for row in rows], color=SERIES[1])
        axes[1].set_title("seconds a round")
        axes[1].set_ylim(bottom=0)
        for ax in axes:
            _rounds_axis(ax, x)

    norms = [row["direction_norm"] for row in rows]
    return Figure(
        "directions",
        "What every round opened, and how long it took",
        f"The norm goes from {norms[0]:.3g} in the first round to {norms[-1]:.3g} in the last.",
        _svg("directions", draw, 2.1, columns=2),
        "The opened mean holds the clients' signal and the noise; where noise is added, its norm stays even when the "
        "signal is small.",
    )


def diagnostics(record: RunRecord) -> Figure | None:
    """Sampled counts and measured noise of a simulated run; ``None`` where there are no such diagnostics."""
    rows = [(row["round"] + 1, row["simulated"]) for row in record.rounds if row.get("simulated")]
    sampled = [(x, part["sampled"]) for x, part in rows if part.get("sampled")]
    noise = [(x, part) for x, part in rows if part.get("noise_std_measured") and part.get("noise_std_ledger")]
    panels = [panel for panel in ((sampled, _draw_sampled), (noise, _draw_noise)) if len(panel[0]) > 1]
    if not panels:
        return None
    names = [str(name) for name in (record.result or {}).get("parties", ())]

    def draw(axes: list[Axes]) -> None:
        for ax, (points, painter) in zip(axes, panels, strict=True):
            painter(ax, points, names)
            _rounds_axis(ax, [x for x, _ in points])

    words = []
    if len(sampled) > 1:
        totals = [sum(counts) for _, counts in sampled if None not in counts]
        if totals:
            words.append(f"Between {min(totals)} and {max(totals)} records were sampled in a round.")
    if len(noise) > 1:
        ratios = [part["noise_std_measured"] / part["noise_std_ledger"] for _, part in noise]
        outside = sum(
            not part["interval"][0] <= part["noise_std_measured"] <= part["interval"][1] for _, part in noise
        )
        words.append(
            f"The measured standard deviation of the noise is between {min(ratios):.3f} and {max(ratios):.3f} of the "
            f"ledger's; {outside} of {len(noise)} rounds lie outside their interval."
        )
    return Figure(
        "diagnostics",
        "Diagnostics of the simulation",
        " ".join(words),
        _svg("diagnostics", draw, 2.3, columns=len(panels)),
        "Only a simulation in one process can show this: no real client sends its counts or its noise. Poisson-sampled "
        "counts have to vary; the noise that was drawn has to agree with the noise that the ledger charges for.",
    )


def _draw_sampled(ax: Axes, points: list[tuple[int, Any]], names: list[str]) -> None:
    x = [position for position, _ in points]
    silos = len(points[0][1])
    if silos <= len(SERIES):
        for silo in range(silos):
            label = names[silo] if len(names) == silos else f"client {silo}"
            # A resumed client sends what it answered before; how much it had sampled is then not known any more.
            known = [float("nan") if counts[silo] is None else counts[silo] for _, counts in points]
            ax.plot(x, known, color=SERIES[silo], linewidth=1.2, label=label)
        ax.legend(loc="upper left", ncols=silos, handlelength=1.0, columnspacing=0.8, borderaxespad=0.1)
    else:
        ax.plot(x, [sum(c or 0 for c in counts) for _, counts in points], color=SERIES[0], label="all silos")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the lines
    ax.set_title("records sampled")


def _draw_noise(ax: Axes, points: list[tuple[int, Any]], names: list[str]) -> None:
    x = [position for position, _ in points]
    ledger = [part["noise_std_ledger"] for _, part in points]
    ratio = [part["noise_std_measured"] / std for (_, part), std in zip(points, ledger, strict=True)]
    low, high = (
        [part["interval"][i] / std for (_, part), std in zip(points, ledger, strict=True)] for i in (0, 1)
    )
    ax.fill_between(x, low, high, color=SERIES[0], alpha=0.18, linewidth=0, label="interval")
    ax.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    ax.plot(x, ratio, "o", color=SERIES[0], markersize=3, label="measured")
    ax.legend(loc="lower left", ncols=2, handlelength=1.2, columnspacing=0.8, borderaxespad=0.1)
    margin = 0.6 * (max(high) - min(low))
    ax.set_ylim(min(*low, *ratio) - margin, max(*high, *ratio) + margin / 3)
    ax.set_title("noise std, measured over ledger's")


def _rounds_axis(ax: Axes, x: list[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set_xlim(min(x) - 0.5, max(x) + 0.5)
    ax.set_xlabel("round")
    ax.grid(axis="x", visible=False)


def _interval(part: Any, metric: str) -> tuple[float, float]:
    if metric == "accuracy":
        return part.get("accuracy_low", part["accuracy"]), part.get("accuracy_high", part["accuracy"])
    half = 1.96 * (part.get("nll_se") or 0.0)
    return part["nll"] - half, part["nll"] + half


def _svg(name: str, draw: Callable[[list[Any]], None], height: float, columns: int) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH, height))
        FigureCanvasSVG(canvas)
        draw(list(canvas.subplots(1, columns, squeeze=False)[0]))
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """The drawing without XML head, in the page's colours and font, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    attributes = f'role="img" aria-labelledby="{name}-title {name}-text" focusable="false" '
    svg = re.sub(r"\bid=\"", f'id="{name}-', svg)
    svg = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{name}-", svg)
    svg = svg.replace("<svg ", f"<svg {attributes}", 1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg).strip()
