"""One file a system, each some forty lines: start here.

A system file reads like its paper's algorithm box: the composition, the release it makes each round, the citation.
No system imports another.
"""

from __future__ import annotations

from privet.config import Config
from privet.systems.base import Facts, System
from privet.systems.cg_fedllm import cg_fedllm
from privet.systems.dp_lora import dp_lora
from privet.systems.dp_lora_faithful import dp_lora_faithful
from privet.systems.dr_encoder import dr_encoder
from privet.systems.fedavg import fedavg
from privet.systems.fedshield import fedshield
from privet.systems.hedge import hedge

__all__ = ["Facts", "System", "compose"]


def compose(config: Config, facts: Facts) -> System:
    """The system that ``config`` asks for.

    Raises:
        PrivetError: if its stages are unsound, or its noise cannot be drawn as configured.
    """
    if config.system.kind == "fedavg":
        return fedavg(config, facts)
    if config.system.kind == "fedshield":
        return fedshield(config, facts)
    if config.system.kind == "cg_fedllm":
        return cg_fedllm(config, facts)
    if config.system.kind == "dr_encoder":
        return dr_encoder(config, facts)
    assert config.privacy is not None, "config_rules demands it"
    if config.system.kind == "dp_lora" and config.system.faithful:
        return dp_lora_faithful(config, facts, config.privacy)
    if config.system.kind == "dp_lora":
        return dp_lora(config, facts, config.privacy)
    return hedge(config, facts, config.privacy)
