"""Factors of one kind stacked over layers: the matrices that a basis or a network sees.

LoRA on q and v of 30 layers gives 30 factors A of 8 x 576 for q; they lie below each other in one matrix of
240 x 576, so that one basis or one filter serves all layers. Factors that are taller than wide (B) are
transposed first, so that a row always runs along the model's width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import Layout, slices_of


@dataclass(frozen=True, eq=False)
class Stack:
    """One kind of factor over all its layers.

    Attributes:
        kind: The tensors' common name, with ``*`` for every number in it.
        names: The tensors, in order.
        positions: int64 [rows, width], where in the flat vector each entry of the stacked matrix lies.
    """

    kind: str
    names: tuple[str, ...]
    positions: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Rows of the stacked matrix."""
        return int(self.positions.shape[0])

    @property
    def width(self) -> int:
        """Columns of the stacked matrix."""
        return int(self.positions.shape[1])


def stacks_of(layout: Layout, rows: Literal["factor", "tensor"] = "factor") -> list[Stack]:
    """The stacked matrices of a layout, in the order in which their kinds first appear.

    Args:
        layout: Names and shapes of the tensors.
        rows: ``factor`` makes each row of a factor a row; ``tensor`` makes each layer's whole factor one row.
    """
    slices = slices_of(layout)
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in layout:
        kinds.setdefault((re.sub(r"\d+", "*", name), shape), []).append(name)
    stacks = []
    for (kind, shape), names in kinds.items():
        height, width = (1, int(np.prod(shape))) if len(shape) < 2 else (shape[0], int(np.prod(shape[1:])))
        parts = []
        for name in names:
            part = np.arange(slices[name].start, slices[name].stop, dtype=np.int64).reshape(height, width)
            part = part.T if height > width else part
            parts.append(part.reshape(1, -1) if rows == "tensor" else part)
        stacks.append(Stack(kind, tuple(names), np.ascontiguousarray(np.concatenate(parts))))
    return stacks
