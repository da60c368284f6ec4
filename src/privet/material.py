"""What a run works on: the model with its adapters, every silo's tokenised records, and the public records.

This is where torch comes in. Loading reports what it left out; nothing is dropped silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privet.codec_config import PublicSubspaceCodec, RowPcaCodec
from privet.codec_schedule import HELD_OUT, REHEARSED, CodecSchedule, follows_public
from privet.codecs import Noise
from privet.config import Config, LocalConfig
from privet.data.each_alone import load_each_alone
from privet.data.load import load as load_data
from privet.data.load import load_public
from privet.data.records import Dataset, Record, in_public_order
from privet.data_config import (
    ChatTemplate,
    ClassificationTemplate,
    CsvData,
    JsonlData,
    ParquetData,
    Template,
)
from privet.errors import PrivetError
from privet.local_training import train_locally
from privet.lora import lora_spec
from privet.model_size import Described, keep
from privet.models import LoadedModel, load_model
from privet.models import resolve as find
from privet.pipeline import Floats
from privet.prefix_cache import PrefixCache
from privet.self_written import self_written
from privet.sequences import LENGTH_STEP, padded_length
from privet.templates import choices, columns, fill
from privet.tokenise import Example, token_report, tokenise, tokenise_each_alone
from privet.train import Backbone

Observe = Callable[[str, dict[str, Any]], None]
_SHOWN = 20
_UPDATES = 64
"""Public records of a codec that does not say how many it is made from."""


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
        written: Tokenised sentences of the base model, where the codec follows those instead of public records, or is
            tried on them because there are too few.
    """

    model: LoadedModel
    dataset: Dataset
    trainer: LoraTrainer
    silos: dict[str, list[Example]]
    test: dict[str, list[Question]]
    public: list[Example]
    notes: list[str] = field(default_factory=list)
    written: list[Example] = field(default_factory=list)


def gather(
    config: Config,
    observe: Observe = lambda kind, facts: None,
    *,
    public_only: bool = False,
    each_alone: bool = False,
) -> Material:
    """Load, tokenise and prepare.

    Args:
        config: The configuration.
        observe: Told what goes on.
        public_only: Open no silo's records: for a server whose clients are elsewhere.
        each_alone: The file of one site, in which no record decides about another or about taking part: what cannot
            be used is left out, and stands in the notes.

    Raises:
        PrivetError: for data, models or adapters that do not work, each with its reason and the next step.
    """

    def fetching(name: str, done: int, total: int) -> None:
        observe("progress", {"name": name, "done": done, "total": total})

    torch.set_num_threads(config.engine.threads or os.cpu_count() or 1)
    observe("stage", {"name": "reading data"})
    left_out: list[str] = []
    if each_alone:
        assert isinstance(config.data, JsonlData | CsvData | ParquetData), "a site's file"
        dataset, left_out = load_each_alone(config.data)
    else:
        dataset = (load_public if public_only else load_data)(config.data, fetching)
    dataset = replace(dataset, public=in_public_order(dataset.public, config.seed))
    observe("stage", {"name": f"loading {config.model.name}"})
    model = load_model(config.model, fetching)
    if config.model.quantization == "none":  # packed weights have other sizes than those that a plan is about
        keep(find(config.model), Described.of(model.model))
    check_length(config, model)
    answers = answer_tokens(config.data.template, model)
    # A site gets the codec, or what it is made from, from the server: so all have the same.
    sentences, wrote = ([], []) if each_alone else _sentences(config, model, dataset.public, observe)
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
    notes = [*dataset.report.lines(), *model.notes, *wrote]

    tokens = _tokens(config, model)
    if each_alone:
        silos = {}
        for silo in dataset.silos:
            silos[silo.name], refused = _usable(silo.records, config, model, answers)
            left_out += refused
        notes += [*left_out[:_SHOWN], *([f"and {len(left_out) - _SHOWN} more"] if left_out[_SHOWN:] else [])]
    else:
        silos = {silo.name: tokens(silo.records) for silo in dataset.silos}
    everything = [e for examples in silos.values() for e in examples]
    all_records = [r for silo in dataset.silos for r in silo.records]
    if not public_only:
        notes += token_report(all_records, everything, config.engine.micro_batch).lines()
    for name, examples in silos.items():
        if not examples and not each_alone:
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
    public, written = tokens(dataset.public), tokens(sentences)
    return Material(model, dataset, trainer, silos, test, public, notes, written)


def check_length(config: Config, model: LoadedModel) -> None:
    """Refuse records longer than the model reads, whatever records there are.

    One of them would stop its client with an error of its own, or change the model for all that come after it.

    Raises:
        PrivetError: if the longest record, padded as it passes through the model, has more tokens than positions.
    """
    longest, positions = config.data.max_length, model.positions
    if positions is None or padded_length(longest) <= positions:
        return
    most = positions // LENGTH_STEP * LENGTH_STEP
    raise PrivetError(
        f"is more than the {positions} positions of this model, where lengths go up to a multiple of {LENGTH_STEP}",
        field="data.max_length",
        given=longest,
        allowed=f"at most {most}",
        hint=f"set data.max_length to {most} or less, or choose a model that reads longer texts",
    )


def _sentences(
    config: Config, model: LoadedModel, public: Sequence[Record], observe: Observe
) -> tuple[list[Record], list[str]]:
    """Sentences of the base model, if the codec follows those or is tried on them, and a note of what they are."""
    count, what = _sentences_wanted(config, sum(bool(record.completion.strip()) for record in public))
    template = config.data.template
    if not count:
        return [], []
    assert not isinstance(template, ChatTemplate), "config_rules refuses it, and a codec is not tried on it"
    observe("stage", {"name": "writing sentences for the codec"})
    found, digest = self_written(model, template, count, config.seed)
    note = f"the codec {what} {len(found)} sentences that {model.name} wrote itself"
    return found, [f"{note} (seed {config.seed}, SHA-256 {digest[:16]})"]


def _sentences_wanted(config: Config, public: int) -> tuple[int, str]:
    """How many sentences of the base model the codec needs, and what for, where there are ``public`` public records."""
    codec, needed = config.codec, HELD_OUT + REHEARSED
    if isinstance(codec, RowPcaCodec | PublicSubspaceCodec) and codec.source == "self_generated":
        return codec.updates + HELD_OUT, "follows"
    learned = config.system.preparation_rounds > 0 and not codec.allow_useless
    if learned and public < needed and not isinstance(config.data.template, ChatTemplate):
        return needed, "is tried on"
    return 0, ""


def _usable(
    records: Sequence[Record], config: Config, model: LoadedModel, answers: tuple[int, ...] | None
) -> tuple[list[Example], list[str]]:
    """A site's examples, and the records that cannot be learned from, each by itself."""
    examples, left_out = tokenise_each_alone(
        records, model.tokenizer, config.data.template, config.data.max_length
    )
    if answers is None:
        return examples, left_out
    usable = [example for example in examples if set(example.targets.tolist()) <= set(answers)]
    ids = {example.id for example in usable}
    left_out += [f"{each.id}: its verbaliser joins the prompt" for each in examples if each.id not in ids]
    return usable, left_out


def answer_tokens(template: Template, model: LoadedModel) -> tuple[int, ...] | None:
    """Tokens of the verbalisers, if training compares the right one with them; ``None`` for the vocabulary.

    They follow from template and model alone: with a record's own text before them, that record would decide how
    all others are trained.

    Raises:
        PrivetError: if the template asks for it and a verbaliser is more than one token.
    """
    if not isinstance(template, ClassificationTemplate) or template.compare == "vocabulary":
        return None
    prompt = fill(template.prompt, dict.fromkeys(columns(template.prompt), "text"))
    words = [Record("", prompt, word) for word in choices(template)]
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


def public_for_codec(config: Config, material: Material) -> list[Example]:
    """The public records, or the model's own sentences, that the run's codec is made from.

    Others of them it is measured on.
    """
    needed = getattr(config.codec, "updates", _UPDATES) if follows_public(config.codec) else 0
    return (material.written or material.public)[:needed]


def codec_schedule(
    config: Config, material: Material, observe: Observe = lambda kind, facts: None, *, given: bool = False
) -> CodecSchedule:
    """The codecs of a run, with gradients on the public records for those that follow them.

    Args:
        config: The configuration.
        material: With the public records, if there are any here.
        observe: Told how far training is, and what a codec keeps.
        given: Whether the codec is made elsewhere and comes with each question.
    """
    trainer, system = material.trainer, config.system
    fitted = public_for_codec(config, material)

    def gradients(chosen: Sequence[Example]) -> Callable[[Floats], Floats]:
        def of(flat: Floats) -> Floats:
            trainer.set_flat(flat)
            rows = [rows for _, rows in trainer.per_unit_gradients(chosen, trainer.micro_batch)]
            return np.concatenate(rows) if rows else np.zeros((0, trainer.dimension), np.float32)

        return of

    follows = material.written or material.public
    held_out = follows[len(fitted) :][:HELD_OUT]
    tried = follows[HELD_OUT:][:REHEARSED] if system.preparation_rounds else []
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
        public=gradients(fitted) if follows else None,
        held_out=gradients(held_out) if held_out else None,
        rehearsal=gradients(tried) if len(tried) == REHEARSED else None,
        origin="updates on self-written text" if material.written else "public updates",
        learns=system.preparation_rounds > 0,
        given=given,
        noise=noise,
        cohort=cohort,
        observe=observe,
    )


def layout_of(material: Material) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the trained tensors."""
    return [(tensor.name, tensor.shape) for tensor in material.trainer.backbone.layout.tensors]
