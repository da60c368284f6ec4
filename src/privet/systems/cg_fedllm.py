"""``cg_fedllm``: updates compressed by an autoencoder that was trained on exact updates. No privacy.

CG-FedLLM: How to Compress Gradients in Federated Fine-tuning for Large Language Models, arXiv 2405.13746; the
predecessor of `dr_encoder`, and what its compression is compared with:

    first:      every client sends its exact update, and the server trains an autoencoder on all of them;
    each round: every client encodes its update, and the server decodes the mean code and steps along it.

The server sees every update of the first part by itself, so there is no seal, and no epsilon for anybody.
"""

from __future__ import annotations

from dataclasses import replace

from privet.config import Config
from privet.pipeline import Pipeline
from privet.privacy.events import NoGuarantee
from privet.systems.base import Facts, Preparation, System
from privet.systems.parts import encoders, public_rounding
from privet.work import LocalUpdate

REASON = (
    "clients send exact updates, from which records can be reconstructed, and the codec is made from them"
)


def cg_fedllm(config: Config, facts: Facts) -> System:
    """Compose both parts for a configuration."""
    assert config.system.kind == "cg_fedllm"
    codes = System(
        name="cg_fedllm",
        paper="arXiv 2405.13746",
        work=LocalUpdate(config.schedule.local),
        pipeline=Pipeline(
            [*encoders(facts), public_rounding(facts, facts.total_weight(config.schedule.weights))]
        ),
        optimiser=config.schedule.server,
        release=NoGuarantee("codes of updates", REASON),
    )
    updates = replace(
        codes, pipeline=Pipeline([public_rounding(facts, 1.0)]), release=NoGuarantee("exact updates", REASON)
    )
    return replace(codes, preparation=Preparation(config.system.collections, updates))
