"""``fedavg``: LoRA and federated averaging, without privacy. The honest baseline.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data, AISTATS 2017, Algorithm 1, with a server optimiser (Reddi et al., arXiv 2003.00295).

    each round: every client trains the adapter on its records and sends the difference;
                the server adds the weighted mean of the differences (average), or steps along it (momentum, Adam).
"""

from __future__ import annotations

from privet.config import Config
from privet.pipeline import Pipeline
from privet.privacy.events import NoGuarantee
from privet.systems.base import Facts, System
from privet.systems.parts import encoders, public_rounding
from privet.work import LocalUpdate

REASON = "updates are neither clipped nor noised: whoever sees one, or their sum, may learn the records"


def fedavg(config: Config, facts: Facts) -> System:
    """Compose the system for a configuration."""
    denominator = facts.total_weight(config.schedule.weights)
    return System(
        name="fedavg",
        paper="McMahan et al., AISTATS 2017, Algorithm 1",
        work=LocalUpdate(config.schedule.local),
        pipeline=Pipeline([*encoders(facts), public_rounding(facts, denominator)]),
        optimiser=config.schedule.server,
        release=NoGuarantee("updates", REASON),
    )
