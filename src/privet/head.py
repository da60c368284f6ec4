"""The language model's head and its loss: at supervised positions only, in blocks that stay in the
processor's caches.

The head is frozen, so the gradient that enters the decoder, ``dnll/dh = (softmax(Wh) − onehot(y))ᵀ W``, is
made together with the loss in one sweep over blocks of the vocabulary. Running maxima rescale what was summed
before, as in online softmax (Milakov and Gimelshein, arXiv 1805.02867; applied to the loss by Wijmans et al.,
Cut Your Losses, arXiv 2411.09009, section 4). The logits of all words never exist at once. For SmolLM2
(49,152 words) the head costs as much as eight of its thirty layers, which is why positions without a target
must not reach it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS, WORDS = 512, 2048
"""Positions and words of a block: 4 MiB of float32 logits."""


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

    def logits(self, hidden: Tensor, words: slice = slice(None)) -> Tensor:
        """Logits float32 [n, words] of hidden states [n, H]."""
        bias = None if self.bias is None else self.bias[words]
        z = functional.linear(hidden, self.weight[words], bias).to(torch.float32)
        return z if self.cap is None else self.cap * torch.tanh(z / self.cap)

    @torch.no_grad()
    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood in nats, float32 [n], of ``labels`` int64 [n] at ``hidden`` [n, H]."""
        return self._sweep(hidden, labels, None)[0]

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
        return self._sweep(hidden, labels, weights)

    def _sweep(self, hidden: Tensor, labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(labels), device=hidden.device)
        gradient = torch.empty_like(hidden) if weights is not None else hidden
        for start in range(0, len(labels), ROWS):
            rows = slice(start, start + ROWS)
            h, y = hidden[rows], labels[rows, None]
            top = torch.full((len(y), 1), -torch.inf, device=h.device)
            norm, target, slope_at_target = torch.zeros_like(top), torch.zeros_like(top), torch.ones_like(top)
            mean = torch.zeros(h.shape, device=h.device)  # Σ_w exp(z_w − top)·slope_w·W_w
            for words in self._words():
                z = self.logits(h, words)
                inside = (y >= words.start) & (y < words.start + z.shape[1])
                at = (y - words.start).clamp(0, z.shape[1] - 1)
                target = torch.where(inside, z.gather(1, at), target)
                before, top = top, torch.maximum(top, z.amax(1, keepdim=True))
                shrink = (before - top).exp_()
                slope = None if self.cap is None else 1 - (z / self.cap).square_()
                p = z.sub_(top).exp_()  # z's memory
                norm = norm * shrink + p.sum(1, keepdim=True)
                if weights is not None:
                    if slope is not None:
                        slope_at_target = torch.where(inside, slope.gather(1, at), slope_at_target)
                        p.mul_(slope)
                    mean.mul_(shrink).add_(p.to(self.weight.dtype) @ self.weight[words])
            losses[rows] = (top + norm.log() - target)[:, 0]
            if weights is not None:
                own = self.weight[y[:, 0]].to(torch.float32) * slope_at_target
                gradient[rows] = ((mean / norm).sub_(own) * weights[rows, None]).to(h.dtype)
        return losses, gradient

    def _words(self) -> Iterator[slice]:
        return (slice(start, start + WORDS) for start in range(0, self.weight.shape[0], WORDS))
