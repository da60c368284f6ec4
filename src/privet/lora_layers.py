"""LoRA layers that hand out the gradient of every single record, and how they are put into a model.

`attach` replaces the chosen linear layers of a Hugging Face decoder by `LoraLinear`. All adapters are views
of *one* flat float32 tensor, so swapping a silo's adapter is one copy. On the way back each layer writes its
gradients straight into a `GradientSink`, in the layout's order: per record, or summed over records at the
cost of an ordinary step.

For a layer y = Wx + s·B·A·x and a record i with positions t, the gradients of the record's loss are
``dB_i = s·Σ_t dy_it (A x_it)ᵀ`` and ``dA_i = s·Σ_t (Bᵀ dy_it) x_itᵀ``: two batched products with an inner
dimension of a record's length, so they cost little next to the base layer (the observation behind Opacus'
linear grad samplers, arXiv 2109.12298 section 3; factored because rank is small). A padded position has dy =
0 and adds nothing.

The base may be float32, bfloat16 or quantised; adapters, A·x and all gradients of them are float32, as in
PEFT. Works on the device where the base model is; tested on a CPU only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from privet.errors import PrivetError
from privet.lora import AdapterLayout, LinearLayer, LoraSpec, Vector, layout_among


@dataclass
class GradientSink:
    """Where the backward pass leaves the adapters' gradients.

    Attributes:
        mode: ``off`` records nothing; ``per_unit`` fills a row for each record; ``sum`` adds over records.
        rows: float32 [b, D] for ``per_unit``, [1, D] for ``sum``, on the model's device.
    """

    mode: Literal["off", "per_unit", "sum"] = "off"
    rows: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def add(self, start: int, left: Tensor, right: Tensor) -> None:
        """Adds ``Σ_t left[i,t] right[i,t]ᵀ`` ([m, n] for each record i) to the columns from ``start``.

        Args:
            start: First column.
            left: float32 [b, T, m].
            right: float32 [b, T, n].
        """
        m, n = left.shape[-1], right.shape[-1]
        if self.mode == "per_unit":
            product = torch.bmm(left.transpose(1, 2), right).flatten(1)
        else:
            product = (left.flatten(0, 1).T @ right.flatten(0, 1)).reshape(1, -1)
        self.rows[:, start : start + m * n] += product


class LoraLinear(nn.Module):
    """A frozen linear layer with a LoRA adapter beside it.

    Args:
        base: The layer that was there; anything that maps [b, T, in] to [b, T, out].
        a: float32 [rank, in], a view of shared memory.
        b: float32 [out, rank], a view of shared memory.
        scale: alpha / rank.
        a_start: Column of A in the flat vector, or ``None`` if A is frozen.
        b_start: Column of B in the flat vector.
        sink: Shared by all layers of a model.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        a: Tensor,
        b: Tensor,
        scale: float,
        a_start: int | None,
        b_start: int,
        sink: GradientSink,
    ) -> None:
        super().__init__()
        self.base = base
        self.a, self.b, self.scale = a, b, scale
        self.a_start, self.b_start, self.sink = a_start, b_start, sink
        # The adapters are no autograd leaves (their gradients go to the sink); this one makes the graph reach
        # them.
        self.anchor = torch.empty(0, device=a.device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """``base(x) + scale·B·A·x``; x is [b, T, in]."""
        if x.dim() != 3 and torch.is_grad_enabled():
            raise PrivetError(
                "this layer sees tokens of several records mixed, so no record's gradient can be told apart",
                field="lora.targets",
                given=f"{type(self.base).__name__} with input {list(x.shape)}",
                hint="choose attention layers as targets",
            )
        # torch leaves Function.apply without types.
        out: Tensor = _LowRank.apply(x, self.base(x), self.anchor, self)  # type: ignore[no-untyped-call]
        return out


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, base_out: Tensor, _anchor: Tensor, layer: LoraLinear) -> Tensor:
        inner = x.to(torch.float32) @ layer.a.T
        # Added in float32 and rounded once, as PEFT does, so that both give the same logits.
        out = torch.add(base_out, inner @ layer.b.T, alpha=layer.scale).to(base_out.dtype)
        ctx.layer = layer
        ctx.save_for_backward(x, inner)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad = grads[0]
        x, inner = ctx.saved_tensors
        layer: LoraLinear = ctx.layer
        wants_x = ctx.needs_input_grad[0]
        grad32 = grad.to(torch.float32)
        recording = layer.sink.mode != "off"
        if recording:
            layer.sink.add(layer.b_start, grad32, inner * layer.scale)
        grad_x = None
        if wants_x or (recording and layer.a_start is not None):
            grad_inner = (grad32 @ layer.b) * layer.scale
            if recording and layer.a_start is not None:
                layer.sink.add(layer.a_start, grad_inner, x.to(torch.float32))
            if wants_x:
                grad_x = (grad_inner @ layer.a).to(x.dtype)
        return grad_x, grad if ctx.needs_input_grad[1] else None, None, None


@dataclass(frozen=True)
class Attachment:
    """A model with adapters in it.

    Attributes:
        model: The model.
        layout: Order of the tensors.
        flat: The adapters' shared memory, float32 [D], on the model's device. Layers see every change at
            once.
        sink: Where gradients go.
        first_layer: Index of the lowest decoder layer that has an adapter.
    """

    model: nn.Module
    layout: AdapterLayout
    flat: Tensor
    sink: GradientSink
    first_layer: int

    def set_flat(self, vector: Vector) -> None:
        """Puts another adapter in place: one copy of float32 [D]."""
        if vector.shape != (self.layout.dimension,):
            raise ValueError(f"flat vector has shape {vector.shape}, not ({self.layout.dimension},)")
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(np.ascontiguousarray(vector, np.float32)))

    def detach(self) -> None:
        """Takes the adapters out of the model again, which stays frozen and in evaluation mode."""
        for layer in self.layout.layers:
            parent, child = layer.path.rsplit(".", 1)
            owner = self.model.get_submodule(parent)
            setattr(owner, child, getattr(owner, child).base)


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of decoder layers of a Hugging Face causal language model, with its name in the model.

    Raises:
        PrivetError: if there is no list of as many modules as the configuration has layers.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    depth = getattr(text, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise PrivetError(
        "cannot find the decoder's layers",
        field="model.name",
        given=type(model).__name__,
        allowed="a causal language model of transformers",
    )


def linear_layers(model: nn.Module) -> tuple[tuple[LinearLayer, ...], int]:
    """All linear layers of the decoder, in the model's order, and its depth. A model on the meta device will do."""
    stack_name, stack = decoder_layers(model)
    found = tuple(
        LinearLayer(f"{stack_name}.{index}.{name}", index, *_width(module), type(module).__name__ == "Conv1D")
        for index, layer in enumerate(stack)
        for name, module in layer.named_modules()
        if _is_linear(module)
    )
    return found, len(stack)


def layout_of(model: nn.Module, spec: LoraSpec) -> AdapterLayout:
    """The layout that ``spec`` gives on ``model``. A model on the meta device will do.

    Raises:
        PrivetError: if the targets or layers are not there.
    """
    return layout_among(*linear_layers(model), spec)


def attach(model: nn.Module, spec: LoraSpec) -> Attachment:
    """Freezes ``model``, puts adapters into it in place, and switches dropout off.

    Args:
        model: A causal language model of transformers. It must not have adapters yet.
        spec: What to adapt.

    Returns:
        The handle to the adapters, at their initial value.

    Raises:
        PrivetError: if the targets or layers are not there, or the model has adapters already.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise PrivetError("the model has adapters already", field="model.name", hint="detach them first")
    layout = layout_of(model, spec)
    model.requires_grad_(False)
    model.eval()
    places = {tensor.name: tensor for tensor in layout.tensors}
    start = layout.initial_state()
    device = next(model.parameters()).device
    flat = torch.from_numpy(layout.flatten(start)).to(device)
    sink = GradientSink()
    for layer in layout.layers:
        a_name, b_name = (f"base_model.model.{layer.path}.lora_{factor}.weight" for factor in "AB")
        place = places.get(a_name)
        frozen_a = torch.from_numpy(start[a_name]).to(device)
        a = frozen_a if place is None else flat[place.slice].view(place.shape)
        b = flat[places[b_name].slice].view(places[b_name].shape)
        parent_name, child = layer.path.rsplit(".", 1)
        parent = model.get_submodule(parent_name)
        wrapped = LoraLinear(
            getattr(parent, child),
            a=a,
            b=b,
            scale=spec.scale,
            a_start=None if place is None else place.start,
            b_start=places[b_name].start,
            sink=sink,
        )
        setattr(parent, child, wrapped)
    depth = len(decoder_layers(model)[1])
    return Attachment(model, layout, flat, sink, spec.chosen_layers(depth)[0])


def _is_linear(module: nn.Module) -> bool:
    # Conv1D is GPT-2's linear layer; quantised layers (bitsandbytes) derive from nn.Linear.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _width(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight: Any = module.weight
    return int(weight.shape[0]), int(weight.shape[1])
