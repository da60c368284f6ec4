"""Our backward pass of attention against torch's in float64, and when it is used at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tiny_models import make_model, spec
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from privet.causal_attention import LONGEST, NAME, CausalAttention, attention
from privet.train import Backbone


def heads(count: int, shared: int, length: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(3, count, length, 8), (3, shared, length, 8), (3, shared, length, 8)]
    return [(2 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]


def reference(tensors: list[torch.Tensor], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    out = scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True)
    return out.detach(), *torch.autograd.grad(out, exact, grad.double())


@pytest.mark.parametrize(("count", "shared"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("length", [2, 17, LONGEST])
def test_gradients_are_no_further_from_exact_than_torch_s(count: int, shared: int, length: int) -> None:
    tensors = heads(count, shared, length)
    grad = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    # Views as models make them, [b, T, h, d] transposed, must not be misread.
    strided = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    out = CausalAttention.apply(*strided, 8**-0.5)  # type: ignore[no-untyped-call] # torch's is untyped
    torchs = scaled_dot_product_attention(*tensors, is_causal=True, enable_gqa=True)
    assert torch.equal(out, torchs)
    expected = reference(tensors, grad)[1:]
    ours = torch.autograd.grad(out, tensors, grad)
    theirs = torch.autograd.grad(torchs, tensors, grad)
    for exact, mine, other in zip(expected, ours, theirs, strict=True):
        error, limit = ((found.double() - exact).norm() / exact.norm() for found in (mine, other))
        assert error < max(1.2 * limit, 1e-3)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_what_is_asked_for_is_computed(wanted: tuple[int, ...]) -> None:
    tensors = heads(4, 2, 9)
    for index, tensor in enumerate(tensors):
        tensor.requires_grad_(index in wanted)
    before = [tensor.detach().clone() for tensor in tensors]
    out = CausalAttention.apply(*tensors, 8**-0.5)  # type: ignore[no-untyped-call] # torch's is untyped
    grad = torch.ones_like(out)
    found = torch.autograd.grad(out, [tensors[i] for i in wanted], grad)
    expected = reference(tensors, grad)[1:]
    for index, value in zip(wanted, found, strict=True):
        assert (value.double() - expected[index]).norm() < 0.01 * expected[index].norm()
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    ("length", "dtype", "options"),
    [
        (LONGEST + 1, torch.bfloat16, {}),
        (9, torch.float32, {}),
        (9, torch.bfloat16, {"is_causal": False}),
        (9, torch.bfloat16, {"mask": True}),
    ],
)
def test_torch_s_attention_stays_where_ours_does_not_apply(
    length: int, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("ours was used")

    monkeypatch.setattr(CausalAttention, "apply", never)
    tensors = heads(4, 4, length, dtype)
    mask = torch.ones(length, length, dtype=torch.bool) if options.pop("mask", False) else None
    out, weights = attention(nn.Module(), *tensors, mask, scaling=8**-0.5, **options)
    assert out.shape == (3, length, 4, 8)
    assert weights is None
    with torch.no_grad():
        attention(nn.Module(), *heads(4, 4, 9), None, scaling=8**-0.5)
    with pytest.raises(AssertionError, match="ours"):
        attention(nn.Module(), *heads(4, 4, 9), None, scaling=8**-0.5)


def test_a_model_uses_it_until_its_adapters_are_detached() -> None:
    model = make_model(dtype=torch.bfloat16)
    assert model.config._attn_implementation == "sdpa"
    backbone = Backbone(model, spec())
    assert model.config._attn_implementation == NAME
    backbone.detach()
    assert model.config._attn_implementation == "sdpa"
    eager = make_model("gemma2", dtype=torch.bfloat16)
    Backbone(eager, spec())
    assert eager.config._attn_implementation == "eager"
