"""Which system a run uses: one class a system, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from privet.config_section import Section

Prior = Literal["mean", "mean_std", "moments"]
Groups = Literal["tensor", "kind", "all"]


class _System(Section):
    @property
    def preparation_rounds(self) -> int:
        """Rounds before the first, whose releases the codec is made from."""
        return 0


class FedAvgConfig(_System):
    """LoRA and federated averaging (McMahan 2017), without privacy: the honest baseline."""

    kind: Literal["fedavg"] = "fedavg"


class DpLoraConfig(_System):
    """LoRA with local DP-SGD and averaging (arXiv 2312.17493)."""

    kind: Literal["dp_lora"] = "dp_lora"
    faithful: bool = Field(
        False, description="As the paper does it: the batch gradient is clipped factor by factor."
    )


class HedgeConfig(_System):
    """Distributed DP-SGD: silos add shares of one noise, and only the sum opens."""

    kind: Literal["hedge"] = "hedge"


class OwnMask(Section):
    """What the faithful setting prunes: each client the smallest coordinates of its own update, sent as zeros."""

    start_round: int = Field(40, ge=0, description="Round before which nothing is pruned.")
    start: float = Field(0.2, ge=0, lt=1, description="Share pruned at the start round.")
    end: float = Field(0.5, ge=0, lt=1, description="Share pruned in the last round.")


class FedShieldConfig(_System):
    """LoRA, magnitude pruning and homomorphic encryption of the updates (arXiv 2506.05640)."""

    kind: Literal["fedshield"] = "fedshield"
    faithful: bool = Field(
        False, description="As the paper does it: each client its own mask, dense CKKS ciphertexts."
    )
    own_mask: OwnMask = Field(
        default_factory=OwnMask,
        description="Pruning of the faithful setting; the sound one prunes with `codec: {kind: prune}`.",
    )


class CgFedLlmConfig(_System):
    """LoRA and an autoencoder trained on the clients' exact updates (arXiv 2405.13746): compression, no privacy."""

    kind: Literal["cg_fedllm"] = "cg_fedllm"
    collections: int = Field(
        1, ge=1, description="Rounds before the first in which every client sends an exact update."
    )

    @property
    def preparation_rounds(self) -> int:
        """Rounds in which exact updates are collected."""
        return self.collections


class StatisticsConfig(Section):
    """Stage 1 of DR-Encoder: what is asked of the clients' updates before the codec is made."""

    releases: int = Field(3, ge=1, description="Releases E of noisy statistics, whose mean counts.")
    prior: Prior = Field(
        "mean_std", description="Statistics of a group of values; synthetic updates are drawn by them."
    )
    moments: Literal[3, 4] = Field(4, description="Highest moment that `prior: moments` releases.")
    groups: Groups = Field(
        "tensor",
        description="What one set of statistics is about: a tensor, all tensors of one kind over the layers, or all.",
    )
    share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Stage 1's share of the squared GDP parameter: E/sigma1^2 over E/sigma1^2 + T/sigma2^2.",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="L2 bound of an update in stage 1; `privacy.clip_norm` when absent."
    )


class DrEncoderConfig(_System):
    """An autoencoder trained on synthetic updates that follow noisy statistics (arXiv 2412.17053)."""

    kind: Literal["dr_encoder"] = "dr_encoder"
    faithful: bool = Field(False, description="As the paper does it: the statistics of stage 1 are exact.")
    statistics: StatisticsConfig = Field(default_factory=StatisticsConfig, description="Stage 1.")

    @property
    def preparation_rounds(self) -> int:
        """Releases of stage 1."""
        return self.statistics.releases


SystemConfig = Annotated[
    FedAvgConfig | DpLoraConfig | HedgeConfig | FedShieldConfig | CgFedLlmConfig | DrEncoderConfig,
    Field(discriminator="kind"),
]
