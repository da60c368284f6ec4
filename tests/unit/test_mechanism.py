from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from privet.errors import PrivetError
from privet.keys import derive
from privet.mechanism import GaussianMechanism
from privet.noise import rounded_gaussian
from privet.privacy.events import Sampling

ROOT = bytes(range(32))


@pytest.mark.parametrize("floor", [1, 3, 64])
@pytest.mark.parametrize("sigma", [0.02, 0.7, 20.0])
@pytest.mark.parametrize("dimension", [1, 4096])
def test_shares_of_the_floor_make_the_declared_noise(floor: int, sigma: float, dimension: int) -> None:
    mechanism = GaussianMechanism(0.3, sigma, dimension, floor)
    assert mechanism.share_std_steps >= 4
    assert floor * mechanism.share_std_steps**2 == pytest.approx((sigma * mechanism.grid.bound) ** 2)
    assert mechanism.noise_std == pytest.approx(sigma * mechanism.grid.sensitivity)
    assert 0.3 < mechanism.grid.sensitivity <= 0.3 * 1.01 + 1e-12
    assert mechanism.observer_multiplier(floor) == pytest.approx(sigma)


def test_what_runs_is_what_is_accounted() -> None:
    mechanism = GaussianMechanism(1.0, 1.3, 50, 2)
    release = mechanism.release("sum of gradients", count=7, sampling=Sampling.poisson(0.01))
    assert (release.name, release.count, release.sampling) == ("sum of gradients", 7, Sampling.poisson(0.01))
    assert release.noise_multiplier == mechanism.noise_multiplier == 1.3
    assert release.delta_prime == mechanism.delta_prime
    key = derive(ROOT, "share")
    assert (mechanism.share(key) == rounded_gaussian(mechanism.share_std_steps, 50, key)).all()
    assert mechanism.release("x").sampling == Sampling.none()


def test_observers_are_charged_for_the_shares_they_do_not_know() -> None:
    mechanism = GaussianMechanism(1.0, 2.0, 10, floor=4)
    assert mechanism.observer_multiplier(5) == pytest.approx(2.0 * math.sqrt(5 / 4))
    assert mechanism.observer_multiplier(4) == 2.0
    assert mechanism.observer_multiplier(1) == 1.0
    assert mechanism.observer_multiplier(0) == mechanism.observer_multiplier(-1) == 0.0


def test_distance_is_charged_for_several_shares_and_every_coordinate() -> None:
    assert GaussianMechanism(1.0, 1.0, 10**6).delta_prime == 0.0
    # shares as narrow as they may be: the distance is of the order of 10**-69 a coordinate
    narrow = GaussianMechanism(1.0, 0.02, 64, floor=64)
    assert 4 <= narrow.share_std_steps < 4.2
    assert 1e-80 < narrow.delta_prime < 64 * 1.1e-69


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.inf}, "clip_norm"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": 1e12}, "noise_multiplier"),
        ({"noise_multiplier": 1e-10}, "finer"),
        ({"dimension": 0}, "dimension"),
        ({"floor": 0}, "floor"),
    ],
)
def test_impossible_mechanisms_are_refused(change: dict[str, float], word: str) -> None:
    good = {"clip_norm": 1.0, "noise_multiplier": 1.0, "dimension": 10, "floor": 2}
    with pytest.raises(PrivetError, match=word):
        GaussianMechanism(**(good | change))


def test_a_mechanism_cannot_be_changed_after_it_was_accounted() -> None:
    mechanism = GaussianMechanism(1.0, 1.0, 10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mechanism.noise_multiplier = 0.1
    assert mechanism == GaussianMechanism(1.0, 1.0, 10)
    assert hash(mechanism) == hash(GaussianMechanism(1.0, 1.0, 10))


def test_plan_forecasts_the_noise() -> None:
    mechanism = GaussianMechanism(0.5, 1.0, 2500, floor=4)
    plan = mechanism.plan(units=256)
    assert plan["noise_norm"] == pytest.approx(0.5 * 50, rel=0.011)
    assert plan["largest_signal"] == 128
    assert plan["noise_to_signal"] == pytest.approx(25 / 128, rel=0.011)
    assert 0 < plan["sensitivity_inflation"] <= 0.01 + 1e-12
    assert mechanism.plan(units=0)["noise_to_signal"] == math.inf
    shares = [mechanism.share(derive(ROOT, i)) for i in range(4)]
    assert np.linalg.norm(np.sum(shares, axis=0)) * mechanism.grid.step == pytest.approx(
        plan["noise_norm"], rel=0.1
    )
