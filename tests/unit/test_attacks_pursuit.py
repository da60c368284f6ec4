"""The pursuit on planted gradients of random shapes: what invert.tokens reaches on a layer as wide as SmolLM2's."""

from __future__ import annotations

import numpy as np
import pytest

from privet.attacks.pursuit import pursue, unit_rows

WIDTH, VOCABULARY = 192, 4000


def planted(tokens: int, rows: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, set[int]]:
    generator = np.random.default_rng(seed)
    dictionary = unit_rows(generator.standard_normal((VOCABULARY, WIDTH)).astype(np.float32))
    chosen = generator.choice(VOCABULARY, tokens, replace=False)
    weights = generator.standard_normal((rows, tokens)) * np.logspace(0, -1.5, tokens)
    measured = weights @ dictionary[chosen]
    measured += (
        noise * np.linalg.norm(measured, axis=1, keepdims=True) * generator.standard_normal(measured.shape)
    )
    return measured.astype(np.float32), dictionary, set(chosen.tolist())


@pytest.mark.parametrize("tokens", [8, 24, 40])
def test_tokens_of_a_planted_gradient_are_recovered(tokens: int) -> None:
    recalls = []
    for seed in range(3):
        measured, dictionary, chosen = planted(tokens, 16, seed)
        recalls.append(len(chosen & set(pursue(measured, dictionary, tokens).chosen)) / tokens)
    assert np.mean(recalls) >= 0.95


def test_known_tokens_are_not_named_again() -> None:
    measured, dictionary, chosen = planted(12, 16, 1)
    known = sorted(chosen)[:4]
    found = pursue(measured, dictionary, 8, known=known).chosen
    assert set(found) == chosen - set(known)


def test_it_stops_when_nothing_is_left() -> None:
    measured, dictionary, chosen = planted(6, 16, 2)
    found = pursue(measured, dictionary, 50)
    assert set(found.chosen) == chosen
    assert found.residuals[-1] < 1e-3


def test_noise_gives_chance() -> None:
    measured, dictionary, chosen = planted(24, 16, 3, noise=10.0)
    assert len(chosen & set(pursue(measured, dictionary, 24).chosen)) <= 3


def test_nothing_comes_of_nothing() -> None:
    _, dictionary, _ = planted(4, 4, 0)
    assert pursue(np.zeros((4, WIDTH), np.float32), dictionary, 4).chosen == ()
    assert pursue(np.full((4, WIDTH), np.nan, np.float32), dictionary, 4).chosen == ()
