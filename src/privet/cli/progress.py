"""A run while it runs: bars with the time left on a terminal, plain lines in a log file.

The bars show the long steps, the rounds, and inside a round how far its clients are. Nothing here decides anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console

from privet.report import numbers

QUIET_SECONDS = 10.0
SLOW_ROUND_SECONDS = 60.0
CLIENTS = "clients in this round"


class Observer(Protocol):
    """Shows events; a context manager, since bars have to be taken down."""

    def __enter__(self) -> Observer:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take everything down."""

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Show one event."""


def observer(console: Console, rounds: int) -> Observer:
    """Bars where a person looks on, lines where none does."""
    return Bars(console, rounds) if console.is_terminal else Lines(console, rounds)


def round_text(row: Mapping[str, Any]) -> str:
    """What is worth saying about a round that is over."""
    parts = [f"{len(row.get('survivors', []))} clients"]
    if row.get("missing"):
        silent = ", ".join(f"{party} ({reason})" for party, reason in row["missing"].items())
        parts.append(f"without {silent}")
    if row.get("attempt"):
        parts.append(f"attempt {row['attempt'] + 1}")
    sampled = (row.get("simulated") or {}).get("sampled")
    if sampled and None not in sampled:
        parts.append(f"{sum(sampled)} records sampled")
    if row.get("direction_norm") is not None:
        parts.append(f"step direction {row['direction_norm']:.3g}")
    parts.append(numbers.duration(row.get("seconds")))
    return ", ".join(parts)


class Bars:
    """Live bars on a terminal."""

    def __init__(self, console: Console, rounds: int) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._rounds, self._first, self._done = rounds, None, 0
        self._round_bar: Any = None
        self._step: Any = None
        self._step_name = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_step()
        self._progress.stop()

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Show one event."""
        if kind == "stage":
            self._begin_step(str(facts["name"]), None)
        elif kind == "progress":
            self._advance(_step(facts), int(facts["done"]), int(facts["total"]))
        elif kind == "round":
            self._round(facts)
        elif kind == "aborted":
            self._progress.console.print(_aborted(facts), style="yellow", markup=False, highlight=False)
        elif kind == "stopped":
            self._progress.console.print(
                f"stopped: {facts['reason']}", style="yellow", markup=False, highlight=False
            )
        elif kind == "result":
            self._end_step()

    def _begin_step(self, name: str, total: int | None) -> None:
        self._end_step()
        self._step_name = name
        self._step = self._progress.add_task(name, total=total, count="")

    def _advance(self, name: str, done: int, total: int) -> None:
        if self._step is None or name != self._step_name:
            self._begin_step(name, total or None)
        count = f"{done:,}/{total:,}" if total else ""
        self._progress.update(self._step, completed=done, total=total or None, count=count)

    def _end_step(self) -> None:
        if self._step is not None:
            self._progress.remove_task(self._step)
        self._step, self._step_name = None, ""

    def _round(self, row: Mapping[str, Any]) -> None:
        self._end_step()
        number = int(row["round"]) + 1
        if self._round_bar is None:
            # A resumed run begins in the middle: what is left is estimated from the rounds since then.
            self._round_bar = self._progress.add_task(
                "rounds", total=self._rounds, count="", completed=number - 1
            )
        self._progress.update(self._round_bar, completed=number, count=f"{number}/{self._rounds}")
        if row.get("missing"):
            text = f"round {number}: {round_text(row)}"
            self._progress.console.print(text, style="yellow", markup=False, highlight=False)


class Lines:
    """Plain lines, thinned out to one every ten seconds."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console, self._rounds = console, rounds
        self._said = 0.0
        self._names: set[str] = set()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Show one event."""
        if kind == "stage":
            self._say(str(facts["name"]))
        elif kind == "progress":
            name, done, total = _step(facts), int(facts["done"]), int(facts["total"])
            waited = time.monotonic() - self._said
            # The line that ends a round says enough, unless the round takes very long.
            fresh = name not in self._names and name != CLIENTS
            if fresh or waited >= (SLOW_ROUND_SECONDS if name == CLIENTS else QUIET_SECONDS):
                self._names.add(name)
                self._say(f"{name}: {done:,} of {total:,}" if total else name)
        elif kind == "round":
            number = int(facts["round"]) + 1
            if (
                number in (1, self._rounds)
                or facts.get("missing")
                or time.monotonic() - self._said >= QUIET_SECONDS
            ):
                self._say(f"round {number}/{self._rounds}: {round_text(facts)}")
        elif kind == "aborted":
            self._say(_aborted(facts))
        elif kind == "stopped":
            self._say(f"stopped: {facts['reason']}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _step(facts: Mapping[str, Any]) -> str:
    """A step's name; the steps of all rounds are one, since the bar of the rounds counts them."""
    name = str(facts["name"])
    return CLIENTS if name.startswith("round ") else name


def _aborted(facts: Mapping[str, Any]) -> str:
    attempt = int(facts.get("attempt", 0)) + 1
    return f"round {int(facts['round']) + 1}, attempt {attempt}: nothing was opened ({facts['reason']})"
