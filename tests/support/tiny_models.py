"""Random models of several families, three layers deep, and random records: for tests where shapes matter."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from privet.lora import LoraSpec
from privet.train import Backbone

VOCABULARY = 97
LAYERS = 3
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "qwen2": Qwen2Config(**_SHAPE, use_sliding_window=True, **_WINDOW),
    "qwen3": Qwen3Config(**_SHAPE),
    "gemma2": Gemma2Config(**_SHAPE, **_WINDOW, final_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**_SHAPE, **_WINDOW),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
}

ODD: dict[str, PreTrainedConfig] = {
    "dynamic": LlamaConfig(
        **_SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "mixtral": MixtralConfig(
        **_SHAPE | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512}, num_local_experts=4
    ),
    "mpt": MptConfig(vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=LAYERS, max_seq_len=64),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_head=4, n_layer=LAYERS),
}
"""For what they alone do, not for every test: positions that grow, experts, a limit by another name and none."""


@dataclass(frozen=True, eq=False)
class Case:
    """A tokenised record."""

    id: str
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]


def make_model(family: str = "llama", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A model whose weights are larger than at initialisation, so that attention and soft caps are felt."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(deepcopy((FAMILIES | ODD)[family]))
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model.to(dtype).eval()


def make_cases(lengths: Sequence[int], *, answer: int | None = None, seed: int = 0) -> list[Case]:
    """Records of given lengths; ``answer`` tokens at the end are supervised, or about half of all positions."""
    rng = np.random.default_rng(seed)
    cases = []
    for number, length in enumerate(lengths):
        mask = np.zeros(length, np.bool_)
        if answer is None:
            mask[:-1] = rng.random(length - 1) < 0.5
            mask[length // 2] = True
        else:
            mask[-1 - answer : -1] = True
        mask[-1] = False
        cases.append(Case(f"r{number}", rng.integers(3, VOCABULARY, length).astype(np.int32), mask))
    return cases


def spec(factors: Any = "both", layers: Any = "all", **other: Any) -> LoraSpec:
    """A small adapter."""
    return LoraSpec(**({"rank": 3, "alpha": 5.0, "factors": factors, "layers": layers} | other))


def random_flat(backbone: Backbone, seed: int = 0) -> NDArray[np.float32]:
    """Trained values away from their start, so that B is not zero."""
    rng = np.random.default_rng(seed)
    return (0.2 * rng.standard_normal(backbone.dimension)).astype(np.float32)


def gradients_by_id(
    backbone: Backbone, cases: Sequence[Case], micro_batch: int
) -> dict[str, NDArray[np.float32]]:
    """All rows of ``per_unit_gradients``, each case exactly once."""
    rows: dict[str, NDArray[np.float32]] = {}
    for ids, gradients in backbone.per_unit_gradients(cases, micro_batch):
        assert gradients.shape == (len(ids), backbone.dimension)
        assert gradients.dtype == np.float32
        assert not set(ids) & set(rows)
        rows |= dict(zip(ids, gradients, strict=True))
    assert set(rows) == {case.id for case in cases}
    return rows


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Euclidean distance over the expected norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
