"""Whole runs of `privet.runs.start` on the toy regression: no language model, one tenth of a second each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from support.toy import DIMENSION, Floats, ToyExample, ToyTrainer, examples, split

from privet.config import Config
from privet.material import Material

ADAPTER = "adapter/flat.npy"


@dataclass(frozen=True)
class ToyLayout:
    """One trained tensor, saved as a numpy file."""

    tensors: tuple[Any, ...] = (
        SimpleNamespace(name="w.lora_B", shape=(DIMENSION,), start=0, stop=DIMENSION),
    )

    def save_peft(self, flat: Floats, directory: Path, base_name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / Path(ADAPTER).name, flat)


@dataclass(frozen=True)
class ToyBackbone:
    """Where a run looks for the adapter's start, its layout and its losses."""

    trainer: ToyTrainer
    layout: ToyLayout = field(default_factory=ToyLayout)

    def initial_flat(self) -> Floats:
        return np.zeros(DIMENSION, np.float32)

    def warm(self, questions: Sequence[ToyExample], spare: Sequence[ToyExample] = ()) -> None:
        """Has no frozen layers."""

    def losses(self, questions: Sequence[ToyExample], micro_batch: int) -> Floats:
        return np.array([(q.x @ self.trainer.flat - q.y) ** 2 for q in questions], np.float32)


def material(parts: Sequence[Sequence[ToyExample]], public: Sequence[ToyExample] = ()) -> Any:
    """What `privet.material.gather` would load; typed loosely, since nothing in it is a language model."""
    trainer = ToyTrainer()
    trainer.backbone = ToyBackbone(trainer)  # type: ignore[attr-defined]  # a run asks its trainer for the backbone
    trainer.micro_batch = 16  # type: ignore[attr-defined]  # likewise
    test = [SimpleNamespace(example=e, choices=()) for e in examples(8, seed=5)]
    return Material(
        model=SimpleNamespace(name="toy"),  # type: ignore[arg-type]  # only its name is written down
        dataset=SimpleNamespace(),  # type: ignore[arg-type]  # unused
        trainer=trainer,  # type: ignore[arg-type]  # what a run needs of it
        silos={f"silo{i}": list(part) for i, part in enumerate(parts)},  # type: ignore[arg-type]  # toy records
        test={"silo0": test[:4], "silo1": test[4:]},  # type: ignore[dict-item]  # toy questions
        public=list(public),  # type: ignore[arg-type]  # toy records
    )


def gatherer(parties: int = 4, records: int = 80) -> Any:
    """A stand-in for `privet.cast.gather` that returns toy material at once."""

    def gather(config: Config, observe: Any = None) -> Any:
        return material(split(examples(records), parties), examples(10, seed=9))

    return gather


def adapter(folder: Path) -> bytes:
    """The result of a run, bit for bit."""
    return (folder / ADAPTER).read_bytes()
