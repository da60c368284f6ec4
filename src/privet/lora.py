"""What a LoRA adapter consists of, as numbers: the specification, the order of its tensors, and PEFT's files.

A federated method sees an adapter as one flat float32 vector of the *trained* factors. `AdapterLayout` is the
dictionary between that vector, the tensors A [rank, in] and B [out, rank] of each adapted layer, and the
folder that plain `peft` loads. This module is numpy only; the layers that compute with the vector are in
`lora_layers.py`.

Source: Hu et al., "LoRA", arXiv 2106.09685, section 4.1 (y = Wx + (alpha/rank)·B·A·x, A random, B zero);
Sun et al., "Improving LoRA in Privacy-preserving Federated Learning" (FFA-LoRA), arXiv 2403.12313, for
``freeze_a``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from privet.config import LoraConfig, TopLayers
from privet.errors import PrivetError

Vector = NDArray[np.float32]
Factors = Literal["both", "freeze_a"]


@dataclass(frozen=True)
class LoraSpec:
    """Which layers get an adapter, how large it is, and which of its factors are trained.

    Attributes:
        rank: Inner dimension r of B·A.
        alpha: Scale; the adapter adds (alpha / rank)·B·A·x.
        targets: Last parts of the names of the linear layers to adapt, e.g. ``("q_proj", "v_proj")``;
            ``None`` chooses by the model's family (queries and values).
        layers: ``"all"``, the number of top layers, or the layers' indices counted from 0 at the bottom.
        factors: ``both``, or ``freeze_a``: A keeps its public initial value and B alone is trained, which
            makes averaging exact and noise linear.
        init_seed: *Public* seed of A's initial value. It protects nothing: every party derives the same A
            from it.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None
    layers: Literal["all"] | int | tuple[int, ...] = "all"
    factors: Factors = "freeze_a"
    init_seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise PrivetError("must be at least 1", field="lora.rank", given=self.rank)
        if self.alpha <= 0:
            raise PrivetError("must be above 0", field="lora.alpha", given=self.alpha)

    @property
    def scale(self) -> float:
        """The factor alpha / rank before B·A·x."""
        return self.alpha / self.rank

    def chosen_layers(self, depth: int) -> tuple[int, ...]:
        """Indices of the adapted layers of a model with ``depth`` layers, rising.

        Raises:
            PrivetError: if there are no such layers.
        """
        if self.layers == "all":
            return tuple(range(depth))
        if isinstance(self.layers, int):
            chosen = tuple(range(depth - self.layers, depth))
        else:
            chosen = tuple(sorted(set(self.layers)))
        if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
            raise PrivetError(
                "the model has no such layers",
                field="lora.layers",
                given=self.layers,
                allowed=f"'all', a number of top layers from 1 to {depth}, or indices from 0 to {depth - 1}",
            )
        return chosen


@dataclass(frozen=True)
class AdaptedLayer:
    """One linear layer that has an adapter: its full name in the base model and its width on both sides."""

    path: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer of a decoder, which could have an adapter.

    Attributes:
        path: Its full name in the model.
        index: Number of the decoder layer that it belongs to.
        in_features: Width of its input.
        out_features: Width of its output.
        transposed: Whether it keeps its weights as [in, out].
    """

    path: str
    index: int
    in_features: int
    out_features: int
    transposed: bool


@dataclass(frozen=True)
class TrainedTensor:
    """A trained factor and its place in the flat vector: ``flat[start:stop].reshape(shape)``."""

    name: str
    shape: tuple[int, int]
    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """Its place in the flat vector."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class AdapterLayout:
    """The order of an adapter's tensors.

    The flat vector holds, layer by layer in the model's own order, A row by row (if trained) and then B row
    by row.

    Attributes:
        spec: What was asked for.
        layers: The adapted linear layers, in the model's order.
        targets: Names that the adapted layers end with.
        decoder_layers: Indices of the decoder layers that have adapters; ``None`` means all.
        transposed: Whether the base keeps its weights as [in, out] (GPT-2's ``Conv1D``); PEFT wants to be
            told.
    """

    spec: LoraSpec
    layers: tuple[AdaptedLayer, ...]
    targets: tuple[str, ...]
    decoder_layers: tuple[int, ...] | None = None
    transposed: bool = False

    @cached_property
    def tensors(self) -> tuple[TrainedTensor, ...]:
        """The trained tensors in the flat vector's order, under PEFT's names."""
        found: list[TrainedTensor] = []
        start = 0
        for layer in self.layers:
            for name, shape, trained in self._factors(layer):
                if trained:
                    size = shape[0] * shape[1]
                    found.append(TrainedTensor(name, shape, start, start + size))
                    start += size
        return tuple(found)

    @property
    def dimension(self) -> int:
        """Length D of the flat vector."""
        return self.tensors[-1].stop if self.tensors else 0

    def _factors(self, layer: AdaptedLayer) -> tuple[tuple[str, tuple[int, int], bool], ...]:
        prefix = f"base_model.model.{layer.path}"
        return (
            (f"{prefix}.lora_A.weight", (self.spec.rank, layer.in_features), self.spec.factors == "both"),
            (f"{prefix}.lora_B.weight", (layer.out_features, self.spec.rank), True),
        )

    def initial_state(self) -> dict[str, Vector]:
        """All tensors, trained or not, at their start: A drawn from the public seed, B zero."""
        state: dict[str, Vector] = {}
        for layer in self.layers:
            (a_name, a_shape, _), (b_name, b_shape, _) = self._factors(layer)
            state[a_name] = initial_a(self.spec.init_seed, a_name, a_shape)
            state[b_name] = np.zeros(b_shape, np.float32)
        return state

    def initial_flat(self) -> Vector:
        """The flat vector at the start, float32 [D]."""
        return self.flatten(self.initial_state())

    def flatten(self, state: Mapping[str, NDArray[Any]]) -> Vector:
        """The trained tensors of ``state`` as one vector, float32 [D].

        Raises:
            PrivetError: if a tensor is missing or has another shape.
        """
        flat = np.empty(self.dimension, np.float32)
        for tensor in self.tensors:
            value = state.get(tensor.name)
            if value is None or tuple(value.shape) != tensor.shape:
                raise PrivetError(
                    f"the adapter has no tensor {tensor.name} of shape {list(tensor.shape)}",
                    field="adapter",
                    given="nothing" if value is None else list(value.shape),
                    hint="load it with the lora section that it was trained with",
                )
            flat[tensor.slice] = np.asarray(value, np.float32).reshape(-1)
        return flat

    def split(self, flat: Vector) -> dict[str, Vector]:
        """Views of the trained tensors in ``flat`` [D], by PEFT's names."""
        if flat.shape != (self.dimension,):
            raise ValueError(f"flat vector has shape {flat.shape}, the layout needs ({self.dimension},)")
        return {tensor.name: flat[tensor.slice].reshape(tensor.shape) for tensor in self.tensors}

    def peft_state(self, flat: Vector) -> dict[str, Vector]:
        """Everything that PEFT's ``adapter_model.safetensors`` holds, the frozen A included."""
        return self.initial_state() | self.split(np.asarray(flat, np.float32))

    def peft_config(self, base_name: str) -> dict[str, Any]:
        """The content of PEFT's ``adapter_config.json``."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "inference_mode": True,
            "r": self.spec.rank,
            "lora_alpha": self.spec.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self.transposed,
            "target_modules": sorted(self.targets),
            "layers_to_transform": None if self.decoder_layers is None else list(self.decoder_layers),
        }

    def save_peft(self, flat: Vector, directory: Path, base_name: str) -> None:
        """Writes a folder that ``peft.PeftModel.from_pretrained(base, directory)`` loads.

        Args:
            flat: The adapter, float32 [D].
            directory: Made if it is missing; the two files in it are replaced.
            base_name: What PEFT shall look for as the base model: a hub name or a folder.
        """
        from safetensors.numpy import save_file

        directory.mkdir(parents=True, exist_ok=True)
        state = {name: np.ascontiguousarray(value) for name, value in self.peft_state(flat).items()}
        save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.dumps(self.peft_config(base_name), indent=2, sort_keys=True)
        (directory / "adapter_config.json").write_text(config + "\n", encoding="utf-8")

    def load_peft(self, directory: Path) -> Vector:
        """The flat vector out of a folder that `save_peft` or PEFT wrote, float32 [D].

        Raises:
            PrivetError: if tensors are missing, have other shapes, or if A is frozen here but differs in the
                folder.
        """
        from safetensors.numpy import load_file

        path = directory / "adapter_model.safetensors"
        if not path.is_file():
            raise PrivetError("there is no adapter here", field="adapter", given=path)
        state = load_file(path)
        trained = {tensor.name for tensor in self.tensors}
        for name, value in self.initial_state().items():
            if name not in trained and not np.array_equal(state.get(name, np.empty(0)), value):
                raise PrivetError(
                    f"the frozen factor {name} is not the one that lora.init_seed gives",
                    field="adapter",
                    given=path,
                    hint="use the init_seed of the run that trained it, or factors: both",
                )
        return self.flatten(state)


def initial_a(seed: int, name: str, shape: tuple[int, int]) -> Vector:
    """A's initial value: Kaiming-uniform as in PEFT, U(−1/√in, 1/√in), float32 [rank, in].

    Raw words of Philox-4x64 are turned into floats by exact arithmetic here, so that every party on every
    platform and numpy version draws the same bits. The name is part of the key: one layer's A doesn't depend
    on which others exist.
    """
    digest = hashlib.sha256(f"privet/lora/{seed}/{name}".encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(shape[0] * shape[1])
    uniform = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    bound = np.float32(1.0 / math.sqrt(shape[1]))
    drawn: Vector = ((uniform * np.float32(2) - np.float32(1)) * bound).reshape(shape)
    return drawn


FAMILY_TARGETS: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),  # Llama, Mistral, Qwen, Gemma, Phi, OPT
    ("c_attn",),  # GPT-2: queries, keys and values in one layer
    ("query_key_value",),  # GPT-NeoX, Falcon, BLOOM
    ("qkv_proj",),  # Phi-3
    ("Wqkv",),  # MPT
)


def default_targets(names: Sequence[str]) -> tuple[str, ...]:
    """The usual targets, queries and values, for a model whose linear layers end with ``names``.

    Raises:
        PrivetError: if none of the known families fits.
    """
    for targets in FAMILY_TARGETS:
        if set(targets) <= set(names):
            return targets
    raise PrivetError(
        "no default for this family of models",
        field="lora.targets",
        allowed="names of its linear layers: " + ", ".join(sorted(set(names))),
    )


def layout_among(linear: Sequence[LinearLayer], depth: int, spec: LoraSpec) -> AdapterLayout:
    """The layout that ``spec`` gives on a decoder of ``depth`` layers with these linear layers.

    Raises:
        PrivetError: if the targets or layers are not there.
    """
    names = [layer.path.rsplit(".", 1)[-1] for layer in linear]
    targets = spec.targets or default_targets(names)
    for target in targets:
        if target not in names:
            raise PrivetError(
                "the model has no such layer",
                field="lora.targets",
                given=target,
                allowed=", ".join(sorted(set(names))),
            )
    chosen = spec.chosen_layers(depth)
    found = [
        layer for layer, name in zip(linear, names, strict=True) if layer.index in chosen and name in targets
    ]
    if not found:
        raise PrivetError("no layer is both chosen and a target", field="lora.layers", given=spec.layers)
    return AdapterLayout(
        spec,
        tuple(AdaptedLayer(layer.path, layer.in_features, layer.out_features) for layer in found),
        tuple(targets),
        None if len(chosen) == depth else chosen,
        transposed=found[0].transposed,
    )


def lora_spec(config: LoraConfig) -> LoraSpec:
    """The adapter's specification from its section."""
    layers = config.layers.top if isinstance(config.layers, TopLayers) else config.layers
    return LoraSpec(
        rank=config.rank,
        alpha=config.alpha,
        targets=config.targets,
        layers=layers,
        factors=config.factors,
        init_seed=config.init_seed,
    )


def factors_of(layout: AdapterLayout) -> tuple[NDArray[np.int64], ...]:
    """Positions of all trained A and of all trained B in the flat vector; one entry if A is frozen."""
    kinds = [
        [np.arange(t.start, t.stop, dtype=np.int64) for t in layout.tensors if f"lora_{kind}" in t.name]
        for kind in "AB"
    ]
    return tuple(np.concatenate(parts) for parts in kinds if parts)
