"""Stacked factors as pictures whose sides a stack of stride-2 layers can halve without a rest.

A network with s stride-2 blocks needs heights and widths that are multiples of 2^s. 240 x 576 becomes 256 x
576 by sixteen rows of zeros. Where zeros at the edges would take more than :data:`LARGEST_PADDING` of a
picture, its numbers are laid out anew in rows of another length; small kinds share a picture then. Nothing is
ever cropped.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import Layout
from privet.codecs.stacking import stacks_of
from privet.errors import PrivetError

LARGEST_PADDING = 0.15
"""Zeros that may be added, as a share of the numbers there are."""

Picture = NDArray[np.int64]
"""Where in the flat vector each pixel [H, W] lies; -1 is a padded zero."""


def pictures_of(layout: Layout, multiple: int) -> list[Picture]:
    """Every number of the layout exactly once, in pictures with sides that are multiples of ``multiple``.

    Raises:
        PrivetError: if the adapter is too small for that many stride-2 blocks.
    """
    pictures, rest = [], []
    for stack in stacks_of(layout):
        picture = _padded(stack.positions, multiple)
        if _padding([picture]) > LARGEST_PADDING:
            picture = _refolded(stack.positions.reshape(-1), multiple)
        if _padding([picture]) > LARGEST_PADDING:
            rest.append(stack.positions.reshape(-1))
        else:
            pictures.append(picture)
    if rest:
        pictures.append(_refolded(np.concatenate(rest), multiple))
    if _padding(pictures) > LARGEST_PADDING:
        pictures = [_refolded(np.concatenate([s.positions.reshape(-1) for s in stacks_of(layout)]), multiple)]
    if (padding := _padding(pictures)) > LARGEST_PADDING:
        raise PrivetError(
            "the adapter is too small for so many stride-2 blocks",
            field="codec.ratio",
            given=f"{multiple.bit_length() - 1} blocks would add {padding:.0%} zeros",
            allowed=f"at most {LARGEST_PADDING:.0%}",
            hint="lower the ratio, or set `network: mlp`",
        )
    return pictures


def blocks_of(layout: Layout, block: int) -> list[Picture]:
    """Every number of the layout exactly once: for each kind, rows of at most ``block`` numbers.

    All rows are of one length, between half of ``block`` and ``block``, where the fewest zeros are added.
    """
    kinds = [stack.positions.reshape(-1) for stack in stacks_of(layout)]
    longest = min(block, max(kind.size for kind in kinds))
    lengths = range(longest, max(1, longest // 2) - 1, -1)
    length = min(lengths, key=lambda n: sum(-(-kind.size // n) * n for kind in kinds))
    return [_in_rows(kind, length, 1) for kind in kinds]


def _padding(pictures: list[Picture]) -> float:
    held = sum(int(np.count_nonzero(picture >= 0)) for picture in pictures)
    return sum(picture.size for picture in pictures) / held - 1


def _padded(positions: Picture, multiple: int) -> Picture:
    height, width = (math.ceil(side / multiple) * multiple for side in positions.shape)
    picture = np.full((height, width), -1, np.int64)
    picture[: positions.shape[0], : positions.shape[1]] = positions
    return picture


def _refolded(flat: NDArray[np.int64], multiple: int) -> Picture:
    """The layout in rows with the fewest zeros; among equals, the one nearest to a square."""
    widest = max(1, math.ceil(math.sqrt(flat.size) / multiple))
    widths = [multiple * n for n in range(1, widest + 1)]
    cells = {width: math.ceil(flat.size / (width * multiple)) * width * multiple for width in widths}
    width = max(w for w in widths if cells[w] == min(cells.values()))
    return _in_rows(flat, width, multiple)


def _in_rows(flat: NDArray[np.int64], width: int, multiple: int) -> Picture:
    rows = math.ceil(flat.size / (width * multiple)) * multiple
    picture = np.full(rows * width, -1, np.int64)
    picture[: flat.size] = flat
    return picture.reshape(rows, width)
