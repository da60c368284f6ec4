"""How many bytes will travel, from schemas and the sizes of messages' variable parts; for plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from privet.wire import ALIGNMENT, MAGIC, Array, Blob, Flag, Schema, Text, UpTo

_HEAD = len(MAGIC) + 3
_LENGTH = 8

Sizes: TypeAlias = Mapping[str, int | tuple[int, ...]]


@dataclass(frozen=True)
class Traffic:
    """Bytes that a client sends and gets.

    Attributes:
        up: From the client to the server.
        down: From the server to the client.
    """

    up: float = 0.0
    down: float = 0.0

    @classmethod
    def of(
        cls, request: Schema, reply: Schema, asked: Sizes | None = None, answered: Sizes | None = None
    ) -> Traffic:
        """One question and its answer, with the sizes of their variable parts; see `message_bytes`."""
        return cls(message_bytes(reply, **(answered or {})), message_bytes(request, **(asked or {})))

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.up + other.up, self.down + other.down)

    def __mul__(self, times: float) -> Traffic:
        return Traffic(self.up * times, self.down * times)


def message_bytes(schema: Schema, **sizes: int | tuple[int, ...]) -> int:
    """Bytes of a message of this schema, exactly as `privet.wire.encode` makes them (docs/wire.md).

    Args:
        schema: The schema.
        sizes: By field, the bytes of a blob or a text, or the whole shape of an array. A blob or array of one size only
            needs none; an optional field without one is left out.

    Raises:
        ValueError: if a field's size is neither given nor fixed.
    """
    total = _HEAD
    for name in sorted(schema.fields, key=str.encode):
        kind, size = schema.fields[name], sizes.get(name)
        if size is None and name in schema.optional:
            continue
        total += 1 + len(name.encode()) + 1
        if isinstance(kind, Array):
            shape = _shape(name, kind, size)
            total += 2 + _LENGTH * len(shape)
            total += -total % ALIGNMENT + math.prod(shape) * np.dtype(kind.dtype).itemsize
        elif isinstance(kind, Blob | Text):
            fixed = kind.max_bytes if isinstance(kind, Blob) and kind.max_bytes == kind.min_bytes else None
            length = fixed if size is None else size
            if not isinstance(length, int):
                raise ValueError(f"the length of '{name}' is needed")
            total += _LENGTH + length
        else:
            total += 1 if isinstance(kind, Flag) else _LENGTH
    return total


def _shape(name: str, kind: Array, size: int | tuple[int, ...] | None) -> tuple[int, ...]:
    shape = kind.shape if size is None else (size,) if isinstance(size, int) else size
    fixed = tuple(length for length in shape if not isinstance(length, UpTo))
    if len(fixed) != len(kind.shape) or not kind.fits(fixed):
        raise ValueError(f"the shape of '{name}' is needed, or is not one of its schema")
    return fixed
