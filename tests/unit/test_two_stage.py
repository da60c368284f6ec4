"""The two-stage theorem: closed form against PLD, worst-case privacy loss, cohorts, sampling, message."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.stage_one import read_statistics, statistics_message

from privet.privacy.accountants import compute
from privet.privacy.events import Sampling
from privet.privacy.two_stage import TwoStage, gaussian_delta

REFERENCE = TwoStage(3, 20.0, 50, 8.0)


@pytest.mark.parametrize(
    "stages",
    [REFERENCE, TwoStage(1, 10.0, 100, 20.0), TwoStage(5, 30.0, 20, 5.0), TwoStage(3, 6.0, 200, 30.0)],
)
@pytest.mark.parametrize("delta", [1e-5, 1e-8])
def test_closed_form_equals_pld(stages: TwoStage, delta: float) -> None:
    found = compute(stages.releases(), delta)
    assert stages.epsilon(delta) == pytest.approx(found.pld, rel=1e-5)
    assert stages.epsilon(delta) == pytest.approx(found.exact, abs=1e-9)
    assert stages.delta(stages.epsilon(delta)) == pytest.approx(delta, rel=1e-6)


def test_reference_values() -> None:
    assert REFERENCE.epsilon(1e-5) == pytest.approx(3.817424, abs=1e-6)
    assert compute(REFERENCE.releases(), 1e-5).rdp == pytest.approx(4.128162, rel=1e-5)
    best = min(
        REFERENCE.rdp(a) + math.log1p(-1 / a) - math.log(1e-5 * a) / (a - 1) for a in np.arange(2, 30, 0.1)
    )
    assert best == pytest.approx(4.128162, rel=1e-3), "RDP of the theorem, converted as dp-accounting does"


def test_replace_one_doubles_mu() -> None:
    swapped = TwoStage(3, 20.0, 50, 8.0, "replace-one")
    assert swapped.mu == 2 * REFERENCE.mu
    assert swapped.epsilon(1e-5) == pytest.approx(compute(REFERENCE.releases(), 1e-5, "replace-one").exact)


def test_delta_is_the_mean_positive_part_of_the_worst_case_privacy_loss() -> None:
    mean, variance = REFERENCE.privacy_loss
    loss = mean + math.sqrt(variance) * np.linspace(-12, 12, 200_001)
    density = np.exp(-((loss - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    for epsilon in (0.0, 0.5, 2.0):
        integral = np.sum(np.maximum(0, -np.expm1(epsilon - loss)) * density) * (loss[1] - loss[0])
        assert REFERENCE.delta(epsilon) == pytest.approx(integral, rel=1e-6)


def test_disjoint_cohorts_cost_the_larger_stage() -> None:
    apart = compute(REFERENCE.releases(cohorts=("first", "second")), 1e-5)
    stage1, stage2 = TwoStage(3, 20.0, 0, 1.0), TwoStage(0, 1.0, 50, 8.0)
    assert apart.exact == pytest.approx(max(stage1.epsilon(1e-5), stage2.epsilon(1e-5)))
    assert max(stage1.mu, stage2.mu) < REFERENCE.mu


def test_sampling_in_stage_two_has_no_closed_form() -> None:
    found = compute(REFERENCE.releases(Sampling.poisson(0.1)), 1e-5)
    assert found.exact is None
    assert found.pld is not None
    assert TwoStage(3, 20.0, 0, 1.0).epsilon(1e-5) < found.pld < REFERENCE.epsilon(1e-5)
    assert found.rdp is not None
    assert found.rdp > found.pld


def test_nothing_released_is_mu_zero() -> None:
    nothing = TwoStage(0, 1.0, 0, 1.0)
    assert (nothing.mu, nothing.epsilon(1e-5), nothing.delta(0.0)) == (0.0, 0.0, 0.0)
    assert nothing.releases() == []
    assert gaussian_delta(5.0, 1e-3) == 0.0


def test_the_message_holds_scaled_mean_and_std_of_each_tensor() -> None:
    update = np.array([[1.0, 3.0, 5.0, 5.0, 5.0]])
    message = statistics_message(update, [2, 3], clip_norm=100.0)
    expected = [math.sqrt(2) * 2, math.sqrt(2) * 1, math.sqrt(3) * 5, 0.0]
    np.testing.assert_allclose(message, [expected], atol=1e-12)
    mean, std = read_statistics(message[0], [2, 3])
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(std, [1, 0], atol=1e-12)


def test_a_negative_noisy_std_is_read_as_zero() -> None:
    _, std = read_statistics(np.array([0.3, -0.5]), [4])
    assert std[0] == 0.0
