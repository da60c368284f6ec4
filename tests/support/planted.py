"""Federations whose records have gradients of our choice, and what is seen of them: opened sums, messages, noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.codec_schedule import CodecSchedule
from privet.config import Config, LocalConfig
from privet.federation import Federation, Secrets, federate
from privet.pipeline import Floats
from privet.resolve import resolve
from privet.work import Workplace

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """A record that always pulls the adapter along one vector."""

    id: str
    vector: Floats


@dataclass
class PlantedTrainer:
    """Gives each record its vector; counts how many records it was asked for."""

    dimension: int
    asked: list[int] = field(default_factory=list)

    def set_flat(self, flat: Floats) -> None:
        self.asked.append(0)

    def per_unit_gradients(
        self, examples: Sequence[Any], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Floats]]:
        self.asked[-1] += len(examples)
        for start in range(0, len(examples), micro_batch):
            part = examples[start : start + micro_batch]
            yield tuple(e.id for e in part), -np.stack([e.vector for e in part])

    def mean_gradient(self, examples: Sequence[Any]) -> Floats:
        mean: Floats = np.mean([e.vector for e in examples], axis=0).astype(np.float32)
        return -mean

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        moved: Floats = (flat + np.sum([e.vector for e in examples], axis=0)).astype(np.float32)
        return moved


def federation(
    config: Config,
    parts: Sequence[Sequence[Planted]],
    dimension: int,
    *,
    folder: Path | None = None,
    micro_batch: int = 8,
    **options: Any,
) -> Federation:
    """The parties of a run; with ``folder`` their secrets are real ones in there, else those of the test seed."""
    resolved = resolve(config, dimension=dimension, parties=len(parts))
    seed, parties = config.insecure_test_seed, range(len(parts))
    if folder is not None:
        secrets = [Secrets.of_folder(folder / f"client{party}") for party in parties]
    else:
        assert seed is not None
        secrets = [Secrets.of_test_seed(seed, party) for party in parties]
    places = [
        Workplace(f"silo{i}", PlantedTrainer(dimension), list(part), micro_batch)
        for i, part in enumerate(parts)
    ]
    schedule = CodecSchedule(
        config.codec,
        [("w", (dimension,))],
        config.seed,
        config.schedule.rounds,
        private=config.privacy is not None,
        sealed=config.sealing.kind != "none",
    )
    initial = np.zeros(dimension, np.float32)
    return federate(resolved, places, secrets, initial, schedule, run="planted", **options)


@dataclass
class Opened:
    """What an observer of a run sees: every opened sum, and who is in it."""

    sums: list[Integers] = field(default_factory=list)
    survivors: list[list[int]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)


def watch(f: Federation) -> Opened:
    """Record the sums that the server opens from now on."""
    seen = Opened()
    sealing: Any = f.server.sealing
    opening = sealing.open

    def recording(*arguments: Any) -> Any:
        opened = yield from opening(*arguments)
        seen.sums.append(opened.total.copy())
        return opened

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round":
            seen.survivors.append(facts["survivors"])
        elif kind == "aborted":
            seen.aborted.append(facts["reason"])

    sealing.open = recording
    f.server.observe = observe
    return seen


def run(f: Federation) -> Opened:
    """A whole run, watched."""
    seen = watch(f)
    f.engine.run(f.server.steps())
    return seen


def axes(count: int, dimension: int, length: float = 10.0, prefix: str = "c") -> list[Planted]:
    """Orthogonal records, each far longer than any clip norm in use."""
    rows = np.eye(count, dimension, dtype=np.float32) * np.float32(length)
    return [Planted(f"{prefix}{i}", row) for i, row in enumerate(rows)]
