"""Text that came from elsewhere, made fit for one line of a log or a terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    r"""The text with whatever ends a line, moves a cursor or turns the direction of writing spelled out, as ``\n``.

    What a server chose can so neither look like a line of the log nor hide a part of what is shown.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def plain_lines(text: str) -> str:
    """The same for text of several lines, whose ends stay."""
    return "\n".join(map(plain, text.split("\n")))
