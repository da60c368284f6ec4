"""How large a model and its adapter are, without the model's weights.

The model is built on torch's meta device from its configuration. Loading torch and transformers for that takes
most of the time of a plan, so what was found is kept in the cache folder, by the hash of the configuration, the
adapter asked for, and the libraries' versions. A file there that cannot be read is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.cache import cache_dir
from privet.config import Config
from privet.errors import PrivetError
from privet.lora import AdaptedLayer, AdapterLayout, LoraSpec, factors_of, lora_spec
from privet.models import resolve as find

FOLDER = "sizes"


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model without its weights.

    Attributes:
        parameters: Values in all.
        layer_parameters: Values in the layers: all but the input embedding.
        dimension: Trained values D.
        factors: Positions of each trained factor in the flat vector.
        tensors: Names and shapes of the trained tensors.
    """

    parameters: int
    layer_parameters: int
    dimension: int
    factors: tuple[NDArray[np.int64], ...]
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()


def model_size(config: Config) -> ModelSize:
    """The size of a configuration's model and adapter, from the cache folder or built on the meta device.

    Raises:
        PrivetError: if the model's configuration cannot be read or takes no such adapter.
    """
    source, spec = find(config.model), lora_spec(config.lora)
    kept = _place(source, spec)
    if kept is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _size(json.loads(kept.read_text(encoding="utf-8")), spec)
    facts = _build(config, source, spec)
    if kept is not None:
        with contextlib.suppress(OSError):  # a cache that can't be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(facts), encoding="utf-8")
            partial.replace(kept)
    return _size(facts, spec)


def _place(source: Path | str, spec: LoraSpec) -> Path | None:
    """Where the size of a model in a folder is kept; ``None`` for names and files that can change unseen."""
    described = Path(source) / "config.json"
    if not isinstance(source, Path) or not described.is_file():
        return None
    facts = [asdict(spec), *(f"{name} {version(name)}" for name in ("torch", "transformers", "privet"))]
    key = hashlib.sha256(described.read_bytes() + json.dumps(facts).encode()).hexdigest()
    return cache_dir() / FOLDER / f"{key[:32]}.json"


def _size(facts: dict[str, Any], spec: LoraSpec) -> ModelSize:
    chosen = facts["decoder_layers"]
    layout = AdapterLayout(
        spec,
        tuple(AdaptedLayer(**layer) for layer in facts["layers"]),
        tuple(facts["targets"]),
        None if chosen is None else tuple(chosen),
        transposed=facts["transposed"],
    )
    tensors = tuple((tensor.name, tensor.shape) for tensor in layout.tensors)
    return ModelSize(
        facts["parameters"], facts["layer_parameters"], layout.dimension, factors_of(layout), tensors
    )


def _build(config: Config, source: Path | str, spec: LoraSpec) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from privet.lora_layers import layout_of

    try:
        options = {"revision": config.model.revision, "trust_remote_code": False}
        if str(source).endswith(".gguf"):
            options["gguf_file"] = os.path.basename(source)
            source = os.path.dirname(source)
        described = AutoConfig.from_pretrained(source, **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise PrivetError(
            "the model's configuration cannot be read",
            field="model.name",
            given=config.model.name,
            hint=str(error).splitlines()[0][:200] if str(error) else "check the folder",
        ) from None
    total = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    layout = layout_of(model, spec)
    return {
        "parameters": total,
        "layer_parameters": total - embedding,
        "layers": [asdict(layer) for layer in layout.layers],
        "targets": layout.targets,
        "decoder_layers": layout.decoder_layers,
        "transposed": layout.transposed,
    }
