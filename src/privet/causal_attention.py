"""Causal attention with a fast backward pass for short bfloat16 records on a CPU.

The backward pass of torch's CPU flash attention in bfloat16 takes some twenty times its forward pass (torch
2.13: 0.6 ms and 12.9 ms for SmolLM2's heads at 4 × 128 tokens), which made it a quarter of a training step.
The forward pass here is torch's own, bit for bit; the backward pass is five batched matrix products. Long
records and other dtypes, where torch is the faster, keep torch's.

Source: Dao et al., FlashAttention, arXiv 2205.14135, appendix B.2 (probabilities are recomputed from the
row's log-sum-exp; ``dS = P ∘ (dP − rowsum(dO ∘ O))``). Scores and ``dP`` are float32; the probabilities and
``dS`` that enter a product are rounded to bfloat16, as there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "privet_causal"
LONGEST = 128
"""Tokens up to which the products below are faster; they take memory by the square of the length."""


class CausalAttention(torch.autograd.Function):
    """``softmax(scale·QKᵀ + mask)·V`` of q [b, h, T, d] and k, v [b, h/g, T, d], each for g query heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Output [b, h, T, d]."""
        groups = q.shape[1] // k.shape[1]
        wide_k, wide_v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        out: Tensor
        out, log_norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, wide_k, wide_v, 0.0, True, scale=scale
        )
        ctx.scale = scale
        ctx.save_for_backward(q, k, v, out, log_norm)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of q, k and v, as far as they are asked for."""
        q, k, v, out, log_norm = ctx.saved_tensors
        scale, dtype = ctx.scale, q.dtype
        batch, heads, length, width = q.shape
        shared = k.shape[1]
        wants_q, wants_k, wants_v, _ = ctx.needs_input_grad

        def grouped(x: Tensor) -> Tensor:
            # Query heads that share keys become rows of one product: [b·h/g, g·T, …].
            return x.reshape(batch * shared, heads // shared * length, -1)

        grad = grouped(grads[0])
        grad32, queries = grad.to(torch.float32), grouped(q)
        keys, values = (x.reshape(batch * shared, length, width) for x in (k, v))
        p = torch.bmm(queries.to(torch.float32) * scale, keys.to(torch.float32).transpose(1, 2))
        p.sub_(grouped(log_norm)).exp_().view(batch, heads, length, length).tril_()
        grad_q = grad_k = grad_v = None
        if wants_v:
            grad_v = torch.bmm(p.to(dtype).transpose(1, 2), grad).view_as(v)
        if wants_q or wants_k:
            slopes = torch.bmm(grad32, values.to(torch.float32).transpose(1, 2))
            slopes = slopes.sub_((grad32 * grouped(out)).sum(-1, keepdim=True)).mul_(p).mul_(scale).to(dtype)
            if wants_q:
                grad_q = torch.bmm(slopes, keys).view(batch, heads, length, width)
            if wants_k:
                grad_k = torch.bmm(slopes.transpose(1, 2), queries).view_as(k)
        return grad_q, grad_k, grad_v, None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: ours where its backward pass is wanted and faster, else torch's."""
    plain = (
        attention_mask is None
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad or value.requires_grad)
        and 1 < query.shape[2] == key.shape[2] <= LONGEST
        and query.shape[3] == value.shape[3]
        and options.get("is_causal", True) is not False
        and getattr(module, "is_causal", True)
        and not any(options.get(name) for name in ("dropout", "softcap"))
        and all(options.get(name) is None for name in ("position_bias", "cache"))
    )
    if not plain:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return out
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    # torch leaves Function.apply without types.
    mixed: Tensor = CausalAttention.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
    return mixed.transpose(1, 2).contiguous(), None


def use(model: Any) -> bool:
    """Lets a model that has torch's attention on a CPU use this one.

    Returns:
        Whether it does now; `put_back` undoes it.
    """
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":
        return False
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def put_back(model: Any) -> None:
    """Gives the model torch's attention back."""
    if model.config._attn_implementation == NAME:
        model.set_attn_implementation("sdpa")
