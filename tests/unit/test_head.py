"""Loss and gradient in blocks of the vocabulary, against torch's cross-entropy and autograd."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from privet.head import Head


def naive(head: Head, hidden: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    h = hidden.to(torch.float64).requires_grad_()
    bias = None if head.bias is None else head.bias.to(torch.float64)
    z = functional.linear(h, head.weight.to(torch.float64), bias)
    z = z if head.cap is None else head.cap * torch.tanh(z / head.cap)
    losses = functional.cross_entropy(z, labels, reduction="none")
    return losses.detach(), torch.autograd.grad((losses * weights).sum(), h)[0]


def random_head(
    words: int, *, bias: bool, cap: float | None, dtype: torch.dtype
) -> tuple[Head, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(words)
    weight = torch.randn(words, 16, generator=generator)
    head = Head(weight.to(dtype), torch.randn(words, generator=generator).to(dtype) if bias else None, cap)
    hidden = torch.randn(23, 16, generator=generator).to(dtype)
    labels = torch.randint(words, (23,), generator=generator)
    # The first and the last word of a block are where an index could slip.
    labels[:4] = torch.tensor([0, words - 1, min(9, words - 1), min(10, words - 1)])
    return head, hidden, labels, torch.rand(23, generator=generator)


@pytest.mark.parametrize(("words", "bias", "cap"), list(product([7, 10, 53], [False, True], [None, 3.0])))
def test_blocks_sum_to_the_loss_and_its_gradient(
    words: int, bias: bool, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.head.ROWS", 6)
    monkeypatch.setattr("privet.head.WORDS", 10)
    head, hidden, labels, weights = random_head(words, bias=bias, cap=cap, dtype=torch.float32)
    losses, gradient = head.nll_and_gradient(hidden, labels, weights)
    expected_losses, expected_gradient = naive(head, hidden, labels, weights)
    torch.testing.assert_close(losses, expected_losses.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.nll(hidden, labels), losses, rtol=0, atol=0)


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    head = Head(torch.eye(3) * 1e4, None, None)
    hidden = torch.eye(3)
    losses, gradient = head.nll_and_gradient(hidden, torch.tensor([0, 0, 2]), torch.ones(3))
    assert losses.tolist() == [0.0, 1e4, 0.0]
    assert torch.isfinite(gradient).all()


def test_bfloat16_agrees_to_its_precision_and_keeps_dtypes() -> None:
    head, hidden, labels, weights = random_head(53, bias=True, cap=None, dtype=torch.bfloat16)
    losses, gradient = head.nll_and_gradient(hidden, labels, weights)
    expected_losses, expected_gradient = naive(head, hidden, labels, weights)
    assert (losses.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(losses, expected_losses.float(), rtol=0.02, atol=0.05)
    error = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
    assert error < 0.02


def test_among_some_tokens_is_the_head_of_those() -> None:
    head, hidden, _, weights = random_head(53, bias=True, cap=3.0, dtype=torch.float32)
    tokens = [40, 3, 11]
    labels = torch.arange(23) % 3
    losses, gradient = head.among(tokens).nll_and_gradient(hidden, labels, weights)
    assert head.bias is not None
    own = Head(head.weight[tokens], head.bias[tokens], 3.0)
    expected_losses, expected_gradient = naive(own, hidden, labels, weights)
    torch.testing.assert_close(losses, expected_losses.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-5)


def test_no_positions_give_nothing() -> None:
    head, hidden, labels, weights = random_head(7, bias=False, cap=None, dtype=torch.float32)
    losses, gradient = head.nll_and_gradient(hidden[:0], labels[:0], weights[:0])
    assert losses.shape == (0,)
    assert gradient.shape == (0, 16)
