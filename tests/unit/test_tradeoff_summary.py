"""The trade-off study's tables and figures: its statistics, what they hold against what, and what the columns say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments.tradeoff import estimates, run, summary
from experiments.tradeoff.estimates import Found
from experiments.tradeoff.setups import Setup, setups

STUDY = run.read_study()
ALL = {(s.family, s.noise): s for s in setups(STUDY)}
ZERO, HEDGE, QUIET = ALL["zero-shot", None], ALL["hedge", 0.424], ALL["hedge", 0.001]


def found_with(losses: Mapping[Any, list[float]], setup: Setup = HEDGE, **more: Any) -> Found:
    """A set-up with one run a seed: mean losses by block, ten records each."""
    rows = [
        {
            "seed": seed,
            "rounds": 40,
            "silos": 4,
            **more,
            "test": {
                "nll": float(np.mean(blocks)),
                "block_nll": [10 * x for x in blocks],
                "block_records": [10] * len(blocks),
                "domain_nll": {"amazon": float(np.mean(blocks)), "nyt": 0.2},
            },
        }
        for seed, blocks in losses.items()
    ]
    return Found(setup, 1.0, tuple(rows), 3, True)


def level_losses(*values: float, first: int = 0) -> dict[Any, list[float]]:
    """Seeds with one loss on all records."""
    return {first + seed: [value] * 4 for seed, value in enumerate(values)}


def twice(blocks: estimates.Floats) -> dict[Any, list[float]]:
    """Two seeds with the same losses by block."""
    return {0: list(blocks), 1: list(blocks)}


def everything() -> dict[tuple[str, float | None], Found]:
    """All declared set-ups with three seeds and losses that rise with the noise."""
    results = {}
    for number, (key, setup) in enumerate(ALL.items()):
        loss = 0.4 if setup.silos == "nobody" else 0.3 + 0.01 * math.log1p(setup.noise or 0.0) + 1e-4 * number
        seeds = (None,) if setup.silos == "nobody" else (0, 1, 2)
        rows = {seed: [loss + 1e-3 * (seed or 0)] * 4 for seed in seeds}
        spent = None if (setup.noise or 0) < 0.01 else 8 / (setup.noise or 1.0)
        results[key] = found_with(
            rows, setup, epsilon=spent, bytes_up=160_000, bytes_down=320_000, seconds=1.0
        )
    return results


def test_differences_are_paired_by_block() -> None:
    """A shift that all records share is certain, however much the records differ."""
    blocks = np.random.default_rng(0).uniform(0, 1, 40)
    left = found_with({0: list(blocks + 0.1), 1: list(blocks + 0.1)})
    gap = estimates.difference(left, found_with({0: list(blocks), 1: list(blocks)}))
    assert gap.value == pytest.approx(0.1)
    assert gap.over_records == pytest.approx(0, abs=1e-12)
    assert left.loss().over_records == pytest.approx(blocks.std(ddof=1) / math.sqrt(40), rel=1e-9)


def test_the_interval_over_pairs_is_students() -> None:
    left = found_with(level_losses(0.30, 0.32, 0.31))
    found = estimates.paired(left, found_with(level_losses(0.30, 0.30, 0.30, first=100)))
    assert found is not None
    assert found.pairs == 3
    assert found.mean == pytest.approx(0.01)
    # Student's 95 % point with two degrees of freedom is 2.919986
    assert found.high - found.mean == pytest.approx(2.919986 * 0.01 / math.sqrt(3), rel=1e-5)


def test_a_difference_to_zero_shot_keeps_the_error_of_the_trained_sides_seeds() -> None:
    trained, zero = found_with(level_losses(0.30, 0.32, 0.31)), found_with({None: [0.4] * 4}, ZERO)
    for gap in (estimates.difference(trained, zero), estimates.difference(zero, trained)):
        assert gap.over_seeds == pytest.approx(0.01 / math.sqrt(3))
        assert gap.error == pytest.approx(0.01 / math.sqrt(3))
    assert zero.loss().over_seeds == 0


def test_one_seed_of_a_trained_set_up_has_no_error_at_all() -> None:
    one, three = found_with({0: [0.3, 0.2]}), found_with({0: [0.3, 0.2], 1: [0.3, 0.4]}, QUIET)
    zero = found_with({None: [0.4, 0.5]}, ZERO)
    assert summary.shown(one.loss()) == "0.250 ± –"
    for left, right in ((one, three), (three, one), (one, zero)):
        gap = estimates.difference(left, right)
        assert (gap.over_seeds, gap.error, gap.interval()) == (None, None, None)
        assert summary.shown(gap, signed=True).endswith("± –")
    assert estimates.retention(one, zero, three).error is None
    assert estimates.by_seed(one, three) is None


def test_common_seeds_raise_an_error_and_never_lower_it() -> None:
    rising, falling = level_losses(0.30, 0.31, 0.32), level_losses(0.42, 0.41, 0.40)
    alone = math.hypot(0.01, 0.01) / math.sqrt(3)
    together = estimates.difference(found_with(rising), found_with(level_losses(0.40, 0.41, 0.42), QUIET))
    assert together.over_seeds == pytest.approx(alone)
    apart = estimates.difference(found_with(rising), found_with(falling, QUIET))
    assert apart.over_seeds == pytest.approx(0.02 / math.sqrt(3))  # the pairs' own error
    assert apart.seed_freedom == 2
    other = {seed + 100: losses for seed, losses in falling.items()}
    strangers = estimates.difference(found_with(rising), found_with(other, QUIET))
    assert strangers.over_seeds == pytest.approx(alone)
    assert strangers.seed_freedom == pytest.approx(4)


def test_common_seeds_alone_are_pairs() -> None:
    left = found_with(level_losses(0.30, 0.31, 0.33, 0.50))
    found = estimates.by_seed(left, found_with(level_losses(0.20, 0.20, 0.21), QUIET))
    assert found is not None
    pairs, gap = found
    assert (pairs, gap.seed_freedom) == (3, 2)
    assert gap.value == pytest.approx(0.11)
    assert gap.over_seeds == pytest.approx(0.01 / math.sqrt(3))


def test_an_interval_of_three_seeds_is_wider_than_two_errors() -> None:
    loss = found_with(level_losses(0.30, 0.31, 0.32)).loss()
    low, high = loss.interval() or (0.0, 0.0)
    assert loss.freedom == pytest.approx(2)
    # Student's 97.5 % point with two degrees of freedom is 4.302653
    assert high - low == pytest.approx(2 * 4.302653 * 0.01 / math.sqrt(3), rel=1e-5)


def test_retentions_error_is_by_the_delta_method() -> None:
    zero, best = (
        found_with({None: [0.4] * 4}, ZERO),
        found_with(level_losses(0.29, 0.30, 0.31, first=10), QUIET),
    )
    half = estimates.retention(found_with(level_losses(0.33, 0.35, 0.37)), zero, best)
    assert half.value == pytest.approx(0.5)
    # d(z - s)/(b - s): z by 1/(b - s), b by r/(b - s)
    assert half.over_seeds == pytest.approx(math.hypot(0.02, 0.5 * 0.01) / math.sqrt(3) / 0.1)
    assert half.over_records == pytest.approx(0, abs=1e-12)


def test_retentions_error_over_records_is_that_of_its_three_losses_together() -> None:
    generator = np.random.default_rng(1)
    zero, gain = generator.uniform(0.4, 0.6, 40), generator.uniform(0.1, 0.2, 40)
    wobble = generator.normal(0, 0.01, 40)
    wobble -= wobble.mean()
    s, b = found_with({None: list(zero)}, ZERO), found_with(twice(zero - gain), QUIET)
    exact = estimates.retention(found_with(twice(zero - 0.7 * gain)), s, b)
    assert exact.value == pytest.approx(0.7)
    assert exact.error == pytest.approx(0, abs=1e-12)
    loose = estimates.retention(found_with(twice(zero - 0.7 * gain + wobble)), s, b)
    assert loose.over_records == pytest.approx(wobble.std(ddof=1) / math.sqrt(40) / gain.mean())


@pytest.mark.parametrize(
    ("family", "noise", "best"),
    [
        ("hedge", 0.424, "hedge"),
        ("central DP-SGD", 0.424, "hedge"),
        ("public data alone", 0.001, "hedge"),
        ("hedge, public subspace k=64", 0.826, "hedge"),
        ("dp_lora as published", 2.0, "hedge"),
        ("hedge, top 4 layers", 0.826, "hedge, top 4 layers"),
        ("public data alone, top 4 layers", 0.001, "hedge, top 4 layers"),
        ("all layers, identity", 0.664, "all layers, identity"),
        ("all layers, public subspace k=64", 1.98, "all layers, identity"),
        ("all layers, public subspace k=64", 0.001, "all layers, identity"),
        ("nyt, 10 clients", 1.7, "nyt, 10 clients"),
        ("nyt, 50 clients, public subspace k=16", 1.7, "nyt, 50 clients"),
        ("nyt, all clients", 1.7, "nyt, all clients"),
        ("nyt, public data alone", 0.001, None),
    ],
)
def test_each_is_held_against_its_own_run_without_noise(family: str, noise: float, best: str | None) -> None:
    results = everything()
    found = estimates.without_noise(results, results[family, noise])
    assert found is (None if best is None else results[best, 0.001])
    if best is not None:
        f = results[family, noise]
        del results[best, 0.001]
        assert estimates.without_noise(results, f) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [(8.004, "8.01"), (45.725, "45.8"), (46.212, "46.3"), (7.982, "7.99"), (0.998, "0.998"), (9.999, "10"),
     (0.056, "0.056"), (None, "–")],
)  # fmt: skip
def test_an_epsilon_is_rounded_up(value: float | None, written: str) -> None:
    assert summary.epsilon(value) == written


def cells(
    results: Mapping[tuple[str, float | None], Found], task: str = "sentiment"
) -> dict[str, dict[str, str]]:
    """A table's cells by name of set-up and column."""
    head, _, *lines = ([c.strip() for c in line.split("|")[1:-1]] for line in summary.table(results, task))
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_bytes_are_of_one_silo_and_round_both_ways() -> None:
    name = "hedge, public subspace k=64"
    some: dict[str, Any] = {"bytes_up": 31_632, "masked_bytes_up": 600}
    results: dict[tuple[str, float | None], Found] = {
        (name, 0.826): found_with(level_losses(0.3), ALL[name, 0.826], bytes_down=511_220_664, **some),
        ("hedge", 0.424): found_with(
            level_losses(0.3), bytes_down=7_874_904, **some | {"masked_bytes_up": None}
        ),
        ("central DP-SGD", 0.424): found_with(
            level_losses(0.3), ALL["central DP-SGD", 0.424], bytes_down=7_874_904, **some
        ),
    }
    table = cells(results)
    up, down = "up (under masks), B", "down, B"
    assert (table[name][up], table[name][down]) == ("198 (600)", "3,195,129")
    assert (table["hedge"][up], table["hedge"][down]) == ("198", "49,218")
    assert (table["central DP-SGD"][up], table["central DP-SGD"][down]) == ("–", "–")
    # What goes down does not depend on noise: more of it is an older form of messages.
    newer = found_with(level_losses(0.3), ALL[name, 0.424], bytes_down=58_218_152, **some)
    lines = [line for line in summary.table({**results, (name, 0.424): newer}, "sentiment") if "†" in line]
    assert len(lines) == 1
    assert "3,195,129 †" in lines[0]


def test_seconds_on_the_wall_are_marked() -> None:
    def shown(*rows: dict[str, float]) -> str:
        base = found_with(level_losses(*[0.3] * len(rows)))
        mixed = tuple({**row, **more} for row, more in zip(base.rows, rows, strict=True))
        return cells({("hedge", 0.424): Found(HEDGE, 1.0, mixed, 3, True)})["hedge"]["CPU s"]

    assert shown({"seconds": 90.0, "cpu_seconds": 30.0}) == "30"
    assert shown({"seconds": 90.0, "cpu_seconds": 30.0}, {"seconds": 80.0}) == "85 wall"


def test_every_epsilon_stands_with_its_unit_and_relation() -> None:
    table = cells(everything())
    assert table["dp_lora as published"]["ε"] == "4 (per client, zero-out)"
    assert table["hedge, random projection k=64"]["ε"] == "4.85"
    assert (
        "per client, zero-out, δ = 1e-5, against the server, no colluders"
        in summary.notes(everything(), "nyt")[0]
    )
    assert "per record, add-remove, δ = 1e-5" in summary.notes(everything(), "sentiment")[0]


def test_tables_name_what_they_hold_against_what() -> None:
    results = everything()
    lines = list(summary.differences(results, "nyt"))
    assert len(lines) == 2 + sum(f.setup.task == "nyt" and f.trained for f in results.values())
    domains = summary.domains(results)
    assert domains[0] == "| set-up | ε | amazon | nyt |"
    assert domains[2] == "| zero-shot | – | 0.400 | 0.200 |"
    assert all("±" in line for line in domains[3:])


def test_figures_read_the_levels_that_tables_read() -> None:
    from experiments.tradeoff import figure

    results = everything()
    table = [line.split(" | ") for line in summary.against_local(results)[2:]]
    drawn = [
        (epsilon, n, f"{f.loss().value:.3f}")
        for epsilon, sigma in estimates.LEVELS.items()
        for n, f in figure.of_silos(results, sigma)
        if n > 1
    ]
    assert drawn == [(int(row[0].strip("| ")), int(row[2]), row[3]) for row in table]
    # Where no level is measured nothing is drawn between its neighbours.
    del results["hedge", 1.652]
    assert [n for n, _ in figure.of_silos(results, 0.424)] == [1, 4, 64]


def test_figures_have_one_colour_a_thing_named_lines_and_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.tradeoff import figure
    from matplotlib.figure import Figure

    sheets: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: sheets.setdefault(path.stem, self))
    figure.draw(everything(), tmp_path)
    assert len(set(figure.COLOURS.values())) == len(figure.COLOURS)
    for name, promise in (("tradeoff", "per record, add-remove"), ("client_level", "per client, zero-out")):
        title = sheets[name].get_suptitle()
        assert f"ε {promise}, δ = 1e-5, against the server, no colluders." in title
        for axis in sheets[name].axes:
            assert axis.get_ylabel()
            assert axis.yaxis.get_tick_params()["labelleft"]
            named = {text.get_color() for text in axis.texts}
            assert {line.get_color() for line in axis.lines if line.get_linestyle() == "--"} <= named


def test_the_tables_that_stand_are_what_the_rows_say() -> None:
    told = summary.page(STUDY, run.open_results(STUDY).rows)
    assert summary.TABLES.read_text(encoding="utf-8") == told, "run python -m experiments.tradeoff.summary"
