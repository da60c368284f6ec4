"""Noise as it arrives in opened sums: as much as the ledger charges, fresh, whole, and in every round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, poisson
from support.planted import Planted, federation, run, watch
from support.toy import config

from privet.config import Config, Dropout, NoSealing
from privet.federation import Federation
from privet.fixed_point import Grid
from privet.keys import derive
from privet.mechanism import GaussianMechanism
from privet.pipeline import Pass, Pipeline
from privet.privacy.events import Release
from privet.protocol import RoundId
from privet.systems.parts import noised

DIMENSION = 512
ROUNDS = 12


def charged(f: Federation) -> Release:
    """The one kind of release in a run's ledger."""
    (release,) = f.server.ledger.releases
    assert isinstance(release, Release)
    return release


def asked(**sections: Any) -> Config:
    schedule = {"rounds": ROUNDS, **sections.pop("schedule", {})}
    privacy = {"noise_multiplier": 1.5, **sections.pop("privacy", {})}
    return config(schedule=schedule, privacy=privacy, **sections)


BY_CLIENT = {"sampling_rate": None, "expected_batch": None}
SYSTEMS: dict[str, tuple[dict[str, Any], int]] = {
    "hedge, records": ({"privacy": {"trust": {"colluders": 0}}}, 4),
    "hedge, records, a participant colludes": ({}, 4),
    "hedge, records, one drops out": ({"schedule": {"min_survivors": 4}}, 5),
    "hedge, clients": ({"privacy": {"unit": "client", "relation": "zero-out"}, "schedule": BY_CLIENT}, 4),
    "fedshield": (
        {
            "system": {"kind": "fedshield"},
            "privacy": {"unit": "client", "relation": "zero-out"},
            "schedule": BY_CLIENT,
        },
        4,
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_trap_09_opened_sums_hold_the_noise_that_the_ledger_charges(name: str) -> None:
    """Chi-square of sums without any signal, against ledger and trust model; false alarm 1e-6 for each system.

    The sensitivity is the bound that units are held to, sigma is the ledger's, and the shares that count are those the
    declared trust model leaves: survivors demanded minus colluders.
    """
    sections, parties = SYSTEMS[name]
    c = asked(**sections)
    if "drops" in name:
        c = c.model_copy(
            update={"engine": c.engine.model_copy(update={"dropouts": (Dropout(round=0, party=1),)})}
        )
    f = federation(c, [[] for _ in range(parties)], DIMENSION)
    seen = run(f)
    assert len(seen.sums) == charged(f).count == ROUNDS
    demanded = c.schedule.min_survivors or parties
    assert {len(s) for s in seen.survivors} == {demanded}
    assert c.privacy is not None
    honest = demanded - c.privacy.trust.colluders
    # Whoever knows the colluders' shares is left with those of the honest, which must be all of sigma.
    delta = f.server.system.pipeline.rounding.grid.bound
    variance = (charged(f).noise_multiplier * delta) ** 2 * demanded / honest + demanded / 12
    values = np.concatenate(seen.sums).astype(np.float64)
    low, high = chi2.ppf([5e-7, 1 - 5e-7], len(values))
    assert low < float(values @ values) / variance < high


def test_trap_09_every_local_step_of_dp_lora_holds_its_noise_in_full() -> None:
    """A client's message, without signal, has the noise of all its steps; false alarm 1e-6."""
    steps, rate, batch = 3, 0.5, 40
    c = asked(
        system={"kind": "dp_lora"},
        schedule={"local": {"steps": steps, "learning_rate": rate}, "expected_batch": batch},
    ).model_copy(update={"sealing": NoSealing()})
    f = federation(c, [[], [], []], DIMENSION)
    seen = run(f)
    assert charged(f).count == ROUNDS * steps
    grid = GaussianMechanism(1.0, charged(f).noise_multiplier, DIMENSION, 1).grid
    one_step = charged(f).noise_multiplier * grid.bound * grid.step * rate / batch
    outer = f.server.system.pipeline.rounding.grid.step
    values = np.concatenate(seen.sums).astype(np.float64) * outer
    low, high = chi2.ppf([5e-7, 1 - 5e-7], len(values))
    assert low < float(values @ values) / (3 * steps * one_step**2) < high


@pytest.mark.parametrize("records", [0, 3])
def test_trap_05_a_round_without_sampled_records_is_noised_and_charged(records: int) -> None:
    """The same chi-square where silos have no records, or records that hardly ever get sampled."""
    some = [Planted(f"r{i}", np.ones(DIMENSION, np.float32)) for i in range(records)]
    f = federation(asked(schedule={"sampling_rate": 1e-9}), [some, [], [], []], DIMENSION)
    seen = run(f)
    assert len(seen.sums) == charged(f).count == ROUNDS
    delta = f.server.system.pipeline.rounding.grid.bound
    variance = (charged(f).noise_multiplier * delta) ** 2 * 4 / 3
    for total in seen.sums:
        low, high = chi2.ppf([5e-8, 1 - 5e-8], DIMENSION)
        assert low < float(np.square(total.astype(np.float64)).sum()) / variance < high


class Draws:
    """Real keys are not needed to look at one draw."""

    def noise(self, purpose: str) -> bytes:
        return derive(bytes(32), purpose)

    def rounding(self, units: Any) -> list[bytes]:
        return [derive(bytes(32), unit) for unit in units]


def test_trap_09_noise_is_never_clamped() -> None:
    """Tails of a contribution whose noise exceeds the range of its sum 20 times; false alarm 2e-6 in all."""
    size = 1 << 19
    mechanism = GaussianMechanism(1.0, 20.0, size)
    pipeline = Pipeline(noised(mechanism, denominator=1, units=1))
    assert pipeline.rounding.limit * 15 < mechanism.share_std_steps
    values = pipeline.forward([], size, Pass(RoundId(0), Draws()))
    for reach, tail in ((3.0, 2.699796e-3), (4.0, 6.334248e-5)):
        beyond = int((np.abs(values) > reach * mechanism.share_std_steps).sum())
        low, high = poisson.ppf([5e-7, 1 - 5e-7], size * tail)
        assert low <= beyond <= high, reach


def test_trap_09_the_lowest_bit_of_the_noise_is_noise() -> None:
    """Floats of 24 bits cannot make a fair last bit of a draw near 2^29; false alarm 1e-6 (chi-square on parity)."""
    mechanism = GaussianMechanism(1.0, 2.0**30 / 1000, 2048)
    assert mechanism.share_std_steps > 2**28
    draws = mechanism.share(derive(bytes(32), "low bits"))
    assert draws.dtype == np.int64
    odd = int((draws & 1).sum())
    assert abs(odd - 1024) < 4.9 * np.sqrt(2048 / 4)


def contributions(f: Federation, kept: list[NDArray[np.float64]]) -> None:
    """Record what each client hands to its seal: here nothing but noise."""
    for client in f.clients.values():
        sealing: Any = client.sealing
        seal = sealing.seal

        def spying(round_id: RoundId, values: Any, question: bytes, *, seal: Any = seal) -> Any:
            kept.append(values.astype(np.float64))
            return seal(round_id, values, question)

        sealing.seal = spying


def test_trap_10_noise_is_fresh_over_clients_rounds_and_restarts(tmp_path: Path) -> None:
    """No two noise draws of a run are correlated, also after all restarted; false alarm below 1e-7 (190 pairs)."""
    c = asked(insecure_test_seed=None, schedule={"rounds": 4}).model_copy(update={"sealing": NoSealing()})
    kept: list[NDArray[np.float64]] = []
    for first in (0, 3):
        f = federation(c, [[], [], [], []], DIMENSION, folder=tmp_path)
        contributions(f, kept)
        watch(f)
        f.server.progress.number = f.server.aggregator.rounds = first  # type: ignore[union-attr]  # level none
        if first:
            # Clients answered round 3 before they restarted; the server's second attempt is a new release.
            f.server.progress.attempt = 1
        f.engine.run(f.server.steps())
    assert len(kept) == 4 * 5
    correlation = np.asarray(np.corrcoef(np.stack(kept)))
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 6.7 / np.sqrt(DIMENSION)


def test_the_grid_keeps_the_sensitivity_within_a_percent() -> None:
    """What the chi-squares above take for the sensitivity is the clip norm and a percent."""
    grid = Grid.for_clip(1.0, DIMENSION)
    assert 1.0 <= grid.bound * grid.step <= 1.01 + 1e-9
