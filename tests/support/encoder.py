"""Toy runs of `dr_encoder`: three tensors of eight numbers, and a network small enough to train at once."""

from __future__ import annotations

from typing import Any

from support.toy import config, examples, federation, split

from privet.config import Config
from privet.federation import Federation

LAYOUT = (("one.lora_B", (8,)), ("two.lora_B", (2, 4)), ("three.lora_B", (8,)))
RELEASES = 2
CODEC: dict[str, Any] = {
    "kind": "autoencoder",
    "network": "mlp",
    "block": 8,
    "ratio": 2,
    "samples": 32,
    "holdout": 8,
    "epochs": 3,
    "allow_useless": True,
}


def encoder(**sections: Any) -> Config:
    """A client-level run of both stages under masks; ``sections`` are laid over it."""
    base: dict[str, Any] = {
        "system": {"kind": "dr_encoder", "statistics": {"releases": RELEASES, "share": 0.2}},
        "codec": CODEC,
        "schedule": {
            "rounds": 3,
            "sampling_rate": None,
            "expected_batch": None,
            "local": {"steps": 2, "learning_rate": 0.05},
            "server": {"kind": "average", "learning_rate": 1.0},
        },
        "privacy": {"unit": "client", "relation": "zero-out", "noise_multiplier": 0.5, "clip_norm": 1.0},
    }
    for name, value in sections.items():
        whole = isinstance(value, dict) and isinstance(base.get(name), dict) and "kind" not in value
        base[name] = {**base[name], **value} if whole else value
    return config(**base)


def encoder_federation(asked: Config | None = None, parties: int = 4, **options: Any) -> Federation:
    """The parties of such a run."""
    return federation(asked or encoder(), split(examples(80), parties), layout=LAYOUT, **options)
