"""Losses and gradients of single records, against plain transformers and one backward pass a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from privet.errors import PrivetError
from privet.lora import LoraSpec
from privet.lora_layers import LoraLinear
from privet.prefix_cache import PrefixCache
from privet.train import Backbone

VOCABULARY = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
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
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    id: str
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]


def make_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    for parameter in model.parameters():
        # Larger weights than at initialisation, so that attention and the soft cap are felt.
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


def random_flat(backbone: Backbone, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (0.2 * rng.standard_normal(backbone.dimension)).astype(np.float32)


def spec(factors: Any = "both", layers: Any = "all", **other: Any) -> LoraSpec:
    return LoraSpec(rank=3, alpha=5.0, factors=factors, layers=layers, **other)


def oracle(model: Any, backbone: Backbone, case: Case) -> tuple[float, NDArray[np.float64]]:
    """Loss and gradient of one record by torch's own autograd on a forward pass written with plain operations."""
    leaves: list[torch.Tensor] = []
    patched = [module for module in model.modules() if isinstance(module, LoraLinear)]
    try:
        for module in patched:
            a = module.a.clone().requires_grad_(module.a_start is not None)
            b = module.b.clone().requires_grad_(True)
            leaves += [a, b] if module.a_start is not None else [b]

            def forward(x: torch.Tensor, m: Any = module, a: Any = a, b: Any = b) -> torch.Tensor:
                out: torch.Tensor = m.base(x) + (m.scale * (x @ a.T @ b.T)).to(x.dtype)
                return out

            module.forward = forward  # type: ignore[method-assign] # taken off again below
        ids = torch.from_numpy(case.input_ids.astype(np.int64))[None]
        logits = model(input_ids=ids).logits[0, :-1].float()
        mask = torch.from_numpy(case.supervised[:-1])
        loss = functional.cross_entropy(logits[mask], ids[0, 1:][mask])
        grads = torch.autograd.grad(loss, leaves)
    finally:
        for module in patched:
            del module.forward
    return loss.item(), np.concatenate([g.numpy().astype(np.float64).ravel() for g in grads])


def by_id(backbone: Backbone, cases: Sequence[Case], micro_batch: int) -> dict[str, NDArray[np.float32]]:
    rows: dict[str, NDArray[np.float32]] = {}
    for ids, gradients in backbone.per_unit_gradients(cases, micro_batch):
        assert gradients.shape == (len(ids), backbone.dimension)
        assert gradients.dtype == np.float32
        rows |= dict(zip(ids, gradients, strict=True))
    assert set(rows) == {case.id for case in cases}
    return rows


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("factors", ["both", "freeze_a"])
@pytest.mark.parametrize("family", FAMILIES)
def test_per_unit_gradients_equal_one_backward_pass_a_record(family: str, factors: str) -> None:
    model = make_model(family)
    backbone = Backbone(model, spec(factors))
    backbone.set_flat(random_flat(backbone))
    cases = make_cases([9, 5, 17, 12, 5, 3])
    rows = by_id(backbone, cases, 4)
    losses = backbone.losses(cases)
    for case, loss in zip(cases, losses, strict=True):
        expected_loss, expected = oracle(model, backbone, case)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert relative(rows[case.id], expected) < 2e-5
