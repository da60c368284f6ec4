"""What the rows say, in numbers: each set-up at its chosen rate, differences, retention, and their standard errors.

A set-up's figure is the mean over its seeds at the rate that validation chose. Two things make it uncertain, and
both are in its standard error: the draw of seeds, and the draw of test records. The second is taken over blocks of
whole groups, so that sentences of one article do not count as independent. Differences of two set-ups are taken block
by block on the same records.

Seeds are few. With three, a set-up's error over seeds has two degrees of freedom, that of a difference between two and
four, so a 95 % interval takes more than two standard errors, most where seeds are the larger part: `Estimate.interval`.

Set-ups share their test seeds, so their losses are correlated: one seed draws the same records and noise of the same
shape. Between levels of `hedge` up to σ = 1.7 the correlation is +0.85 to +1.00 over three to five seeds, and pairs by
seed have about half the error; at more noise it is anything from -1 to +1. An error over three pairs has two degrees of
freedom and is often small by luck, so a covariance that would lower an error is left out, and one that would raise it
is added (:func:`difference`). That leans to the large side, but a single error can still be too small: at σ = 3.304
three seeds happen to lie within 0.0013 of one another. :func:`by_seed` gives the pairs alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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
        over_seeds: Standard error from the seeds: 0 where nothing is trained, ``None`` where it is unknown, because
            something was trained with one seed only.
        over_records: Standard error from the test records.
        seed_freedom: Degrees of freedom of ``over_seeds``.
        blocks: Blocks of test records that ``over_records`` is taken over.
    """

    value: float
    over_seeds: float | None
    over_records: float
    seed_freedom: float
    blocks: int

    @property
    def error(self) -> float | None:
        """Both together; ``None`` where that of the seeds is unknown."""
        return None if self.over_seeds is None else math.hypot(self.over_seeds, self.over_records)

    @property
    def freedom(self) -> float | None:
        """Degrees of freedom of :attr:`error` (Satterthwaite)."""
        if self.over_seeds is None:
            return None
        return _freedom(
            (self.over_seeds**2, self.seed_freedom), (self.over_records**2, float(self.blocks - 1))
        )

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Student's interval."""
        error, freedom = self.error, self.freedom
        if error is None or freedom is None:
            return None
        reach = float(student.ppf((1 + level) / 2, freedom)) * error
        return self.value - reach, self.value + reach


def _freedom(*parts: tuple[float, float]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances with theirs; the least of them where all are 0."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return min(freedom for _, freedom in parts)
    return total**2 / sum(variance**2 / freedom for variance, freedom in parts if variance)


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
    def trained(self) -> bool:
        """Whether anything was trained, so that a seed matters."""
        return self.setup.silos != "nobody"

    @property
    def quiet(self) -> bool:
        """Whether its noise is nominal: training as it is without noise."""
        return self.setup.noise is not None and self.setup.noise < NOMINAL

    @property
    def nll(self) -> Floats:
        """Test NLL of each seed in nats, float64 [seeds]."""
        return np.array([row["test"]["nll"] for row in self.rows], np.float64)

    def blocks(self, what: str = "block_nll") -> tuple[Floats, Floats]:
        """Sums by block (nats, or right answers), mean over seeds, and the blocks' records; float64 [blocks] each."""
        sums = np.mean([row["test"][what] for row in self.rows], axis=0)
        return sums, np.array(self.rows[0]["test"]["block_records"], np.float64)

    def loss(self) -> Estimate:
        """Mean test NLL in nats; a record's is that of the right choice, or the mean of its tokens without choices."""
        return self._estimate(self.nll, *self.blocks())

    def accuracy(self) -> Estimate | None:
        """Share of test records answered right, 0 to 1; ``None`` for a task without choices."""
        if "accuracy" not in self.rows[0]["test"]:
            return None
        values = np.array([row["test"]["accuracy"] for row in self.rows])
        return self._estimate(values, *self.blocks("block_right"))

    def _estimate(self, values: Floats, sums: Floats, records: Floats) -> Estimate:
        over_seeds, freedom = _over_seeds(self, None, 0.0, values)
        return Estimate(float(values.mean()), over_seeds, *_over_records(sums, records, freedom))

    def of_seeds(self, seeds: set[Any]) -> Found:
        """The same with some seeds only."""
        rows = tuple(row for row in self.rows if row["seed"] in seeds)
        return Found(self.setup, self.rate, rows, self.search, self.bracketed)


def _over_seeds(
    left: Found, right: Found | None, weight: float, values: Floats | None = None
) -> tuple[float | None, float]:
    """Standard error over seeds of mean(left) - weight * mean(right), and its degrees of freedom.

    The variance is v_l / n_l + w² v_r / n_r - 2 w m c / (n_l n_r) with the covariance c of the m common seeds; its
    last term counts only where it raises the error. A set-up that trains nothing has none; one with a single
    seed has an unknown one, ``None``.
    """
    parts: list[tuple[float, float]] = []
    for side, scale in ((left, 1.0), (right, weight)):
        if side is None or not side.trained:
            continue
        losses = side.nll if values is None else values
        if len(losses) < 2:
            return None, 0.0
        parts.append((scale**2 * float(losses.var(ddof=1)) / len(losses), float(len(losses) - 1)))
    if not parts:
        return 0.0, math.inf
    variance, freedom = sum(v for v, _ in parts), _freedom(*parts)
    if right is not None and len(parts) == 2:
        a, b = _common(left, right)
        if len(a) > 1 and (raised := -2 * weight * len(a) * float(np.cov(a, b)[0, 1])) > 0:
            variance += raised / (len(left.rows) * len(right.rows))
            freedom = min(freedom, len(a) - 1.0)
    return math.sqrt(variance), freedom


def _common(left: Found, right: Found) -> tuple[Floats, Floats]:
    """Losses of the seeds that both have, in one order."""
    ours, theirs = ({row["seed"]: row["test"]["nll"] for row in f.rows} for f in (left, right))
    both = sorted(seed for seed in ours if seed is not None and seed in theirs)
    return np.array([ours[s] for s in both], np.float64), np.array([theirs[s] for s in both], np.float64)


def _over_records(sums: Floats, records: Floats, freedom: float) -> tuple[float, float, int]:
    """The last three of an :class:`Estimate`."""
    return _ratio_error(sums, records), freedom, int((records > 0).sum())


def _ratio_error(sums: Floats, records: Floats) -> float:
    """Standard error of sum(sums)/sum(records) over blocks (Cochran, Sampling Techniques, 1977, section 2.11)."""
    kept = records > 0
    sums, records = sums[kept], records[kept]
    residuals = sums - sums.sum() / records.sum() * records
    n = len(sums)
    return float(math.sqrt(n / (n - 1) * np.square(residuals).sum()) / records.sum())


def difference(left: Found, right: Found) -> Estimate:
    """Test NLL in nats of ``left`` minus ``right``, on the same records.

    Seeds count as independent, except that a negative covariance of common seeds is added: see the module's text.
    """
    sums, records = left.blocks()
    others, _ = right.blocks()
    over_seeds, freedom = _over_seeds(left, right, 1.0)
    value = float(left.nll.mean() - right.nll.mean())
    return Estimate(value, over_seeds, *_over_records(sums - others, records, freedom))


def by_seed(left: Found, right: Found) -> tuple[int, Estimate] | None:
    """The common seeds alone, as pairs: their number, and ``left`` minus ``right``; ``None`` with fewer than two.

    Its error over seeds has as many degrees of freedom as there are pairs, less one.
    """
    a, b = _common(left, right)
    if (pairs := len(a)) < 2:
        return None
    both = {row["seed"] for row in left.rows} & {row["seed"] for row in right.rows}
    sums, records = left.of_seeds(both).blocks()
    others, _ = right.of_seeds(both).blocks()
    error = float((a - b).std(ddof=1)) / math.sqrt(pairs)
    return pairs, Estimate(
        float((a - b).mean()), error, *_over_records(sums - others, records, float(pairs - 1))
    )


def retention(f: Found, zero: Found, best: Found) -> Estimate:
    """The share of what training gains that is left: (NLL - zero-shot) / (non-private - zero-shot).

    Its error is by the delta method, over seeds and over blocks: that of (left - r * best - (1 - r) * zero), divided
    by the gain without noise. It is good where that gain is many times its own error (eight and more in these rows).

    Args:
        f: A trained set-up.
        zero: Zero-shot on the same task.
        best: The same without noise, from :func:`without_noise`.
    """
    gain = float(best.nll.mean() - zero.nll.mean())
    value = float(f.nll.mean() - zero.nll.mean()) / gain
    over_seeds, freedom = _over_seeds(f, best, value)
    (sums, records), (most, _), (least, _) = f.blocks(), best.blocks(), zero.blocks()
    error, freedom, blocks = _over_records(sums - value * most - (1 - value) * least, records, freedom)
    seeds = None if over_seeds is None else over_seeds / abs(gain)
    return Estimate(value, seeds, error / abs(gain), freedom, blocks)


def without_noise(results: Mapping[tuple[str, float | None], Found], f: Found) -> Found | None:
    """The non-private run that ``f`` is held against: `hedge` with nominal noise and without a codec.

    It is of the same task, share of records, layers and, where one article is a client, clients. Pooled and public
    records are held against the silos', public ones against whatever share of them. ``None`` where no such run stands.
    """
    wanted = "silos" if f.setup.silos in ("pooled", "public") else f.setup.silos
    for other in results.values():
        setup = other.setup
        plain = setup.raw["system"]["kind"] == "hedge" and "codec" not in setup.raw
        share = f.setup.silos == "public" or setup.share == f.setup.share
        if other.quiet and plain and share and setup.silos == wanted and _kind(setup) == _kind(f.setup):
            return other
    return None


def _kind(setup: Setup) -> tuple[Any, ...]:
    return setup.task, setup.raw["lora"]["layers"], setup.raw["lora"].get("targets")


@dataclass(frozen=True)
class Paired:
    """The end-to-end comparison with central DP-SGD.

    Attributes:
        pairs: Pairs of runs.
        mean: Mean difference of test NLL in nats, hedge minus central.
        low: Lower end of the 90 % interval over pairs (Student's t, one degree of freedom less than pairs).
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
    """Pairs by rank of seed; ``None`` with fewer than two.

    The two have no seed in common, so who is paired with whom is arbitrary, and the interval is that of two
    independent samples.
    """
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


LEVELS = {8: 0.424, 1: 0.826}
"""Noise multiplier of the whole sum that each epsilon takes over two and four layers, without colluders."""
CLOSE = 1.05
"""A level of noise stands for another that is at most so many times larger or smaller."""


def level(results: Mapping[tuple[str, float | None], Found], name: str, noise: float) -> Found | None:
    """A family at the measured level of noise that stands for ``noise``; ``None`` where none is near."""
    levels = [f for (family, _), f in results.items() if family == name and f.setup.noise]
    near = [f for f in levels if 1 / CLOSE < (f.setup.noise or 0.0) / noise < CLOSE]
    return min(near, key=lambda f: abs(math.log((f.setup.noise or 1.0) / noise)), default=None)
