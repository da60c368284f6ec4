"""What the rows say: each set-up at its chosen rate, with standard errors, and paired differences.

A set-up's figure is the mean over its seeds at the rate that validation chose. Two things make it uncertain, and
both are in its standard error: the draw of seeds, and the draw of test records. The second is taken over blocks of
whole groups, so that sentences of one article do not count as independent. Differences of two set-ups are taken block
by block on the same records.

Run ``python -m experiments.tradeoff.summary`` for the tables in Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from experiments.tradeoff.run import count, open_results, read_study
from experiments.tradeoff.setups import (
    NOMINAL,
    Setup,
    best_rate,
    grid_rows,
    missing_searches,
    searched_of,
    setups,
)
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean with its two standard errors.

    Attributes:
        value: Mean over seeds and records.
        over_seeds: Standard error from the seeds; ``None`` with one seed.
        over_records: Standard error from the test records.
    """

    value: float
    over_seeds: float | None
    over_records: float

    @property
    def error(self) -> float:
        """Both together."""
        return math.hypot(self.over_seeds or 0.0, self.over_records)


@dataclass(frozen=True)
class Found:
    """A set-up with its rows at the chosen rate.

    Attributes:
        setup: The set-up.
        rate: Chosen rate; ``None`` where nothing is trained.
        rows: One a seed.
        search: Runs that the search took.
        bracketed: Whether the chosen rate lies inside the grid.
    """

    setup: Setup
    rate: float | None
    rows: tuple[Row, ...]
    search: int
    bracketed: bool

    @property
    def nll(self) -> Floats:
        """Test NLL of each seed, float64 [seeds]."""
        return np.array([row["test"]["nll"] for row in self.rows], np.float64)

    def blocks(self, what: str = "block_nll") -> tuple[Floats, Floats]:
        """Sums by block, mean over seeds, and the blocks' records."""
        sums = np.mean([row["test"][what] for row in self.rows], axis=0)
        return sums, np.array(self.rows[0]["test"]["block_records"], np.float64)

    def loss(self) -> Estimate:
        """Test NLL in nats."""
        return _estimate(self.nll, *self.blocks())

    def accuracy(self) -> Estimate | None:
        """Test accuracy, for a task with choices."""
        if "accuracy" not in self.rows[0]["test"]:
            return None
        values = np.array([row["test"]["accuracy"] for row in self.rows])
        return _estimate(values, *self.blocks("block_right"))


def _estimate(values: Floats, sums: Floats, records: Floats) -> Estimate:
    over_seeds = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(values.mean()), over_seeds, _ratio_error(sums, records))


def _ratio_error(sums: Floats, records: Floats) -> float:
    """Standard error of sum(sums)/sum(records) over blocks (Cochran, Sampling Techniques, 1977, section 2.11)."""
    kept = records > 0
    sums, records = sums[kept], records[kept]
    residuals = sums - sums.sum() / records.sum() * records
    n = len(sums)
    return float(math.sqrt(n / (n - 1) * np.square(residuals).sum()) / records.sum())


def difference(left: Found, right: Found) -> Estimate:
    """Test NLL of ``left`` minus ``right``, on the same records; their seeds are independent."""
    sums, records = left.blocks()
    others, _ = right.blocks()
    one, two = left.loss().over_seeds, right.loss().over_seeds
    over_seeds = None if one is None or two is None else math.hypot(one, two)
    return Estimate(
        float(left.nll.mean() - right.nll.mean()), over_seeds, _ratio_error(sums - others, records)
    )


@dataclass(frozen=True)
class Paired:
    """The end-to-end comparison with central DP-SGD.

    Attributes:
        pairs: Pairs of runs.
        mean: Mean difference of test NLL, hedge minus central.
        low: Lower end of the 90 % interval over pairs (Student's t).
        high: Upper end.
        deviation: Standard deviation of one pair's difference.
        over_records: Standard error from the test records, for the mean difference.
    """

    pairs: int
    mean: float
    low: float
    high: float
    deviation: float
    over_records: float


def paired(left: Found, right: Found) -> Paired | None:
    """Pairs by rank of seed; ``None`` with fewer than two."""
    pairs = min(len(left.rows), len(right.rows))
    if pairs < 2:
        return None
    gaps = left.nll[:pairs] - right.nll[:pairs]
    mean, deviation = float(gaps.mean()), float(gaps.std(ddof=1))
    reach = float(student.ppf(0.95, pairs - 1)) * deviation / math.sqrt(pairs)
    return Paired(pairs, mean, mean - reach, mean + reach, deviation, difference(left, right).over_records)


def found(study: Mapping[str, Any], rows: Sequence[Row]) -> dict[tuple[str, float | None], Found]:
    """Set-ups that have at least one row at their chosen rate, by family and noise."""
    result: dict[tuple[str, float | None], Found] = {}
    everything = list(setups(study))
    for setup in everything:
        searched = searched_of(setup, everything)
        grid = grid_rows(rows, searched) if searched.rates else []
        if searched.rates and (not grid or set(searched.rates) - {r["rate"] for r in grid}):
            continue
        rate = best_rate(grid) if grid else setup.fixed_rate
        mine = [r for r in rows if (r["setup"], r["rate"], r["stage"]) == (setup.identity, rate, "final")]
        mine.sort(key=lambda r: -1 if r["seed"] is None else r["seed"])
        if mine:
            bracketed = not searched.rates or not missing_searches(rows, searched, 10**6)
            result[setup.family, setup.noise] = Found(setup, rate, tuple(mine), len(grid), bracketed)
    return result


def retention(nll: float, zero: float, best: float) -> float:
    """(score - zero-shot) / (non-private - zero-shot), with NLL as the score."""
    return (nll - zero) / (best - zero)


def table(results: Mapping[tuple[str, float | None], Found], task: str) -> list[str]:
    """A Markdown table of one task's set-ups."""
    chosen = [f for f in results.values() if f.setup.task == task]
    zero = next((f.loss().value for f in chosen if f.setup.silos == "nobody"), None)
    best = next((f.loss().value for f in chosen if f.setup.family == "hedge" and _quiet(f)), None)
    lines = [
        "| set-up | noise | ε | rate (runs searched) | seeds | NLL | accuracy | retention "
        "| up, a silo and round | rounds | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for f in chosen:
        row, loss, accuracy = f.rows[0], f.loss(), f.accuracy()
        kept = "–"
        if zero is not None and best is not None and f.setup.silos != "nobody":
            kept = f"{retention(loss.value, zero, best):.2f}"
        noise = "–" if f.setup.noise is None or f.setup.noise < NOMINAL else f"{f.setup.noise:g}"
        seconds = [r.get("cpu_seconds", r["seconds"]) for r in f.rows if "seconds" in r]
        up = row.get("bytes_up")
        cells = [
            f.setup.family,
            noise,
            f"{row['epsilon']:.3g}" if row.get("epsilon") else "–",
            "–" if f.rate is None else f"{f.rate:g}{'' if f.bracketed else ' (edge)'} ({f.search})",
            str(len(f.rows)),
            f"{loss.value:.3f} ± {loss.error:.3f}",
            "–" if accuracy is None else f"{accuracy.value:.3f} ± {accuracy.error:.3f}",
            kept,
            "–"
            if not up or f.setup.silos in ("public", "pooled")
            else f"{up / row['rounds'] / row['silos']:,.0f} B",
            str(row["rounds"]),
            f"{np.median(seconds):.0f}" if seconds else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


EPSILONS = {8: 0.424, 1: 0.826}
"""Noise multiplier of the whole sum that each epsilon takes, without colluders."""
CLOSE = 1.05
"""A level of noise stands for another that is at most so many times larger or smaller."""


def against_local(results: Mapping[tuple[str, float | None], Found], name: str = "hedge") -> list[str]:
    """Local noise of n silos is hedge at the root of n times the noise: a Markdown table of what sharing gains."""
    lines = ["| ε | hedge | n | local noise | gain of hedge |", "|---|---|---|---|---|"]
    levels = {f.setup.noise: f for (family, _), f in results.items() if family == name and f.setup.noise}
    for epsilon, sigma in EPSILONS.items():
        for silos in (4, 16, 64):
            wanted = math.sqrt(silos) * sigma
            local = next((f for noise, f in levels.items() if 1 / CLOSE < noise / wanted < CLOSE), None)
            shared = levels.get(sigma)
            if local and shared:
                mine, theirs = shared.loss().value, local.loss().value
                gain = _shown(difference(local, shared))
                lines.append(f"| {epsilon} | {mine:.3f} | {silos} | {theirs:.3f} | {gain} |")
    return lines


def _quiet(f: Found) -> bool:
    return f.setup.noise is not None and f.setup.noise < NOMINAL


def main() -> None:
    """Print everything that the README of the study quotes."""
    study = read_study()
    stored = open_results(study)
    results = found(study, stored.rows)
    print("\n".join(count(study)))
    for task in study["tasks"]:
        print(f"\n## {task}\n")
        print("\n".join(table(results, task)))
    hedge, central = (results.get((name, 0.424)) for name in ("hedge", "central DP-SGD"))
    if hedge and central and (gap := paired(hedge, central)):
        print(
            f"\nhedge - central: {gap.mean:+.4f}, 90 % interval [{gap.low:+.4f}, {gap.high:+.4f}] over {gap.pairs} "
            f"pairs, deviation of a pair {gap.deviation:.4f}, error from test records {gap.over_records:.4f}"
        )
    for name in ("hedge", "hedge, top 4 layers"):
        print(f"\n{name}\n\n" + "\n".join(against_local(results, name)))
    for task, named in REFERENCES.items():
        references = {name: results.get(key) for name, key in named.items()}
        print("\n| NLL difference to | " + " | ".join(references) + " |\n|---|" + "---|" * len(references))
        for f in results.values():
            if f.setup.task == task and f.setup.silos != "nobody":
                cells = [
                    _shown(difference(f, other)) if other and other is not f else "–"
                    for other in references.values()
                ]
                print(f"| {f.setup.name} | " + " | ".join(cells) + " |")


REFERENCES: dict[str, dict[str, tuple[str, float | None]]] = {
    "sentiment": {
        "zero-shot": ("zero-shot", None),
        "public data alone": ("public data alone", 0.001),
        "the same, top 4 layers": ("public data alone, top 4 layers", 0.001),
        "hedge, ε = 8": ("hedge", 0.424),
        "hedge, ε = 1": ("hedge", 0.826),
    },
    "nyt": {
        "zero-shot": ("nyt zero-shot", None),
        "public data alone": ("nyt, public data alone", 0.001),
    },
}


def _shown(gap: Estimate) -> str:
    return f"{gap.value:+.3f} ± {gap.error:.3f}"


if __name__ == "__main__":
    main()
