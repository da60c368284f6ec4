"""What a run works on: the model with its adapters, every silo's tokenised records, and the public records.

This is where torch comes in. Loading reports what it left out; nothing is dropped silently.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privet.codec_schedule import HELD_OUT, CodecSchedule
from privet.codecs import Noise
from privet.config import Config, LocalConfig
from privet.data.load import load as load_data
from privet.data.load import load_public
from privet.data.records import Dataset, Record
from privet.data_config import ClassificationTemplate, Template
from privet.errors import PrivetError
from privet.local_training import train_locally
from privet.lora import lora_spec
from privet.models import LoadedModel, load_model
from privet.pipeline import Floats
from privet.prefix_cache import PrefixCache
from privet.templates import choices
from privet.tokenise import Example, token_report, tokenise
from privet.train import Backbone

Observe = Callable[[str, dict[str, Any]], None]


@dataclass
class LoraTrainer:
    """The trainer that clients share: gradients from the backbone, local steps on the flat vector."""

    backbone: Backbone
    micro_batch: int

    @property
    def dimension(self) -> int:
        """Trained values D."""
        return self.backbone.dimension

    def set_flat(self, flat: Floats) -> None:
        """Take ``flat``, float32 [D], as the trained values."""
        self.backbone.set_flat(flat)

    def per_unit_gradients(self, examples: Sequence[Any], micro_batch: int) -> Any:
        """See `Backbone.per_unit_gradients`."""
        return self.backbone.per_unit_gradients(examples, micro_batch)

    def mean_gradient(self, examples: Sequence[Any]) -> Floats:
        """Mean gradient over the records, float32 [D]."""
        return self.backbone.mean_gradient(examples, self.micro_batch)[0]

    def train_locally(self, flat: Floats, examples: Sequence[Any], local: LocalConfig, seed: bytes) -> Floats:
        """See `privet.local_training.train_locally`."""
        return train_locally(self.backbone, flat, examples, local, seed, micro_batch=self.micro_batch)


@dataclass(frozen=True)
class Question:
    """A test record: its own completion, and one example for each choice if the task has choices."""

    example: Example
    choices: tuple[Example, ...] = ()
    label: int | None = None


@dataclass
class Material:
    """Everything loaded.

    Attributes:
        model: Base model and tokenizer.
        dataset: Records as loaded.
        trainer: Shared by all silos of this process.
        silos: Tokenised training records by silo name, in roster order.
        test: Test questions by silo or domain; empty where test data are not public.
        public: Tokenised public records.
        notes: What a person should know of the data.
    """

    model: LoadedModel
    dataset: Dataset
    trainer: LoraTrainer
    silos: dict[str, list[Example]]
    test: dict[str, list[Question]]
    public: list[Example]
    notes: list[str] = field(default_factory=list)


def gather(
    config: Config, observe: Observe = lambda kind, facts: None, *, public_only: bool = False
) -> Material:
    """Load, tokenise and prepare.

    Args:
        config: The configuration.
        observe: Told what goes on.
        public_only: Open no silo's records: for a server whose clients are elsewhere.

    Raises:
        PrivetError: for data, models or adapters that do not work, each with its reason and the next step.
    """

    def fetching(name: str, done: int, total: int) -> None:
        observe("progress", {"name": name, "done": done, "total": total})

    torch.set_num_threads(config.engine.threads or os.cpu_count() or 1)
    observe("stage", {"name": "reading data"})
    dataset = (load_public if public_only else load_data)(config.data, fetching)
    observe("stage", {"name": f"loading {config.model.name}"})
    model = load_model(config.model, fetching)
    answers = answer_tokens(config.data.template, dataset, model)
    cache = None
    if config.engine.cache_mebibytes:
        folder = Path(config.engine.cache_folder) if config.engine.cache_folder else None
        cache = PrefixCache(config.engine.cache_mebibytes << 20, folder)
    backbone = Backbone(
        model.model,
        lora_spec(config.lora),
        cache=cache,
        tokenizer=model.fingerprint,
        deterministic_units=config.deterministic_units,
        answers=answers,
    )
    notes = [*dataset.report.lines(), *model.notes]

    tokens = _tokens(config, model)
    silos = {silo.name: tokens(silo.records) for silo in dataset.silos}
    everything = [e for examples in silos.values() for e in examples]
    all_records = [r for silo in dataset.silos for r in silo.records]
    if not public_only:
        notes += token_report(all_records, everything, config.engine.micro_batch).lines()
    for name, examples in silos.items():
        if not examples:
            raise PrivetError(
                "has no records left after tokenising",
                field=f"silo '{name}'",
                given="only blank completions",
                allowed="at least one record with a completion",
                hint="mend its records, or leave this silo out of the data",
            )
    test = {}
    if dataset.test_public:
        test = {name: _questions(config, records, tokens) for name, records in dataset.test.items()}
    else:
        notes.append("test data are not declared public: their metrics stay at the silos")
    trainer = LoraTrainer(backbone, config.engine.micro_batch)
    public = tokens(in_public_order(dataset.public, config.seed))
    return Material(model, dataset, trainer, silos, test, public, notes)


def in_public_order(records: Sequence[Record], seed: int) -> list[Record]:
    """Public records in an order that the public seed draws, so that the first of them stand for all.

    As they come they may be sorted by silo, and clip norms and codecs look at the first few hundred.
    """
    return sorted(records, key=lambda record: hashlib.sha256(f"{seed}/{record.id}".encode()).digest())


def answer_tokens(template: Template, dataset: Dataset, model: LoadedModel) -> tuple[int, ...] | None:
    """Tokens of the verbalisers, if training compares the right one with them; ``None`` for the vocabulary.

    Raises:
        PrivetError: if the template asks for it and a verbaliser is more than one token.
    """
    if not isinstance(template, ClassificationTemplate) or template.compare == "vocabulary":
        return None
    tests = (record for records in dataset.test.values() for record in records)
    private = (record for silo in dataset.silos for record in silo.records)
    record = next(chain(private, dataset.public, tests), None)
    if record is None:
        return None
    words = [replace(record, completion=word) for word in choices(template)]
    found = [e.targets for e in tokenise(words, model.tokenizer, template, 1 << 20)]
    if all(len(tokens) == 1 for tokens in found) and len({int(t[0]) for t in found}) == len(words):
        return tuple(int(tokens[0]) for tokens in found)
    if template.compare == "verbalisers":
        raise PrivetError(
            "each verbaliser must be one token of this model to be compared with the others",
            field="data.template.compare",
            given={word: len(tokens) for word, tokens in zip(choices(template), found, strict=False)},
            hint="choose other words, or compare: vocabulary",
        )
    return None


def questions(config: Config, records: Sequence[Record], material: Material) -> list[Question]:
    """Public records as questions, at most ``evaluation.max_records``; blank completions are left out."""
    return _questions(config, records, _tokens(config, material.model))


def _tokens(config: Config, model: LoadedModel) -> Callable[[Sequence[Record]], list[Example]]:
    def tokens(records: Sequence[Record]) -> list[Example]:
        return tokenise(records, model.tokenizer, config.data.template, config.data.max_length)

    return tokens


def _questions(
    config: Config, records: Sequence[Record], tokens: Callable[[Sequence[Record]], list[Example]]
) -> list[Question]:
    kept = [r for r in records if r.completion.strip()][: config.evaluation.max_records]
    examples = tokens(kept)
    words = choices(config.data.template)
    if not words or config.evaluation.metric != "choices":
        return [Question(example) for example in examples]
    answers = [tokens([replace(record, completion=word) for record in kept]) for word in words]
    return [
        Question(example, tuple(choice), record.label)
        for example, record, *choice in zip(examples, kept, *answers, strict=True)
    ]


def codec_schedule(
    config: Config, material: Material, observe: Observe = lambda kind, facts: None
) -> CodecSchedule:
    """The codecs of a run, with gradients on the public records for those that follow them."""
    trainer, system = material.trainer, config.system
    updates = getattr(config.codec, "updates", 0)

    def gradients(chosen: Sequence[Example]) -> Callable[[Floats], Floats]:
        def of(flat: Floats) -> Floats:
            trainer.set_flat(flat)
            rows = [rows for _, rows in trainer.per_unit_gradients(chosen, trainer.micro_batch)]
            return np.concatenate(rows) if rows else np.zeros((0, trainer.dimension), np.float32)

        return of

    held_out = material.public[updates:][:HELD_OUT]
    noise, cohort, p = None, float(len(material.silos)), config.privacy
    if p is not None and p.noise_multiplier and p.clip_norm != "public" and material.silos:
        noise = Noise(p.clip_norm, p.noise_multiplier)
        cohort = config.schedule.expected_batch or cohort if p.unit == "record" else cohort
    return CodecSchedule(
        config.codec,
        layout_of(material),
        config.seed,
        config.schedule.rounds,
        private=config.privacy is not None and not (system.kind == "dr_encoder" and system.faithful),
        sealed=config.sealing.kind != "none",
        public=gradients(material.public[:updates]) if material.public else None,
        held_out=gradients(held_out) if held_out else None,
        learns=system.preparation_rounds > 0,
        noise=noise,
        cohort=cohort,
        observe=observe,
    )


def layout_of(material: Material) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the trained tensors."""
    return [(tensor.name, tensor.shape) for tensor in material.trainer.backbone.layout.tensors]
