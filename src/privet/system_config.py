"""Which system a run uses: one class a system, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _System(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class OwnMask(BaseModel):
    """What the faithful setting prunes: each client the smallest coordinates of its own update, sent as zeros."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


SystemConfig = Annotated[
    FedAvgConfig | DpLoraConfig | HedgeConfig | FedShieldConfig, Field(discriminator="kind")
]
