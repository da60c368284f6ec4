"""What an attacker who has the base model knows of it: the inputs of an adapted layer for any tokens.

The input of the first decoder layer's projections depends on one token only (its embedding, normalised), where
positions enter by rotation inside the attention. So the vocabulary gives a dictionary of all rows that a
factor's gradient can be mixed of. The input of the second layer's projections depends on all tokens before, and
so tells their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.attacks.pursuit import Matrix
from privet.lora import AdapterLayout
from privet.lora_layers import LoraLinear


class _Reached(Exception):
    """The pass came to the layer whose input is wanted."""


class LayerInputs:
    """Inputs of the adapted linear layers of one decoder layer.

    Args:
        model: The model with its adapters in it.
        layout: Order of the adapters' tensors.
        layer: Index of the decoder layer.
    """

    def __init__(self, model: Any, layout: AdapterLayout, layer: int) -> None:
        self.model = model
        self.names = [
            a.path for a in layout.layers if f".{layer}." in f".{a.path}." and _layer_of(a.path) == layer
        ]
        self.exists = bool(self.names)

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Inputs at every position, float32 [b, T, d], of token ids [b, T]."""
        kept: list[torch.Tensor] = []
        with torch.no_grad(), self._stopping(kept), suppress(_Reached):
            self.model(input_ids=torch.from_numpy(np.ascontiguousarray(ids, np.int64)), use_cache=False)
        inputs: NDArray[np.float32] = kept[0].float().numpy()
        return inputs

    def vocabulary(self, batch: int = 4096) -> Matrix:
        """The input for each token standing first and alone, float32 [V, d]."""
        size = self.model.get_input_embeddings().weight.shape[0]
        parts = [self.of(np.arange(i, min(i + batch, size))[:, None])[:, 0] for i in range(0, size, batch)]
        return np.concatenate(parts)

    def depends_on_position(self) -> bool:
        """Whether a token's input changes with what stands before it: then there is no dictionary of tokens."""
        row = self.of(np.array([[5, 6, 7, 6]]))[0]
        return not np.allclose(row[1], row[3], rtol=1e-3, atol=1e-4)

    @contextmanager
    def _stopping(self, kept: list[torch.Tensor]) -> Iterator[None]:
        layer = self.model.get_submodule(self.names[0])
        assert isinstance(layer, LoraLinear), "the adapters are in the model"

        def look(_module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            kept.append(arguments[0].detach())
            raise _Reached

        handle = layer.register_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()


def a_rows(layout: AdapterLayout, flat: NDArray[np.float32], layer: int) -> Matrix:
    """Rows of all trained A of one decoder layer in a flat vector [D], float32 [n, d]; none where A is frozen."""
    rows = [
        flat[t.slice].reshape(t.shape)
        for t in layout.tensors
        if ".lora_A." in t.name and _layer_of(t.name) == layer
    ]
    return np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)


def _layer_of(name: str) -> int:
    """Index of the decoder layer in a tensor's or a layer's name; -1 if there is none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)
