"""hedge on 1, 2 and 4 silos and central DP-SGD open equal integers over a whole run, and cost the same epsilon."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from support.toy import DIMENSION, ToyExample, ToyTrainer, config, examples, federation, split

from privet.clip import clip_rows
from privet.config import Config, NoSealing
from privet.fixed_point import round_units
from privet.keys import ClientKeys
from privet.mechanism import GaussianMechanism
from privet.noise import rounded_gaussian
from privet.optimiser import Optimiser
from privet.protocol import RoundId
from privet.resolve import resolve
from privet.sampling import sample_units

ROUNDS = 6
Integers = NDArray[np.int64]


def hedge(parties: int, seal: str = "none") -> Config:
    """A hedge run whose shares add up to the same noise for any number of silos."""
    asked = config(
        schedule={"rounds": ROUNDS},
        privacy={"noise_multiplier": 1.5, "trust": {"colluders": 0}},
    )
    return asked if seal == "masked" else asked.model_copy(update={"sealing": NoSealing()})


def total_noise(number: int, mechanism: GaussianMechanism) -> Integers:
    """The noise of a whole round, the same for every split."""
    return rounded_gaussian(mechanism.std_steps, mechanism.dimension, number.to_bytes(32, "big"))


class InjectedShares:
    """Splits a round's total noise over the silos at random; the last silo's share makes the sum come out."""

    def __init__(self, parties: int) -> None:
        self.parties, self.calls = parties, 0
        self.given = np.zeros(DIMENSION, np.int64)

    def share(self, mechanism: GaussianMechanism, key: bytes) -> Integers:
        number, position = divmod(self.calls, self.parties)
        self.calls += 1
        if position == 0:
            self.given = np.zeros(DIMENSION, np.int64)
        if position == self.parties - 1:
            return total_noise(number, mechanism) - self.given
        share = rounded_gaussian(mechanism.share_std_steps, mechanism.dimension, key)
        self.given = self.given + share
        return share


def run_hedge(
    monkeypatch: pytest.MonkeyPatch, parties: int, records: list[ToyExample], seal: str = "none"
) -> tuple[list[Integers], NDArray[np.float32]]:
    """Opened sums and the final adapter of a run whose total noise is injected."""
    injected = InjectedShares(parties)
    monkeypatch.setattr(GaussianMechanism, "share", lambda mechanism, key: injected.share(mechanism, key))  # noqa: PLW0108 - binds the mechanism
    f = federation(hedge(parties, seal), split(records, parties))
    opened: list[Integers] = []
    apply = f.server.aggregator.apply

    def recording(round_id: RoundId, total: Integers, apart: Any) -> float:
        opened.append(total)
        return apply(round_id, total, apart)

    f.server.aggregator.apply = recording  # type: ignore[method-assign]  # a spy
    f.engine.run(f.server.steps())
    return opened, f.server.aggregator.flat


def central_dp_sgd(records: list[ToyExample]) -> tuple[list[Integers], NDArray[np.float32]]:
    """DP-SGD on the pooled records, written out without any part of the federation."""
    c = hedge(1)
    assert c.privacy is not None
    mechanism = GaussianMechanism(1.0, 1.5, DIMENSION, floor=1)
    keys = ClientKeys.from_insecure_test_seed(7, party=0)
    trainer, flat = ToyTrainer(), np.zeros(DIMENSION, np.float32)
    optimiser = Optimiser.fresh(c.schedule.server, DIMENSION, ROUNDS)
    opened = []
    for number in range(ROUNDS):
        round_id = RoundId(number)
        batch = [records[i] for i in sample_units([r.id for r in records], 0.2, keys, round_id)]
        trainer.set_flat(flat)
        gradients = np.concatenate([rows for _, rows in trainer.per_unit_gradients(batch, 1000)])
        clipped, _ = clip_rows(-gradients, 1.0)
        unit_keys = keys.unit_keys("rounding", round_id, [r.id for r in batch])
        total = round_units(clipped, mechanism.grid, unit_keys).sum(axis=0) + total_noise(number, mechanism)
        opened.append(total)
        flat = optimiser.step(flat, (total * (mechanism.grid.step / 40)).astype(np.float32))
    return opened, flat


@pytest.mark.parametrize(("parties", "seal"), [(1, "none"), (2, "none"), (4, "none"), (4, "masked")])
def test_hedge_opens_the_integers_of_central_dp_sgd(
    monkeypatch: pytest.MonkeyPatch, parties: int, seal: str
) -> None:
    records = examples(300)
    expected, adapter = central_dp_sgd(records)
    opened, flat = run_hedge(monkeypatch, parties, records, seal)
    assert len(opened) == ROUNDS
    for one, other in zip(opened, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(flat, adapter)
    assert any(not np.array_equal(a, b) for a, b in pairwise(opened)), "rounds differ"


def test_epsilon_does_not_depend_on_the_number_of_silos() -> None:
    """The same total noise costs the server the same, whether one silo adds it or four add shares."""
    values = []
    for parties in (1, 2, 4):
        resolved = resolve(hedge(parties), dimension=DIMENSION, parties=parties)
        ledger = resolved.ledger()
        for release in resolved.planned():
            ledger.charge(release)
        values.append(ledger.epsilon("server").value)
    assert values[0] == values[1] == values[2]
    assert 0 < values[0] < 20


def test_the_sum_of_real_shares_has_the_accounted_variance() -> None:
    """Chi-square on sums without any record; false alarm 1e-6 for each number of silos (two sides)."""
    for parties in (1, 2, 4):
        f = federation(hedge(parties), [[] for _ in range(parties)])
        mechanism = f.server.system.mechanism
        assert mechanism is not None
        squares, count = 0.0, 0

        def collect(round_id: RoundId, total: Integers, apart: Any) -> float:
            nonlocal squares, count
            squares += float((total.astype(np.float64) ** 2).sum())
            count += len(total)
            return 0.0

        f.server.rounds = 60
        f.server.aggregator.apply = collect  # type: ignore[method-assign]  # a spy
        f.engine.run(f.server.steps())
        # rounding adds a twelfth to each share's variance
        variance = mechanism.std_steps**2 + parties / 12
        low, high = chi2.ppf([5e-7, 1 - 5e-7], count)
        assert low < squares / variance < high, (parties, squares / variance / count)


def test_trap_06_the_denominator_is_public() -> None:
    """Dropping a silo leaves the denominator as it is: the mean of a sum is the sum times one public constant."""
    records = examples(200)
    whole: Any = federation(hedge(4), split(records, 4)).server.system.pipeline
    half: Any = federation(hedge(4), [*split(records[:100], 3), []]).server.system.pipeline
    total = np.arange(DIMENSION, dtype=np.int64)
    np.testing.assert_array_equal(whole.backward(total), half.backward(total))
    assert whole.rounding.denominator == 40
