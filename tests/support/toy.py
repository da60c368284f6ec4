"""A federation without a language model: linear regression, whose per-record gradients are exact and quick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.codec_schedule import CodecSchedule
from privet.codecs import Layout
from privet.config import Config, LocalConfig, parse
from privet.federation import Federation, Secrets, federate
from privet.resolve import resolve
from privet.work import Workplace

DIMENSION = 24
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ToyExample:
    """One point of a regression."""

    id: str
    x: Floats
    y: float


@dataclass
class ToyTrainer:
    """Squared error of a linear model; every record is computed by itself, so batches do not matter."""

    dimension: int = DIMENSION
    flat: Floats = field(default_factory=lambda: np.zeros(DIMENSION, np.float32))

    def set_flat(self, flat: Floats) -> None:
        self.flat = flat

    def per_unit_gradients(
        self, examples: Sequence[Any], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        for start in range(0, len(examples), micro_batch):
            part = examples[start : start + micro_batch]
            rows = np.stack([self._gradient(e) for e in part])
            yield tuple(e.id for e in part), rows

    def _gradient(self, e: ToyExample) -> Floats:
        residual = np.float32(np.dot(e.x, self.flat) - np.float32(e.y))
        return (residual * e.x).astype(np.float32)

    def mean_gradient(self, examples: Sequence[Any]) -> Floats:
        return np.mean([self._gradient(e) for e in examples], axis=0).astype(np.float32)

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        values = flat.copy()
        for _ in range(local.steps):
            self.set_flat(values)
            mean = np.mean([self._gradient(e) for e in examples], axis=0)
            values = (values - np.float32(local.learning_rate) * mean).astype(np.float32)
        return values


def examples(count: int, seed: int = 0) -> list[ToyExample]:
    """Points around one public truth."""
    generator = np.random.default_rng(seed)
    truth = np.linspace(-1, 1, DIMENSION).astype(np.float32)
    points = generator.standard_normal((count, DIMENSION)).astype(np.float32)
    return [
        ToyExample(f"r{i}", x, float(x @ truth + 0.1 * generator.standard_normal()))
        for i, x in enumerate(points)
    ]


def split(records: Sequence[ToyExample], silos: int) -> list[list[ToyExample]]:
    """Uneven parts, so that nothing depends on equal sizes."""
    cuts = [0, *(len(records) * (i + 1) ** 2 // silos**2 for i in range(silos))]
    return [list(records[a:b]) for a, b in pairwise(cuts)]


def config(**sections: Any) -> Config:
    """A configuration of a toy run; ``sections`` are laid over a record-level hedge under masks."""
    raw: dict[str, Any] = {
        "insecure_test_seed": 7,
        "system": {"kind": "hedge"},
        "model": {"name": "small"},
        "data": {"kind": "sentiment"},
        "schedule": {
            "rounds": 4,
            "sampling_rate": 0.2,
            "expected_batch": 40,
            "server": {"kind": "adam", "learning_rate": 0.3},
        },
        "privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0},
        "sealing": {"kind": "masked"},
    }
    for name, value in sections.items():
        base = raw.get(name)
        raw[name] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
    return parse({name: value for name, value in raw.items() if value is not None})


@dataclass
class WideTrainer(ToyTrainer):
    """Any number of trained values; local training adds what the seed says, without data or a model."""

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        noise = np.random.default_rng(list(seed)).standard_normal(self.dimension)
        return (flat + np.float32(0.01) * noise).astype(np.float32)


def federation(
    config: Config,
    parts: Sequence[Sequence[ToyExample]],
    *,
    trainer: type[ToyTrainer] = ToyTrainer,
    dimension: int = DIMENSION,
    layout: Layout | None = None,
    observe: Any = lambda kind, facts: None,
    **options: Any,
) -> Federation:
    """The parties of a toy run, with one trainer a silo."""
    layout = layout or (("w", (dimension,)),)
    resolved = resolve(config, dimension=dimension, parties=len(parts), layout=layout)
    assert config.insecure_test_seed is not None
    secrets = [Secrets.of_test_seed(config.insecure_test_seed, party) for party in range(len(parts))]
    places = [Workplace(f"silo{i}", trainer(dimension), list(part), 16) for i, part in enumerate(parts)]
    schedule = CodecSchedule(
        config.codec,
        layout,
        config.seed,
        config.schedule.rounds,
        private=config.privacy is not None
        and not (config.system.kind == "dr_encoder" and config.system.faithful),
        sealed=config.sealing.kind != "none",
        learns=config.system.preparation_rounds > 0,
        observe=observe,
    )
    initial = np.zeros(dimension, np.float32)
    return federate(resolved, places, secrets, initial, schedule, run="toy", observe=observe, **options)
