"""Steps of a client on its own records: which batches it sees, and that optimisers step as torch's do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.tiny_models import (
    make_cases,
    make_model,
    spec,
)

from privet.local_training import train_locally
from privet.prefix_cache import PrefixCache
from privet.train import Backbone


def local(**settings: Any) -> Any:
    return SimpleNamespace(
        **({"steps": 4, "batch_size": 3, "optimiser": "sgd", "learning_rate": 0.1} | settings)
    )


class Recorder:
    """A trainer whose gradient is 2·(values − 1) and which remembers the batches it was asked for."""

    def __init__(self) -> None:
        self.values = np.zeros(0, np.float32)
        self.batches: list[list[str]] = []

    def set_flat(self, flat: NDArray[np.float32]) -> None:
        self.values = flat.copy()

    def warm(self, examples: Sequence[Any], spare: Sequence[Any]) -> None:
        self.warmed = ([example.id for example in examples], [example.id for example in spare])

    def mean_gradient(
        self, examples: Sequence[Any], micro_batch: int = 32
    ) -> tuple[NDArray[np.float32], float]:
        self.batches.append([example.id for example in examples])
        return 2 * (self.values - 1), 0.0


def test_local_training_sees_every_record_once_a_pass_in_the_seed_s_order() -> None:
    cases = make_cases([5] * 8)
    runs = []
    for seed in (b"a" * 32, b"a" * 32, b"b" * 32):
        recorder = Recorder()
        train_locally(recorder, np.zeros(2, np.float32), cases, local(steps=6), seed)
        runs.append(recorder.batches)
    assert runs[0] == runs[1] != runs[2]
    assert [len(batch) for batch in runs[0]] == [3, 3, 2, 3, 3, 2]
    first, second = ([*chain.from_iterable(runs[0][i : i + 3])] for i in (0, 3))
    assert sorted(first) == sorted(second) == sorted(case.id for case in cases)
    assert first != second
    short = Recorder()
    train_locally(short, np.zeros(2, np.float32), cases, local(steps=1), b"a" * 32)
    assert sorted(short.warmed[0]) == sorted(short.batches[0])  # and all others as spare
    assert short.warmed[1] == [case.id for case in cases]


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_local_optimisers_step_as_torch_s_do(optimiser: str) -> None:
    start = np.array([0.0, 3.0, -0.5], np.float32)
    before = start.copy()
    settings = local(optimiser=optimiser, steps=7, learning_rate=0.03)
    found = train_locally(Recorder(), start, make_cases([5] * 4), settings, bytes(32))
    np.testing.assert_array_equal(start, before)
    value = torch.from_numpy(start.copy()).requires_grad_()
    kinds = {
        "sgd": lambda: torch.optim.SGD([value], 0.03),
        "adamw": lambda: torch.optim.AdamW([value], 0.03, weight_decay=0.0),
    }
    reference = kinds[optimiser]()
    for _ in range(7):
        reference.zero_grad()
        (value - 1).square().sum().backward()
        reference.step()
    np.testing.assert_allclose(found, value.detach().numpy(), rtol=1e-5)


def test_local_training_lowers_the_loss() -> None:
    backbone = Backbone(make_model(), spec("freeze_a", 2), cache=PrefixCache())
    cases = make_cases([9, 12, 7, 15, 6, 11])
    start = backbone.initial_flat()
    backbone.set_flat(start)
    before = backbone.losses(cases).mean()
    trained = backbone.train_locally(
        start, cases, local(optimiser="adamw", steps=30, learning_rate=0.05), bytes(32)
    )
    backbone.set_flat(trained)
    assert backbone.losses(cases).mean() < before - 0.5
