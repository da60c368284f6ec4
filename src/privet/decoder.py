"""Runs a Hugging Face decoder in two parts: the frozen layers below the first adapter, and the rest.

Nothing of a family's forward pass is written again. The model's own code makes positions, rotary embeddings
and attention masks; only its list of layers is exchanged for the time of a call. For the prefix, the first
adapted layer is replaced by one that ends the pass and hands over what came in; for the rest, the layers
below are replaced by ones that pass their input on, the lowest of them putting the given hidden states in.
Layers keep their indices, so models whose layers differ (sliding windows in Gemma and Qwen) get the right
masks.

Whether a model allows this is tried on a few tokens when it is wrapped. One that doesn't (layers that share
keys and values with lower ones, embeddings fed to every layer) runs whole, and `Decoder.whole_reason` says
why.

Where only some positions are wanted, the last layer's MLP is computed at those alone.

Records are padded on the right and no mask is given: attention is causal, so a real token never sees padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from privet.errors import PrivetError
from privet.head import Head
from privet.lora_layers import LoraLinear, decoder_layers


class _Reached(Exception):
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class _Leave(nn.Module):
    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        raise _Reached(hidden)


class _PassOn(nn.Module):
    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden


class _Enter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, _hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        assert self.hidden is not None
        return self.hidden


class _AtPositions(nn.Module):
    """A position-wise module computed at some positions only; zeros elsewhere."""

    def __init__(self, inner: nn.Module, where: Tensor) -> None:
        super().__init__()
        self.inner, self.where = inner, where

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, 1)
        out: Tensor = torch.zeros_like(flat).index_copy(0, self.where, self.inner(flat[self.where]))
        return out.view_as(hidden)


class Decoder:
    """A causal language model's decoder and head.

    Args:
        model: The model, adapters already in it.
        first_layer: Index of the lowest adapted layer.

    Attributes:
        whole_reason: Why the decoder can't be run in two parts; ``None`` if it can.
        head: The head.
    """

    def __init__(self, model: Any, first_layer: int) -> None:
        self.model = model
        self.first_layer = first_layer
        name, self._stack = decoder_layers(model)
        parent, self._attribute = name.rsplit(".", 1)
        self._decoder = model.get_submodule(parent)
        self._enter = _Enter()
        lower: Sequence[nn.Module] = list(self._stack)[:first_layer]
        self._prefix_stack = nn.ModuleList([*lower, _Leave()])
        passing = [_PassOn() for _ in lower[1:]]
        self._top_stack = nn.ModuleList([self._enter, *passing, *list(self._stack)[first_layer:]])
        self.head = self._find_head()
        self.whole_reason = self._why_whole()
        self._narrows = self._can_narrow()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self._stack.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The hidden states' dtype."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        """Width H of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def whole(self, ids: Tensor, where: Tensor | None = None) -> Tensor:
        """Last hidden states, ready for the head.

        Args:
            ids: Token ids, int64 [b, T].
            where: int64 [n], positions in the flattened [b·T] that are wanted; the others may come out as
                anything finite. ``None`` wants all.

        Returns:
            [b, T, H].
        """
        with self._narrowed(where, ids.numel()):
            hidden: Tensor = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
            return hidden

    @torch.no_grad()
    def prefix(self, ids: Tensor) -> Tensor:
        """Hidden states [b, T, H] that enter the first adapted layer, of token ids int64 [b, T]."""
        with self._layers(self._prefix_stack):
            try:
                self._decoder(input_ids=ids, use_cache=False)
            except _Reached as reached:
                return reached.hidden
        raise RuntimeError("the decoder did not run its layers")

    def top(self, hidden: Tensor, where: Tensor | None = None) -> Tensor:
        """As `whole`, from the states [b, T, H] that enter the first adapted layer."""
        self._enter.hidden = hidden
        try:
            with self._layers(self._top_stack), self._narrowed(where, hidden.shape[0] * hidden.shape[1]):
                last: Tensor = self._decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
                return last
        finally:
            self._enter.hidden = None

    @contextmanager
    def _layers(self, stack: nn.ModuleList) -> Iterator[None]:
        setattr(self._decoder, self._attribute, stack)
        try:
            yield
        finally:
            setattr(self._decoder, self._attribute, self._stack)

    @contextmanager
    def _narrowed(self, where: Tensor | None, positions: int) -> Iterator[None]:
        # Above the last attention positions don't meet any more, and its MLP is most of a layer's work.
        if where is None or not self._narrows or 4 * len(where) > 3 * positions:
            yield
            return
        last: Any = self._stack[-1]
        inner = last.mlp
        last.mlp = _AtPositions(inner, where)
        try:
            yield
        finally:
            last.mlp = inner

    def _probe(self) -> Tensor:
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        ids = (torch.arange(12) * 7 + 3) % vocabulary
        probe: Tensor = ids.view(2, 6).to(self.device)
        return probe

    @torch.no_grad()
    def _find_head(self) -> Head:
        head, ids = Head.of(self.model), self._probe()
        if head is not None:
            expected = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
            if _agree(head.logits(self.whole(ids).flatten(0, 1)), expected):
                return head
        raise PrivetError(
            "its logits are not a linear map of the last hidden states",
            field="model.name",
            given=type(self.model).__name__,
            allowed="Llama, Mistral, Qwen, Gemma, GPT-2, Phi and models built like them",
        )

    @torch.no_grad()
    def _why_whole(self) -> str | None:
        if self.first_layer == 0:
            return "the lowest layer has an adapter"
        ids, kind = self._probe(), type(self.model).__name__
        try:
            hidden = self.prefix(ids)
            # Whatever a layer left elsewhere for a higher one must be another record's when the upper half
            # runs.
            self.prefix(ids.flip(0))
            split = self.top(hidden)
        except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
            return f"{kind} cannot be entered at layer {self.first_layer} ({type(error).__name__})"
        if not _agree(split, self.whole(ids)):
            return f"{kind} carries more than hidden states from layer to layer"
        return None

    @torch.no_grad()
    def _can_narrow(self) -> bool:
        inner = getattr(self._stack[-1], "mlp", None)
        if inner is None or any(isinstance(module, LoraLinear) for module in inner.modules()):
            return False
        ids, where = self._probe(), torch.tensor([1, 4, 9], device=self.device)
        self._narrows = True
        try:
            narrow = self.whole(ids, where).flatten(0, 1)[where]
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            return False
        return _agree(narrow, self.whole(ids).flatten(0, 1)[where])


def _agree(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape:
        return False
    scale = right.to(torch.float32).abs().max()
    return bool((left.to(torch.float32) - right.to(torch.float32)).abs().max() <= 0.02 * scale)
