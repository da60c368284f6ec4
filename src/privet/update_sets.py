"""Real LoRA updates in a file, to measure codecs on: of clients, of other clients, and of public records.

The three parts come from disjoint records. ``clients`` are what a codec is measured on, ``fit`` is what a
codec may learn from where a study wants exact updates or their statistics, and ``public`` is what anybody may
compute.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from privet.codecs.base import FloatArray, Layout
from privet.data.records import Dataset, Record, in_public_order
from privet.errors import PrivetError

FORMAT = 2
"""Of files and of what is in them; 1 took the first records of each client, which are of one label."""


@dataclass(frozen=True)
class UpdateSetConfig:
    """How updates are made; all of it is public.

    Attributes:
        model: Name of a model, see the section ``model``.
        factors: Trained factors, ``both`` or ``freeze_a``.
        top_layers: How many of the last layers have adapters; ``None`` is all.
        rank: Rank of the adapters.
        warmup_steps: AdamW steps on public records before updates are taken: at B = 0 the factors A have no
            gradient.
        warmup_rate: Step size of the warm-up.
        update: ``gradient`` is the negative mean gradient of a client's records (one local SGD step);
            ``adamw`` the change after four local AdamW steps over them.
        clients: Updates in ``clients`` and in ``fit``.
        records: Records behind one of them.
        public: Updates in ``public``.
        public_records: Records behind one of them.
        max_length: Tokens of a record at most.
        seed: Public seed of the adapters, of who holds what and of which records are behind an update.
    """

    model: str = "smollm2-135m-instruct"
    factors: Literal["both", "freeze_a"] = "both"
    top_layers: int | None = None
    rank: int = 8
    warmup_steps: int = 10
    warmup_rate: float = 5e-4
    update: Literal["gradient", "adamw"] = "gradient"
    clients: int = 50
    records: int = 8
    public: int = 64
    public_records: int = 4
    max_length: int = 64
    seed: int = 0

    def digest(self) -> str:
        """First 12 hexadecimal digits of a hash of all of it."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class UpdateSet:
    """Updates and where they come from.

    Attributes:
        layout: Names and shapes of the trained tensors.
        clients: float32 [n, D], to measure on.
        fit: float32 [n, D], of other clients, to learn from.
        public: float32 [p, D], of public records.
        config: How they were made.
        domains: What each of ``clients`` holds, for reading results.
    """

    layout: Layout
    clients: FloatArray
    fit: FloatArray
    public: FloatArray
    config: UpdateSetConfig
    domains: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write one ``.npz`` without pickled objects."""
        about = {
            "format": FORMAT,
            "layout": [[name, list(shape)] for name, shape in self.layout],
            "config": dataclasses.asdict(self.config),
            "domains": list(self.domains),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8),
                clients=self.clients,
                fit=self.fit,
                public=self.public,
            )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> UpdateSet:
        """Read what :meth:`save` wrote.

        Raises:
            PrivetError: if the file is missing or something else.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                parts = {name: stored[name] for name in ("clients", "fit", "public")}
            if about["format"] != FORMAT:
                raise ValueError("of another format")
            layout = tuple((name, tuple(shape)) for name, shape in about["layout"])
            config = UpdateSetConfig(**about["config"])
        except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError):
            raise PrivetError(
                "holds no updates", field="updates", given=path, hint="collect them again"
            ) from None
        return cls(layout, **parts, config=config, domains=tuple(about["domains"]))


def load_or_collect(
    config: UpdateSetConfig,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda what, at, of: None,
) -> UpdateSet:
    """The updates of ``config`` from ``folder``, collected first where they are not there yet."""
    path = folder / f"updates-{config.digest()}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".rows")
        collect(config, progress, partial).save(path)
        partial.unlink(missing_ok=True)
    return UpdateSet.load(path)


def collect(
    config: UpdateSetConfig,
    progress: Callable[[str, int, int], None] = lambda what, at, of: None,
    partial: Path | None = None,
) -> UpdateSet:
    """Compute updates of the embedded data's silos with a real model and its real adapters.

    Args:
        config: What to compute.
        progress: Told what is done, how far it is and how far it goes.
        partial: File that holds what is computed so far, for going on after a crash.

    Raises:
        PrivetError: if model or data cannot be had, or there are too few records.
    """
    from privet.data.load import load
    from privet.data_config import SENTIMENT_TEMPLATE, BlockPartition, SentimentData, Split
    from privet.lora import LoraSpec
    from privet.model_config import ModelConfig
    from privet.models import load_model
    from privet.tokenise import tokenise
    from privet.train import Backbone

    loaded = load_model(ModelConfig(name=config.model), progress)
    data = SentimentData(
        max_length=config.max_length,
        partition=BlockPartition(kind="blocks", silos=2 * config.clients, seed=config.seed),
        split=Split(test=0.09, public=0.1, seed=config.seed),
    )
    dataset = load(data, progress)
    spec = LoraSpec(
        rank=config.rank,
        targets=loaded.target_modules(),
        layers="all" if config.top_layers is None else config.top_layers,
        factors=config.factors,
        init_seed=config.seed,
    )
    backbone = Backbone(loaded.model, spec)

    def examples(records: Sequence[Any]) -> list[Any]:
        return list(tokenise(records, loaded.tokenizer, SENTIMENT_TEMPLATE, config.max_length))

    public = examples(in_public_order(dataset.public, config.seed))
    groups = [examples(records) for records in drawn(dataset, config)]
    rows = np.zeros((len(groups) + 1, backbone.dimension), np.float32)
    done = _resumed(rows, partial)
    if not done:
        rows[0], done = _warmed_up(backbone, config, public), 1
        _keep(rows[:1], partial)
    for index in range(done, len(rows)):
        progress("updates", index - 1, len(groups))
        rows[index] = _update(backbone, config, rows[0], groups[index - 1])
        _keep(rows[index : index + 1], partial)
    rows = rows[1:]
    layout = tuple((tensor.name, tensor.shape) for tensor in backbone.layout.tensors)
    names = tuple(silo.name for silo in dataset.silos)
    count = 2 * config.clients
    # Every other silo, so that both halves hold all domains.
    return UpdateSet(layout, rows[0:count:2], rows[1:count:2], rows[count:], config, names[0::2])


def drawn(dataset: Dataset, config: UpdateSetConfig) -> list[list[Record]]:
    """The records behind each update: of every client, then of every public one.

    A public seed draws them: as they come, the embedded data have one label after the other.

    Raises:
        PrivetError: if there are too few.
    """
    silos = [in_public_order(silo.records, config.seed)[: config.records] for silo in dataset.silos]
    public, each = in_public_order(dataset.public, config.seed), config.public_records
    needed = config.public * each
    if len(public) < needed or min(len(silo) for silo in silos) < config.records:
        raise PrivetError("too few records", field="updates", given=len(public), allowed=f"at least {needed}")
    return [*silos, *(public[start : start + each] for start in range(0, needed, each))]


def _resumed(rows: FloatArray, partial: Path | None) -> int:
    """Fill in the rows that were computed before, and count them."""
    if partial is None or not partial.exists():
        return 0
    whole = int(partial.stat().st_size // rows[0].nbytes)
    with partial.open("r+b") as file:
        file.truncate(whole * rows[0].nbytes)
        rows[:whole] = np.frombuffer(file.read(), np.float32).reshape(whole, -1)
    return whole


def _keep(rows: FloatArray, partial: Path | None) -> None:
    if partial is not None:
        with partial.open("ab") as file:
            file.write(rows.tobytes())


@dataclass(frozen=True)
class _Steps:
    steps: int
    batch_size: int
    optimiser: Literal["sgd", "adamw"]
    learning_rate: float


def _warmed_up(backbone: Any, config: UpdateSetConfig, public: Sequence[Any]) -> FloatArray:
    flat: FloatArray = backbone.initial_flat()
    if config.warmup_steps:
        steps = _Steps(config.warmup_steps, 16, "adamw", config.warmup_rate)
        flat = backbone.train_locally(flat, public, steps, config.seed.to_bytes(32, "little"))
    return flat


def _update(backbone: Any, config: UpdateSetConfig, flat: FloatArray, examples: Sequence[Any]) -> FloatArray:
    if config.update == "gradient":
        backbone.set_flat(flat)
        gradient: FloatArray = backbone.mean_gradient(examples)[0]
        return -gradient
    steps = _Steps(4, max(1, len(examples) // 4), "adamw", config.warmup_rate)
    trained: FloatArray = backbone.train_locally(flat, examples, steps, bytes(32))
    return trained - flat
