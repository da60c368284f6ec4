"""What a run needs of whatever carries its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from privet.protocol import Steps

T = TypeVar("T")


class Engine(Protocol):
    """Drives a server's generator against clients, wherever they are.

    Attributes:
        bytes_up: Bytes from clients to the server so far.
        bytes_down: Bytes from the server to clients so far.
        on_answer: Called after each answer with operation, answers so far and the number of addressees.
    """

    bytes_up: int
    bytes_down: int
    on_answer: Callable[[str, int, int], None] | None

    def run(self, steps: Steps[T]) -> T:
        """The generator's result; its exceptions come through."""
