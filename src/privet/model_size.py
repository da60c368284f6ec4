"""How large a model and its adapter are, without the model's weights.

The model is built on torch's meta device from its configuration. Loading torch and transformers for that takes
most of the time of a plan, so what was found is kept in the cache folder, by the hash of the model's configuration
and the libraries' versions; a run that loads the model leaves it there too. A file that cannot be read is made anew.
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

from privet import durable
from privet.cache import cache_dir
from privet.config import Config
from privet.errors import PrivetError
from privet.lora import LinearLayer, factors_of, layout_among, lora_spec
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


@dataclass(frozen=True)
class Described:
    """What the size of any adapter on a model follows from.

    Attributes:
        parameters: Values in all.
        layer_parameters: Values in all but the input embedding.
        depth: Decoder layers.
        linear: Their linear layers.
    """

    parameters: int
    layer_parameters: int
    depth: int
    linear: tuple[LinearLayer, ...]

    @classmethod
    def of(cls, model: Any) -> Described:
        """A model without adapters, loaded whole or on the meta device."""
        from privet.lora_layers import linear_layers

        total = sum(p.numel() for p in model.parameters())
        linear, depth = linear_layers(model)
        return cls(total, total - model.get_input_embeddings().weight.numel(), depth, linear)

    @classmethod
    def read(cls, text: str) -> Described:
        """What `asdict` gave, out of JSON.

        Raises:
            ValueError, KeyError, TypeError: if it is something else.
        """
        facts = json.loads(text)
        return cls(**facts | {"linear": tuple(LinearLayer(**layer) for layer in facts["linear"])})


def model_size(config: Config) -> ModelSize:
    """The size of a configuration's model and adapter, from the cache folder or built on the meta device.

    Raises:
        PrivetError: if the model's configuration cannot be read or takes no such adapter.
    """
    source, described = find(config.model), None
    if (kept := _place(source)) is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            described = Described.read(kept.read_text(encoding="utf-8"))
    if described is None:
        described = _build(config, source)
        keep(source, described)
    layout = layout_among(described.linear, described.depth, lora_spec(config.lora))
    tensors = tuple((tensor.name, tensor.shape) for tensor in layout.tensors)
    return ModelSize(
        described.parameters, described.layer_parameters, layout.dimension, factors_of(layout), tensors
    )


def keep(source: Path | str, described: Described) -> None:
    """Put down what a model is like, for the next plan; a cache that can't be written costs time only."""
    if (kept := _place(source)) is not None:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(kept, json.dumps(asdict(described)))


def _place(source: Path | str) -> Path | None:
    """Where it is put down for a model in a folder; ``None`` for names and files that can change unseen."""
    described = Path(source) / "config.json"
    if not isinstance(source, Path) or not described.is_file():
        return None
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", "privet")]
    key = hashlib.sha256(described.read_bytes() + json.dumps(versions).encode()).hexdigest()
    return cache_dir() / FOLDER / f"{key[:32]}.json"


def _build(config: Config, source: Path | str) -> Described:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

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
            allowed="smollm2-135m-instruct, small, a folder in Hugging Face format, a .gguf file, or a hub name",
            hint="check the spelling; a hub name needs a network or Hugging Face's cache"
            + (f" ({str(error).splitlines()[0][:200]})" if str(error) else ""),
        ) from None
    return Described.of(model)
