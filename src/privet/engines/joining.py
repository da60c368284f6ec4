"""How a site joins a run: what it is told of it, and what it says of itself."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

from privet.config import Config, to_yaml
from privet.protocol import Body
from privet.sealing.base import Message
from privet.wire import Kind, Schema, Text, Whole

JOIN = "join"
PACKAGES = ("privet", "torch", "transformers", "numpy", "scipy", "cryptography", "tenseal", "nvflare")
"""Packages whose versions must be the server's: other versions may round, seal or answer otherwise."""

_MAX_CONFIG = 1 << 20


def joining() -> Message:
    """Schemas of the invitation and of its acceptance."""
    invitation: dict[str, Kind] = {
        "config": Text(_MAX_CONFIG),
        "dimension": Whole(low=1),
        "model": Text(128),
        "versions": Text(4096),
    }
    return Message(Schema(invitation), Schema({"version": Text(32)}))


def invitation(config: Config, *, dimension: int, model: str) -> Body:
    """What a site is told.

    Args:
        config: The configuration with everything resolved.
        dimension: Trained values D.
        model: Fingerprint of the base model.
    """
    versions = json.dumps(installed(), sort_keys=True)
    return {"config": to_yaml(config), "dimension": dimension, "model": model, "versions": versions}


def installed() -> dict[str, str]:
    """Versions of `PACKAGES` here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
