"""Where inversion works if anywhere: both factors trained, adapters on the first two layers, after a step.

`prepare` puts such adapters into the audited run's own model, and the functions below it make configurations for
them: the positive control (one local step, nothing sealed, no noise), and the same with the run's codec, seal
and noise. Where the run itself trains neither A nor the first layer, inversion says *not applicable* of it, and
what protects the control is shown all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from privet.attacks.finding import Finding, not_applicable
from privet.attacks.layer_inputs import LayerInputs, a_rows
from privet.attacks.pursuit import Matrix, unit_rows
from privet.attacks.rehearsal import Rehearsed, Stage, rehearse
from privet.attacks.transcript import RoundSeen
from privet.codec_config import IdentityCodec, PruneCodec
from privet.config import (
    Config,
    ConfigError,
    LocalConfig,
    LoraConfig,
    MaskedSealing,
    NoSealing,
    OptimiserConfig,
    PrivacyConfig,
)
from privet.errors import PrivetError
from privet.lora import AdapterLayout, LoraSpec, factors_of
from privet.material import LoraTrainer, Material, answer_tokens, codec_schedule
from privet.pipeline import Floats
from privet.public_clip import median_length, public_gradients
from privet.system_config import DpLoraConfig, FedAvgConfig, HedgeConfig, SystemConfig
from privet.tokenise import Example
from privet.train import Backbone

LAYERS = (0, 1)
RATE = 10.0
"""Local rate of the control: large, so that in the second round B is far from zero and A's gradient above the grid."""


@dataclass(frozen=True)
class Prepared:
    """The control's adapters in the model.

    Attributes:
        material: The run's material, with these adapters.
        inputs: Inputs of the first layer.
        raw_dictionary: Inputs of the first layer for every token, float32 [V, d].
        dictionary: The same as unit rows.
        template: Tokens that every record holds: they are public.
    """

    material: Material
    inputs: LayerInputs
    raw_dictionary: Matrix
    dictionary: Matrix
    template: tuple[int, ...]

    @property
    def layout(self) -> AdapterLayout:
        """Order of the control's tensors."""
        return self.material.trainer.backbone.layout

    def rehearse(
        self, config: Config, records: Mapping[str, Sequence[Example]], rounds: int = 2
    ) -> Rehearsed:
        """Run a configuration over the control's adapters."""
        backbone = self.material.trainer.backbone
        schedule = codec_schedule(config, self.material)
        stage = Stage(
            config, self.material.trainer, backbone.initial_flat(), schedule, factors_of(backbone.layout)
        )
        return rehearse(stage, records, rounds=rounds)

    def rows(self, direction: Floats, layer: int = 0) -> Matrix:
        """What a direction [D] says of the first (or second) layer's A."""
        return a_rows(self.layout, direction, layer)

    def private_tokens(self, examples: Sequence[Example]) -> set[int]:
        """Tokens of records that are not those of the public template."""
        return {int(t) for e in examples for t in e.input_ids[:-1]} - set(self.template)


def prepare(config: Config, material: Material) -> Prepared:
    """Put the control's adapters into the model, for good: the run's own adapters are taken out.

    Raises:
        PrivetError: if the model has no such layers.
    """
    material.trainer.backbone.detach()
    lora = config.lora
    spec = LoraSpec(lora.rank, lora.alpha, lora.targets, LAYERS, "both", lora.init_seed)
    answers = answer_tokens(config.data.template, material.model)
    model = material.model.model
    backbone = Backbone(model, spec, answers=answers)
    backbone.set_flat(backbone.initial_flat())
    inputs = LayerInputs(model, backbone.layout, 0)
    raw = inputs.vocabulary()
    texts = public_texts(material)
    return Prepared(
        replace(material, trainer=LoraTrainer(backbone, material.trainer.micro_batch)),
        inputs,
        raw,
        unit_rows(raw),
        tuple(sorted(set.intersection(*map(set, texts)))),
    )


def public_texts(material: Material) -> list[tuple[int, ...]]:
    """Tokens of public records without the answer's last (training records where there are no public ones)."""
    examples = material.public or [e for own in material.silos.values() for e in own[:64]]
    return [tuple(int(t) for t in e.input_ids[:-1]) for e in examples]


def refused(attack: str, setting: str, sees: str, error: PrivetError) -> Finding:
    """A setting that the product itself refuses to run."""
    broken = error.problems if isinstance(error, ConfigError) else ()
    said = "; ".join(f"{each.path} {each.message}" for each in broken) or error.message
    return not_applicable(attack, setting, sees, f"Refused by the run itself: {said}.")


def clear(config: Config) -> Config:
    """The positive control: one plain local step, averaged, with nothing in between."""
    local = LocalConfig(steps=1, batch_size=1 << 16, optimiser="sgd", learning_rate=RATE)
    server = OptimiserConfig(kind="average", learning_rate=1.0)
    schedule = config.schedule.model_copy(
        update={
            "rounds": 2,
            "local": local,
            "server": server,
            "weights": None,
            "sampling_rate": None,
            "expected_batch": None,
            "min_survivors": None,
        }
    )
    engine = config.engine.model_copy(update={"dropouts": ()})
    update: dict[str, Any] = {
        "system": FedAvgConfig(),
        "privacy": None,
        "sealing": NoSealing(),
        "codec": IdentityCodec(),
        "schedule": schedule,
        "lora": LoraConfig(**{**config.lora.model_dump(), "factors": "both", "layers": LAYERS}),
        "engine": engine,
    }
    return config.model_copy(update=update)


def sealed(config: Config, like: Config) -> Config:
    """The control under the sealing level of the run."""
    return clear(config).model_copy(update={"sealing": like.sealing})


def coded(config: Config, codec: Any) -> Config:
    """The control with a codec."""
    return clear(config).model_copy(update={"codec": codec})


def noised(config: Config, clip_norm: float, batch: float) -> Config:
    """The control under the run's own system, seal and noise, every record in every round.

    Args:
        config: The run, with its noise multiplier.
        clip_norm: Clip norm for the control's adapters.
        batch: Public denominator of a record-level sum.
    """
    base = clear(config)
    assert config.privacy is not None, "a run without noise has no such setting"
    privacy: PrivacyConfig = config.privacy.model_copy(update={"clip_norm": clip_norm, "max_epsilon": None})
    schedule, system = base.schedule, _one_stage(config)
    if config.schedule.sampling_rate is not None:
        changes: dict[str, Any] = {"sampling_rate": 1.0, "expected_batch": batch}
        if system.kind != "dp_lora":
            changes["server"] = schedule.server.model_copy(update={"learning_rate": RATE})
        schedule = schedule.model_copy(update=changes)
    return base.model_copy(
        update={
            "system": system,
            "privacy": privacy,
            "sealing": config.sealing,
            "schedule": schedule,
        }
    )


def _one_stage(config: Config) -> SystemConfig:
    """The run's system or, where it learns an encoder first, one that noises as much: the control is about the noise.

    Without a seal every message of such a run holds all of the noise, as in ``dp_lora``; under one, a share.
    """
    if not config.system.preparation_rounds:
        return config.system
    return DpLoraConfig() if config.sealing.kind == "none" else HedgeConfig()


def last_round(rehearsed: Rehearsed) -> RoundSeen:
    """The last opened round: B is no longer zero there, so A has a gradient."""
    return [seen for seen in rehearsed.transcript.rounds if seen.total is not None][-1]


def prior_recall(prepared: Prepared, victims: Sequence[Example], guesses: int) -> float:
    """Recall of an attacker without the message: the commonest private tokens of public records."""
    counts: dict[int, int] = {}
    for example in prepared.material.public:
        for token in {int(t) for t in example.input_ids[:-1]} - set(prepared.template):
            counts[token] = counts.get(token, 0) + 1
    commonest = sorted(counts, key=lambda token: (-counts[token], token))[:guesses]
    private = prepared.private_tokens(victims)
    return len(private & set(commonest)) / max(1, len(private))


def masked(config: Config) -> Config:
    """The configuration under masks, for runs that seal nothing."""
    return config.model_copy(update={"sealing": MaskedSealing()})


def pruned(share: float) -> PruneCodec:
    """A public mask that drops a share of the coordinates from the second round on, drawn from the seed."""
    return PruneCodec(mask="seed", start_round=1, start_rate=share, end_rate=share, allow_useless=True)


def clip_norm(config: Config, prepared: Prepared, most: int = 32) -> float:
    """Median length of a unit on public records for the control's adapters, as a run would take it."""
    material = prepared.material
    gradient = median_length(public_gradients(material, material.public[:most]))
    # A client's update is a step of the local rate; a record's gradient, or that of a batch, is clipped before it.
    steps = config.privacy is not None and config.privacy.unit == "client" and config.system.kind != "dp_lora"
    return gradient * (RATE if steps else 1.0)
