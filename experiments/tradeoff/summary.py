"""What the rows say, as tables in Markdown: ``python -m experiments.tradeoff.summary`` writes `results/tables.md`.

Numbers and their errors are those of :mod:`experiments.tradeoff.estimates`. An error is "–" where a trained set-up has
one seed only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

import numpy as np
from experiments.study import ROOT
from experiments.tradeoff.estimates import (
    LEVELS,
    Estimate,
    Found,
    by_seed,
    difference,
    found,
    level,
    paired,
    retention,
    without_noise,
)
from experiments.tradeoff.run import RESULTS, count, open_results, read_study
from experiments.tradeoff.setups import grid_rows

Results = Mapping[tuple[str, float | None], Found]
Key = tuple[str, float | None]
NOTHING = "–"
TABLES = RESULTS.with_name("tables.md")


def epsilon(value: float | None) -> str:
    """At most three significant digits, never below the value; `privet.report.numbers.epsilon` has four."""
    if not value or not math.isfinite(value):
        return NOTHING
    exact = Decimal(repr(value))  # the decimal that the row holds, which was rounded up already
    step = Decimal(1).scaleb(exact.adjusted() - 2)
    return f"{exact.quantize(step, rounding=ROUND_CEILING).normalize():f}"


def promise(f: Found) -> str:
    """Who is told apart from what, by whom: unit, relation, delta and observer of a set-up's epsilon."""
    privacy = f.setup.raw["privacy"]
    colluders = privacy["trust"]["colluders"] or "no"
    delta = f"{privacy['delta']:.0e}".replace("e-0", "e-")
    return f"per {privacy['unit']}, {privacy['relation']}, δ = {delta}, against the server, {colluders} colluders"


def promised(chosen: Sequence[Found]) -> str:
    """The promise that most set-ups with an epsilon have."""
    found_at = [promise(f) for f in chosen if f.rows[0].get("epsilon")]
    return max(dict.fromkeys(found_at), key=found_at.count, default=NOTHING)


def traffic(f: Found, what: str) -> float | None:
    """Bytes of a silo and round: the mean over all rounds of a run, of encoded messages without a seal.

    ``None`` where nothing goes to silos: zero-shot, pooled and public records.

    Args:
        f: A set-up.
        what: ``bytes_up`` or ``bytes_down``, which rows hold for all silos and rounds (`LocalEngine`).
    """
    row = f.rows[0]
    if not row.get(what) or f.setup.silos in ("public", "pooled"):
        return None
    return float(row[what] / row["rounds"] / row["silos"])


def _up(f: Found) -> str:
    """Unsealed, and in brackets what a training round takes under masks."""
    bytes_ = traffic(f, "bytes_up")
    if bytes_ is None:
        return NOTHING
    sealed = f.rows[0].get("masked_bytes_up")
    return f"{bytes_:,.0f}" + (f" ({sealed:,})" if sealed else "")


def _down(f: Found, results: Results) -> str:
    """Marked where the same set-up at another noise took less: what goes down does not depend on noise."""
    bytes_ = traffic(f, "bytes_down")
    if bytes_ is None:
        return NOTHING
    family = [traffic(g, "bytes_down") for (name, _), g in results.items() if name == f.setup.family]
    more = any(other is not None and bytes_ > 1.01 * other for other in family)
    return f"{bytes_:,.0f}{' †' if more else ''}"


def _seconds(f: Found) -> str:
    """Median of the CPU seconds; of those on the wall, marked so, where a row was made before these were kept."""
    rows = [row for row in f.rows if "seconds" in row]
    if not rows:
        return NOTHING
    if all("cpu_seconds" in row for row in rows):
        return f"{np.median([row['cpu_seconds'] for row in rows]):.0f}"
    return f"{np.median([row['seconds'] for row in rows]):.0f} wall"


def _kept(f: Found, results: Results) -> str:
    zeros = (g for g in results.values() if not g.trained and g.setup.task == f.setup.task)
    zero, best = next(zeros, None), without_noise(results, f)
    if not f.trained or zero is None or best is None:
        return NOTHING
    return "1" if best is f else shown(retention(f, zero, best), digits=2)


def table(results: Results, task: str) -> list[str]:
    """A Markdown table of one task's set-ups."""
    chosen = [f for f in results.values() if f.setup.task == task]
    usual = promised(chosen)
    heads = [
        "set-up",
        "noise",
        "ε",
        "rate (runs searched)",
        "seeds",
        "NLL",
        "accuracy",
        "retention",
        "up (under masks), B",
        "down, B",
        "rounds",
        "CPU s",
    ]
    lines = _head(heads)
    for f in chosen:
        row, accuracy = f.rows[0], f.accuracy()
        spent = epsilon(row.get("epsilon"))
        if spent != NOTHING and promise(f) != usual:
            spent += f" ({', '.join(promise(f).split(', ')[:2])})"
        cells = [
            f.setup.family,
            NOTHING if f.setup.noise is None or f.quiet else f"{f.setup.noise:g}",
            spent,
            NOTHING if f.rate is None else f"{f.rate:g}{'' if f.bracketed else ' (edge)'} ({f.search})",
            str(len(f.rows)),
            shown(f.loss()),
            NOTHING if accuracy is None else shown(accuracy),
            _kept(f, results),
            _up(f),
            _down(f, results),
            str(row["rounds"]),
            _seconds(f),
        ]
        lines.append(_line(cells))
    return lines


def notes(results: Results, task: str) -> list[str]:
    """What the columns of :func:`table` mean."""
    chosen = [f for f in results.values() if f.setup.task == task]
    lines = [
        f"ε is {promised(chosen)}, unless its row says otherwise; rounded up.",
        "± is one standard error, of seeds and of test records together.",
        "Retention is (NLL - zero-shot) / (non-private - zero-shot). Non-private is `hedge` without noise or codec, "
        "over the same layers, records and clients. ± by the delta method.",
        "Up and down are of one silo and round, mean over rounds, without a seal; in brackets the forecast of one "
        "training round under masks.",
    ]
    if any("†" in _down(f, results) for f in chosen):
        lines.append(
            "† made before a codec travelled only when it is new (commit 30ee90f): it went down in every round."
        )
    if any("wall" in _seconds(f) for f in chosen):
        lines.append(
            "wall: made before CPU seconds were kept; seconds on the wall of a shared machine, not to be compared."
        )
    return [f"- {line}" for line in lines]


def against_local(results: Results, name: str = "hedge") -> list[str]:
    """Local noise of n silos is hedge at the root of n times the noise: a Markdown table of what sharing gains.

    The last column holds the common seeds alone, as pairs; see :func:`experiments.tradeoff.estimates.by_seed`.
    """
    lines = _head(
        ["ε", "hedge", "n", "local noise", "gain of hedge", "95 % interval", "pairs of seeds alone"]
    )
    for at, sigma in LEVELS.items():
        for silos in (4, 16, 64):
            local, shared = level(results, name, math.sqrt(silos) * sigma), level(results, name, sigma)
            if local and shared:
                gain, pairs = difference(local, shared), by_seed(local, shared)
                cells = [
                    str(at),
                    f"{shared.loss().value:.3f}",
                    str(silos),
                    f"{local.loss().value:.3f}",
                    shown(gain, signed=True),
                    interval(gain),
                    NOTHING
                    if pairs is None
                    else f"{pairs[0]}: {shown(pairs[1], signed=True)} {interval(pairs[1])}",
                ]
                lines.append(_line(cells))
    return lines


DOMAINS: tuple[Key, ...] = (
    ("zero-shot", None),
    ("public data alone", 0.001),
    ("hedge", 0.424),
    ("hedge", 0.826),
    ("public data alone, top 4 layers", 0.001),
    ("hedge, top 4 layers", 0.424),
    ("hedge, top 4 layers", 0.826),
    ("public data alone, all layers", 0.001),
    ("all layers, identity", 0.664),
    ("all layers, identity", 1.98),
)
"""Set-ups that are shown domain by domain: the controls beside hedge."""


def domains(results: Results) -> list[str]:
    """Test NLL by domain, a Markdown table. ± is over seeds alone: rows hold no blocks of a domain."""
    chosen = [results[key] for key in DOMAINS if key in results]
    names = sorted({name for f in chosen for name in f.rows[0]["test"]["domain_nll"]})
    lines = _head(["set-up", "ε", *names])
    for f in chosen:
        cells = [f.setup.family, epsilon(f.rows[0].get("epsilon"))]
        for name in names:
            values = np.array([row["test"]["domain_nll"][name] for row in f.rows])
            seeds = len(values)
            error = f"{values.std(ddof=1) / math.sqrt(seeds):.3f}" if seeds > 1 else NOTHING
            cells.append(f"{values.mean():.3f}" + (f" ± {error}" if f.trained else ""))
        lines.append(_line(cells))
    return lines


REFERENCES: dict[str, dict[str, Key]] = {
    "sentiment": {
        "zero-shot": ("zero-shot", None),
        "public data alone": ("public data alone", 0.001),
        "the same, top 4 layers": ("public data alone, top 4 layers", 0.001),
        "the same, all layers": ("public data alone, all layers", 0.001),
        "hedge, ε = 8": ("hedge", 0.424),
        "hedge, ε = 1": ("hedge", 0.826),
        "hedge, ε = 0.15": ("hedge", 1.652),
        "all layers, noise 0.664": ("all layers, identity", 0.664),
        "all layers, noise 1.98": ("all layers, identity", 1.98),
    },
    "nyt": {
        "zero-shot": ("nyt zero-shot", None),
        "public data alone": ("nyt, public data alone", 0.001),
        "10 clients, ε = 8": ("nyt, 10 clients", 1.7),
        "50 clients, ε = 8": ("nyt, 50 clients", 1.7),
        "all clients, ε = 8": ("nyt, all clients", 1.7),
    },
}
"""What set-ups of a task are held against; those that have no rows yet are left out."""


def differences(results: Results, task: str) -> Iterator[str]:
    """A Markdown table of differences of test NLL to the task's references, and to the same without noise."""
    references = {name: results[key] for name, key in REFERENCES[task].items() if key in results}
    yield from _head(["NLL difference to", *references, "itself without noise or codec"])
    for f in results.values():
        if f.setup.task == task and f.trained:
            others = [*references.values(), without_noise(results, f)]
            cells = [
                shown(difference(f, other), signed=True) if other and other is not f else NOTHING
                for other in others
            ]
            yield _line([f.setup.name, *cells])


def searches(results: Results, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a choice by validation leaves open: luck of the seed that was searched, and how far apart rates are.

    Losses on public records of the best and the second-best rate, in nats, mean over a search's seeds.
    """
    ranks, gaps = list[int](), list[float]()
    for f in results.values():
        losses: dict[float, list[float]] = {}
        for row in grid_rows(rows, f.setup):
            losses.setdefault(row["rate"], []).append(row["validation"]["nll"])
        if not losses:
            continue
        best, second, *_ = sorted(float(np.mean(of_rate)) for of_rate in losses.values())
        gaps.append(second - best)
        if len(f.rows) == 3 and all(len(each) == 1 for each in losses.values()) and not f.setup.trains_anew:
            own = next(row["test"]["nll"] for row in f.rows if row["seed"] == f.setup.search_seeds[0])
            ranks.append(int((f.nll < own).sum()))
    low, middle, high = np.quantile(gaps, [0.1, 0.5, 0.9])
    yield (
        f"Of {len(ranks)} set-ups with three seeds and one seed of search that seed has the lowest test loss in "
        f"{ranks.count(0)}, the highest in {ranks.count(2)}."
    )
    yield (
        f"Best and second-best rate of {len(gaps)} searches: {low:.4f} to {high:.4f} apart on public records (tenths), "
        f"median {middle:.4f}."
    )


def shown(value: Estimate, *, signed: bool = False, digits: int = 3) -> str:
    """A number with its standard error, which is "–" where it is unknown."""
    number = f"{value.value:{'+' if signed else ''}.{digits}f}"
    return f"{number} ± {NOTHING if value.error is None else f'{value.error:.{digits}f}'}"


def interval(value: Estimate) -> str:
    """Student's 95 % interval."""
    ends = value.interval()
    return NOTHING if ends is None else f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """All tables, as `results/tables.md` holds them."""
    results = found(study, rows)
    lines = [
        "# What the rows say",
        "",
        "Written by `python -m experiments.tradeoff.summary` from `smollm2.json`.",
    ]
    for task in study["tasks"]:
        lines += ["", f"## {task}", "", *table(results, task), "", *notes(results, task)]
    lines += ["", "## hedge and central DP-SGD"]
    hedge, central = (results.get((name, 0.424)) for name in ("hedge", "central DP-SGD"))
    if hedge and central and (gap := paired(hedge, central)):
        lines += [
            "",
            f"hedge - central: {gap.mean:+.4f}, 90 % interval [{gap.low:+.4f}, {gap.high:+.4f}] over {gap.pairs} "
            f"pairs, deviation of a pair {gap.deviation:.4f}, error from test records {gap.over_records:.4f}",
        ]
    for name in ("hedge", "hedge, top 4 layers"):
        lines += ["", f"## Shared and local noise: {name}", "", *against_local(results, name)]
    lines += ["", "## NLL by domain", "", "± over seeds alone.", "", *domains(results)]
    lines += ["", "## Searches", "", *searches(results, rows)]
    for task in study["tasks"]:
        lines += ["", f"## Differences of NLL: {task}", "", *differences(results, task)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables and write them."""
    study: dict[str, Any] = read_study()
    told = page(study, open_results(study).rows)
    TABLES.write_text(told, encoding="utf-8")
    print("\n".join([*count(study), "", told, f"wrote {TABLES.relative_to(ROOT)}"]))


if __name__ == "__main__":
    main()
