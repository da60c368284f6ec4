"""Releases as values: what they accept, what they mean, and that they do not load the accountant."""

from __future__ import annotations

import subprocess
import sys

import dp_accounting
import pytest

from privet.errors import PrivetError
from privet.privacy.events import NoGuarantee, Release, Sampling, Shares


def test_importing_the_package_loads_neither_the_accountant_nor_torch() -> None:
    code = (
        "import sys, privet.privacy, privet.account; "
        "print([m for m in ('dp_accounting', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_events_say_what_runs() -> None:
    gaussian = dp_accounting.GaussianDpEvent(2.0)
    assert Release("a", 2.0).event() == gaussian
    assert Release("a", 2.0, 5).event() == dp_accounting.SelfComposedDpEvent(gaussian, 5)
    assert Release("a", 2.0, sampling=Sampling.poisson(0.1)).event() == dp_accounting.PoissonSampledDpEvent(
        0.1, gaussian
    )
    fixed = dp_accounting.SampledWithoutReplacementDpEvent(100, 10, gaussian)
    assert Release("a", 2.0, sampling=Sampling.fixed(10, 100)).event() == fixed
    assert NoGuarantee("a", "exact").event() == dp_accounting.NonPrivateDpEvent()


def test_shares_scale_the_noise_by_the_root_of_those_that_protect() -> None:
    assert Release("a", 8.0, shares=Shares(10, 7)).effective_noise_multiplier == pytest.approx(8 * 0.7**0.5)
    own = Release("a", 8.0, shares=Shares(10, 7, subtract_own=True))
    assert own.effective_noise_multiplier == pytest.approx(8 * 0.6**0.5)
    assert Release("a", 8.0, shares=Shares(10, 1, subtract_own=True)).effective_noise_multiplier == 0


def test_trap_03_shuffling_is_refused_by_name() -> None:
    with pytest.raises(PrivetError, match="shuffling is not Poisson sampling"):
        Sampling("shuffle", 0.1)  # type: ignore[arg-type]  # what a user may ask for


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Sampling.poisson, (0.0,)),
        (Sampling.poisson, (1.5,)),
        (Sampling.poisson, (float("nan"),)),
        (Sampling.fixed, (0, 10)),
        (Sampling.fixed, (11, 10)),
        (Sampling, ("none", 0.5)),
        (Sampling, ("poisson", 0.5, 10, 100)),
        (Shares, (0, 1)),
        (Shares, (1, -1)),
        (Release, ("a", 0.0)),
        (Release, ("a", float("inf"))),
        (Release, ("a", float("nan"))),
        (Release, ("a", 1.0, 0)),
        (Release, ("a", 1.0, 1, Sampling(), -0.1)),
        (Release, ("a", 1.0, 1, Sampling(), 1.0)),
    ],
)
def test_impossible_parameters_are_refused(kind: type, arguments: tuple[object, ...]) -> None:
    with pytest.raises(PrivetError):
        kind(*arguments)
