"""The language model's head and its loss, at supervised positions only and in chunks.

The head is frozen, so the gradient that enters the decoder is made together with the loss, from the same
logits: ``dnll/dh = (softmax(Wh) − onehot(y))ᵀ W``. No logits outlive a chunk. For SmolLM2 (49,152 words) the
head costs as much as nine of its thirty layers, which is why positions without a target must not reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK_LOGITS = 8 << 20
"""Logits in one chunk (32 MiB of float32): enough rows to keep the matrix product efficient."""


@dataclass(frozen=True)
class Head:
    """A linear map from hidden states to logits, perhaps with Gemma 2's soft cap ``cap·tanh(z / cap)``.

    Attributes:
        weight: [V, H], in the model's dtype.
        bias: [V] or ``None``.
        cap: Final logit soft cap or ``None``.
    """

    weight: Tensor
    bias: Tensor | None
    cap: float | None

    @classmethod
    def of(cls, model: Any) -> Head | None:
        """The head of a causal language model, or ``None`` if it isn't a plain linear layer."""
        layer = model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            return None
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return cls(layer.weight.detach(), None if layer.bias is None else layer.bias.detach(), cap)

    def among(self, tokens: Sequence[int]) -> Head:
        """The head over some tokens only; label j stands for ``tokens[j]``."""
        chosen = torch.tensor(tokens, device=self.weight.device)
        return Head(self.weight[chosen], None if self.bias is None else self.bias[chosen], self.cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [n, V] of hidden states [n, H]."""
        z = functional.linear(hidden, self.weight, self.bias).to(torch.float32)
        return z if self.cap is None else self.cap * torch.tanh(z / self.cap)

    @torch.no_grad()
    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood in nats, float32 [n], of ``labels`` int64 [n] at ``hidden`` [n, H]."""
        losses = torch.empty(len(labels), device=hidden.device)
        for rows in self._chunks(len(labels)):
            logits = self.logits(hidden[rows])
            losses[rows] = functional.cross_entropy(logits, labels[rows], reduction="none")
        return losses

    @torch.no_grad()
    def nll_and_gradient(self, hidden: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """As `nll`, and the gradient of ``Σ_j weights[j]·nll[j]`` in ``hidden``.

        Args:
            hidden: [n, H].
            labels: int64 [n].
            weights: float32 [n].

        Returns:
            float32 [n] and [n, H] in the dtype of ``hidden``.
        """
        losses, gradient = torch.empty_like(weights), torch.empty_like(hidden)
        for rows in self._chunks(len(labels)):
            z = self.logits(hidden[rows])
            target = labels[rows, None]
            log_norm = torch.logsumexp(z, dim=1, keepdim=True)
            losses[rows] = (log_norm - z.gather(1, target))[:, 0]
            # In place from here: p = softmax(z) becomes the gradient in the logits.
            slope = None if self.cap is None else 1 - (z / self.cap).square()
            p = z.sub_(log_norm).exp_()
            p.scatter_add_(1, target, torch.full_like(target, -1, dtype=p.dtype))
            p.mul_(weights[rows, None])
            if slope is not None:
                p.mul_(slope)
            gradient[rows] = p.to(self.weight.dtype) @ self.weight
        return losses, gradient

    def _chunks(self, count: int) -> Iterator[slice]:
        rows = max(1, CHUNK_LOGITS // self.weight.shape[0])
        return (slice(start, start + rows) for start in range(0, count, rows))
