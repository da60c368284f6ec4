"""Holding data out by a hash of the group: nothing about one record decides where another one goes."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

from privet.data.near_duplicates import normalise
from privet.data_config import Split

Part: TypeAlias = Literal["test", "validation", "public", "train"]
PARTS: tuple[Part, ...] = ("test", "validation", "public", "train")


def part_of(group: str | None, text: str, split: Split) -> Part:
    """The part that a record belongs to.

    Raising one share moves records only out of those that come after it: test, validation, public, train.

    Args:
        group: What the record belongs to; groups go as a whole.
        text: What the record says, without the template's words. Decides when there is no group, so that
            copies of a text stay together.
        split: Shares and seed.
    """
    key = f"text/{normalise(text)}" if group is None else f"group/{group}"
    digest = hashlib.sha256(f"{split.seed}/{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    shares: dict[Part, float] = {"test": split.test, "validation": split.validation, "public": split.public}
    for part, share in shares.items():
        if position < share:
            return part
        position -= share
    return "train"
