from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from privet import sampling
from privet.errors import PrivetError
from privet.keys import ClientKeys, SecretStore
from privet.protocol import RoundId
from privet.sampling import poisson_sample, sample_units

KEY = bytes(range(32))


def test_rates_of_zero_and_one_are_exact() -> None:
    assert poisson_sample(1000, 0.0, KEY).tolist() == []
    assert poisson_sample(1000, 1.0, KEY).tolist() == list(range(1000))
    assert poisson_sample(0, 0.5, KEY).dtype == np.int64


@pytest.mark.parametrize("rate", [0.5, 0.1, 256 / 13_962, 2.0**-12, 1e-9, 1 - 2.0**-53])
def test_the_coin_has_the_rate_to_the_last_bit(rate: float) -> None:
    threshold = sampling._threshold(rate)
    assert 0 <= rate * 2**64 - threshold < 1
    if rate >= 2.0**-12:
        assert threshold / 2**64 == rate
    edge = np.array([0, threshold - 1, threshold, 2**64 - 1], dtype=np.uint64)
    assert sampling._below(edge, threshold).tolist() == [True, True, False, False]


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(PrivetError, match=r"sampling.rate"):
        poisson_sample(3, rate, KEY)


def test_chunks_do_not_change_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = poisson_sample(10_000, 0.1, KEY)
    monkeypatch.setattr(sampling, "_CHUNK", 999)
    assert (poisson_sample(10_000, 0.1, KEY) == whole).all()
    assert (np.diff(whole) > 0).all()


def test_a_test_seed_samples_the_same_units_however_they_are_split() -> None:
    units = [f"record-{i}" for i in range(2000)]
    picked = []
    for silos in (1, 2, 4):
        names: set[str] = set()
        for party in range(silos):
            own = units[party::silos]
            keys = ClientKeys.from_insecure_test_seed(3, party)
            names |= {own[i] for i in sample_units(own, 0.1, keys, RoundId(5))}
        picked.append(names)
    assert picked[0] == picked[1] == picked[2]
    assert 130 < len(picked[0]) < 270
    keys = ClientKeys.from_insecure_test_seed(3, 0)
    assert {units[i] for i in sample_units(units, 0.1, keys, RoundId(6))} != picked[0]
    assert {units[i] for i in sample_units(units, 0.1, keys, RoundId(5), "step 1")} != picked[0]


def test_trap_10_real_clients_sample_anew_in_each_round_attempt_and_call(tmp_path: Path) -> None:
    units = [str(i) for i in range(500)]
    keys = [ClientKeys.open(SecretStore(tmp_path / name)) for name in "ab"]
    samples = [
        tuple(sample_units(units, 0.5, k, RoundId(n, a))) for k in keys for n in (0, 1) for a in (0, 1)
    ]
    samples.append(tuple(sample_units(units, 0.5, keys[0], RoundId(0, 0))))
    assert len(set(samples)) == 9


def test_a_unit_cannot_stand_twice() -> None:
    keys = ClientKeys.from_insecure_test_seed(0, 0)
    with pytest.raises(PrivetError, match="same name"):
        sample_units(["a", "b", "a"], 0.5, keys, RoundId(0))
