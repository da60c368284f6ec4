"""The configuration of a run: what a YAML file may say, and every mistake in it at once.

Sections are named after what they decide. ``privacy``, ``sealing`` and ``codec`` change what a party could learn;
``engine`` changes only how fast a run is and where it happens. Nothing here imports torch, so that ``privet validate``
answers at once. The reference in ``docs/config.md`` is generated from this schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from privet.codec_config import CodecConfig, IdentityCodec
from privet.config_problems import Problem, problems_of_fields, truths_for_numbers
from privet.config_rules import problems_of
from privet.config_section import Section
from privet.config_text import read_yaml, with_overrides
from privet.data_config import DataConfig
from privet.errors import PrivetError
from privet.model_config import ModelConfig
from privet.system_config import SystemConfig

__all__ = [
    "CkksSealing",
    "Config",
    "ConfigError",
    "Dropout",
    "EncryptedMaskedSealing",
    "EncryptedSealing",
    "EngineConfig",
    "EvaluationConfig",
    "LocalConfig",
    "LoraConfig",
    "MaskedSealing",
    "NoSealing",
    "OptimiserConfig",
    "PrivacyConfig",
    "Problem",
    "Relation",
    "ScheduleConfig",
    "SealingConfig",
    "Section",
    "TopLayers",
    "TrustConfig",
    "Unit",
    "load",
    "parse",
    "read_yaml",
    "to_yaml",
    "with_overrides",
]

Relation = Literal["add-remove", "zero-out", "replace-one"]
Unit = Literal["record", "client"]


class TopLayers(Section):
    """The ``top`` transformer layers nearest the output; the frozen layers below are computed once and cached."""

    top: int = Field(gt=0, description="How many of the last layers get an adapter.")


class LoraConfig(Section):
    """Which weights are tuned (Hu et al., arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=512, description="Rank r of the adapter's factors.")
    alpha: float = Field(16.0, gt=0, description="Scale: the adapter adds alpha/rank * B A x.")
    targets: tuple[str, ...] | None = Field(
        None, description="Names of the linear layers that get an adapter; by the model's family when absent."
    )
    layers: TopLayers | Literal["all"] | tuple[int, ...] = Field(
        "all", description="`all`, `{top: k}`, or a list of layer numbers."
    )
    factors: Literal["freeze_a", "both"] = Field(
        "freeze_a",
        description="`freeze_a` trains B only (FFA-LoRA, arXiv 2403.12313): averaging is exact and noise linear.",
    )
    init_seed: int = Field(0, ge=0, description="Public seed of the factors A.")


class OptimiserConfig(Section):
    """One optimiser over the flat vector of trained values."""

    kind: Literal["average", "momentum", "adam"] = Field("adam", description="Rule of the step.")
    learning_rate: float = Field(1.0, gt=0, description="Step size; with `normalise`, the step's length.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment (momentum and adam).")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the second moment (adam).")
    epsilon: float = Field(1e-8, gt=0, description="Added to Adam's denominator.")
    normalise: bool = Field(
        True, description="Divide Adam's step by sqrt(dimension), so its length is the rate."
    )
    warmup_rounds: int = Field(0, ge=0, description="Rounds over which the rate rises linearly.")
    decay: Literal["none", "linear", "cosine"] = Field(
        "none",
        description="How the rate falls after the warm-up, to zero after the last planned round, so that late noise "
        "moves the adapter less.",
    )


class LocalConfig(Section):
    """What a client does between two rounds, where the system trains locally."""

    steps: int = Field(1, ge=1, description="Optimiser steps a round.")
    batch_size: int = Field(16, ge=1, description="Records a step, where batches are not Poisson-sampled.")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="Local optimiser.")
    learning_rate: float = Field(1.0, gt=0, description="Local step size.")


class ScheduleConfig(Section):
    """How long a run is and what a round contains."""

    rounds: int = Field(40, ge=1, description="Rounds T.")
    sampling_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Poisson rate q at which each silo samples its records; public, one for all.",
    )
    expected_batch: float | None = Field(
        None,
        gt=0,
        description="Public denominator of a record-level sum: the declared expected number of sampled records over "
        "all silos (one silo, where each silo steps by itself). Never the true count.",
    )
    weights: tuple[float, ...] | None = Field(
        None, description="Public weights of the clients in an average, at most 1 each; equal when absent."
    )
    local: LocalConfig = Field(default_factory=LocalConfig, description="Local training.")
    server: OptimiserConfig = Field(
        default_factory=OptimiserConfig, description="Optimiser on the opened sum."
    )
    min_survivors: int | None = Field(
        None,
        ge=1,
        description="Contributions demanded before a sum is opened; all clients when absent. Noise shares are sized by "
        "it, less the colluders assumed.",
    )
    round_attempts: int = Field(
        3, ge=1, description="How often a round that failed is tried before the run stops."
    )


class TrustConfig(Section):
    """The trust model that the printed guarantee assumes."""

    colluders: int = Field(
        1,
        ge=0,
        description="Clients assumed to pool what they know with an observer; 1 covers a curious participant, who "
        "subtracts its own share of the noise. Under `sealing.kind: encrypted` one of them opens single contributions "
        "with the server, so noise shares are worth no more than whole noise from each client.",
    )


class PrivacyConfig(Section):
    """The privacy guarantee that is asked for; absent for systems that give none."""

    unit: Unit = Field("record", description="What one privacy unit is: one record, or all of a client.")
    relation: Relation = Field(
        "add-remove", description="Neighbouring relation; `replace-one` doubles sensitivity."
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="Total delta, the sampler's small change included.")
    target_epsilon: float | None = Field(
        None,
        gt=0,
        description="Noise is calibrated so that the worst observer of the trust model sees this epsilon.",
    )
    noise_multiplier: float | None = Field(
        None, gt=0, description="Standard deviation of the noise over the sensitivity, instead of a target."
    )
    max_epsilon: float | None = Field(
        None, gt=0, description="Budget: a release that would exceed it is not made and the run stops."
    )
    clip_norm: float | Literal["public"] = Field(
        "public",
        description="L2 bound of one unit, or `public`: on the public records, the median length of a record's "
        "gradient or, for unit client, of an update of local steps.",
    )
    trust: TrustConfig = Field(default=TrustConfig(), description="Trust model of the guarantee.")


class NoSealing(Section):
    """Contributions travel to the server as they are."""

    kind: Literal["none"] = "none"


class MaskedSealing(Section):
    """Pairwise and self masks (Bonawitz et al. 2017); the server learns the sum and nothing else."""

    kind: Literal["masked"] = "masked"
    epoch_rounds: int = Field(8, ge=1, le=64, description="Rounds that one key phase serves.")


class EncryptedSealing(Section):
    """SEAL BFV: the server adds ciphertexts; a designated client opens the sum."""

    kind: Literal["encrypted"] = "encrypted"


class EncryptedMaskedSealing(Section):
    """BFV over masked values: no single client and no server alone could open a contribution."""

    kind: Literal["encrypted+masked"] = "encrypted+masked"
    epoch_rounds: int = Field(8, ge=1, le=64, description="Rounds that one key phase serves.")


class CkksSealing(Section):
    """TenSEAL CKKS with FedShield-LLM's parameters; for comparison, approximate arithmetic."""

    kind: Literal["ckks"] = "ckks"


SealingConfig = Annotated[
    NoSealing | MaskedSealing | EncryptedSealing | EncryptedMaskedSealing | CkksSealing,
    Field(discriminator="kind"),
]


class EvaluationConfig(Section):
    """What is measured on the public test records; nothing else about private data leaves a silo."""

    metric: Literal["choices", "loss"] = Field(
        "choices", description="Accuracy over the verbalisers, or loss alone."
    )
    max_records: int | None = Field(None, ge=1, description="Test records a silo; all when absent.")
    every: int = Field(
        0, ge=0, description="Also after every so many rounds; 0 is before and after the run only."
    )


class Dropout(Section):
    """A planned dropout of the local engine, to see a run recover."""

    round: int = Field(ge=0, description="Round, from 0.")
    party: int = Field(ge=0, description="Number of the client.")
    before: Literal["round", "recover"] = Field(
        "round", description="Phase from which on the client is silent."
    )


INSECURE = "insecure_test_seed is set: all secrets follow from a number in the configuration"
SHARED_ARITHMETIC = (
    "engine.deterministic_units is false: within rounding errors a record's gradient depends on the records that share "
    "its micro-batch, so one that comes or goes also moves what others contribute, and the sensitivity counts its own "
    "contribution only"
)
"""Where records pass through the model together a bound on one of them is no bound (docs/training.md)."""


class EngineConfig(Section):
    """Where a run happens and how fast; of all this only `deterministic_units` changes what is promised."""

    kind: Literal["local"] = Field("local", description="`local` runs all parties in one process.")
    threads: int | None = Field(None, ge=1, description="Torch threads; all cores when absent.")
    micro_batch: int = Field(32, ge=1, description="Records whose gradients are in memory at once.")
    cache_mebibytes: int = Field(
        2048, ge=0, description="Memory for what the frozen layers compute; 0 computes it each time."
    )
    cache_folder: str | None = Field(
        None,
        description="Folder for what does not fit; absent keeps nothing on disk. It holds traces of the records.",
    )
    deterministic_units: bool | None = Field(
        None,
        description="Compute each record in a shape that its own length fixes: gradients do not depend on the batch "
        "they are computed in, so the sensitivity of a sum of records is exact. When absent: `true` where "
        "privacy.unit is `record`, else `false`. A record-level run with `false` has epsilon `none`.",
    )
    diagnostics: bool = Field(
        True,
        description="Local engine only: write sampled counts and measured noise, which no real client sends.",
    )
    site_timeout: float = Field(
        600.0,
        gt=0,
        description="Several machines: seconds after which a site that has not answered is left out.",
    )
    join_timeout: float = Field(
        1800.0, gt=0, description="Several machines: seconds that a site may take to load its model and data."
    )
    dropouts: tuple[Dropout, ...] = Field((), description="Planned dropouts, to see a run recover.")


class Config(Section):
    """A whole run."""

    version: Literal[1] = 1
    seed: int = Field(0, ge=0, description="Public seed: partitions, codecs, order of public records.")
    insecure_test_seed: int | None = Field(
        None, ge=0, description="Derive all secrets from this number. For tests: epsilon becomes `none`."
    )
    system: SystemConfig
    model: ModelConfig
    data: DataConfig
    lora: LoraConfig = Field(default_factory=LoraConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    privacy: PrivacyConfig | None = None
    codec: CodecConfig = Field(default_factory=IdentityCodec)
    sealing: SealingConfig = Field(default_factory=NoSealing)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @property
    def rounds(self) -> int:
        """Rounds of the whole protocol: those that prepare the codec, then T that move the adapter."""
        return self.system.preparation_rounds + self.schedule.rounds

    @property
    def deterministic_units(self) -> bool:
        """Whether a record's gradient has the same bits in any company: as asked, else where the unit is a record."""
        if self.engine.deterministic_units is not None:
            return self.engine.deterministic_units
        return self.privacy is not None and self.privacy.unit == "record"

    @property
    def void(self) -> str | None:
        """Why the run promises nothing, whatever noise it adds; ``None`` where its ledger says what it promises."""
        if self.insecure_test_seed is not None:
            return INSECURE
        record = self.privacy is not None and self.privacy.unit == "record"
        return SHARED_ARITHMETIC if record and not self.deterministic_units else None


class ConfigError(PrivetError):
    """All mistakes of a configuration file."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} mistake{'s' if len(problems) != 1 else ''}"
        super().__init__(
            f"{count}\n" + "\n".join(f"  - {problem}" for problem in problems),
            field=source,
            hint="`privet init` writes an example; docs/config.md lists every key",
        )


def parse(raw: Mapping[str, Any], source: str = "config") -> Config:
    """A checked configuration.

    Raises:
        ConfigError: naming every mistake, those of single fields first, else those between fields.
    """
    mistaken = list(truths_for_numbers(raw, Config))
    try:
        config = Config.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(source, mistaken + problems_of_fields(e, Config)) from None
    if mistaken:
        raise ConfigError(source, mistaken)
    check(config, source)
    return config


def check(config: Config, source: str = "config") -> None:
    """Refuse a configuration whose sections do not go together, also one that was changed after it was parsed.

    Raises:
        ConfigError: naming every broken rule.
    """
    problems = [Problem(*row) for row in problems_of(config)]
    if problems:
        raise ConfigError(source, problems)


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration in a file, with overrides.

    Raises:
        PrivetError: see :func:`read_yaml`, :func:`with_overrides` and :func:`parse`.
    """
    return parse(with_overrides(read_yaml(path), overrides), str(path))


def to_yaml(config: Config) -> str:
    """The configuration with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
