"""Batch sizes are binomial: they vary as they must and nothing caps them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2

from privet.keys import ClientKeys, derive
from privet.protocol import RoundId
from privet.sampling import poisson_sample, sample_units

KEY = bytes(range(32))
N, RATE, ROUNDS = 400, 0.05, 4000


def size_p(sizes: np.ndarray) -> float:
    """p-value of batch sizes under Binomial(N, RATE), chi-square over cells with at least 20 expected
    rounds."""
    values = np.arange(N + 1)
    expected = len(sizes) * binom.pmf(values, N, RATE)
    counts = np.bincount(sizes, minlength=N + 1).astype(float)
    keep = expected >= 20
    observed = np.append(
        counts[keep], [counts[~keep & (values < N * RATE)].sum(), counts[~keep & (values > N * RATE)].sum()]
    )
    wanted = np.append(
        expected[keep],
        [expected[~keep & (values < N * RATE)].sum(), expected[~keep & (values > N * RATE)].sum()],
    )
    return float(chi2.sf(((observed - wanted) ** 2 / wanted).sum(), len(wanted) - 1))


def test_trap_04_batches_are_neither_truncated_nor_padded() -> None:
    """Chi-square of the sizes; rejects honest sampling with probability 1e-6, and each of four mutants
    always."""
    sizes = np.array([poisson_sample(N, RATE, derive(KEY, "size", i)).size for i in range(ROUNDS)])
    assert size_p(sizes) > 1e-6
    expected = int(N * RATE)
    assert sizes.max() > 1.5 * expected
    assert size_p(np.minimum(sizes, expected)) < 1e-6
    assert size_p(np.minimum(sizes, expected + 10)) < 1e-6
    assert size_p(np.maximum(sizes, expected - 4)) < 1e-6
    assert size_p(np.full(ROUNDS, expected)) < 1e-6


def test_trap_04_an_empty_batch_stays_empty() -> None:
    """20 units at rate 0.01: 82 % of the batches are empty; 5 standard errors, false alarm below 1e-6."""
    empty = np.mean([poisson_sample(20, 0.01, derive(KEY, "empty", i)).size == 0 for i in range(2000)])
    assert abs(empty - 0.99**20) < 5 * np.sqrt(0.99**20 * (1 - 0.99**20) / 2000)


@pytest.mark.parametrize("seeded", [False, True])
def test_every_unit_and_every_pair_of_neighbours_has_its_rate(seeded: bool) -> None:
    """Each unit's frequency and each adjacent pair's; 5.5 standard errors over 800 cells, false alarm below
    1e-4."""
    units = [f"u{i}" for i in range(N)]
    keys = ClientKeys.from_insecure_test_seed(1, 0)
    hits = np.zeros((ROUNDS, N), dtype=np.float64)
    for i in range(ROUNDS):
        chosen = (
            sample_units(units, 0.3, keys, RoundId(i)) if seeded else poisson_sample(N, 0.3, derive(KEY, i))
        )
        hits[i, chosen] = 1
    assert np.abs(hits.mean(axis=0) - 0.3).max() < 5.5 * np.sqrt(0.21 / ROUNDS)
    pairs = (hits[:, 1:] * hits[:, :-1]).mean(axis=0)
    assert np.abs(pairs - 0.09).max() < 5.5 * np.sqrt(0.09 * 0.91 / ROUNDS)
