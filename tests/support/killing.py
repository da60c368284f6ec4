"""Runs in child processes that are killed with SIGKILL: by their own hand at a chosen instant, or by the parent."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.toy_runs import gatherer

import privet.cast
import privet.runs
from privet.config import Config, to_yaml

Prepare = Callable[[], None]


def die() -> None:
    """The process is gone, as after `kill -9`: no handler, no flush, no finally."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Killer:
    """Runs one configuration in one folder, again and again.

    Attributes:
        config: What runs.
        folder: Its folder.
        parties: Silos of the toy data.
    """

    config: Config
    folder: Path
    parties: int = 4

    def go(
        self, prepare: Prepare = lambda: None, *, config: Config | None = None, after: float | None = None
    ) -> bool:
        """Start the run, or go on with it, in a child process.

        Args:
            prepare: Called in the child first; arranges its death.
            config: Another configuration for this process, where its engine section differs.
            after: Seconds after which the parent kills the child.

        Returns:
            Whether it came to its end; false if it was killed.
        """
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # newer Pythons: other threads exist; none is used
            child = os.fork()
        if not child:
            self._child(prepare, config or self.config)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return False
        errors = self.folder.with_suffix(".error")
        assert status == 0, errors.read_text(encoding="utf-8") if errors.exists() else f"status {status}"
        return True

    def _child(self, prepare: Prepare, config: Config) -> None:
        try:
            gc.disable()
            setattr(privet.cast, "gather", gatherer(self.parties))  # noqa: B010 - a stand-in, in the child only
            # The account comes after all that is at stake here and takes longer than the run.
            setattr(privet.runs, "privacy_statement", no_statement)  # noqa: B010 - likewise
            # What a killed process has handed to the kernel is not lost; only a power failure would lose it.
            os.fsync = lambda fd: None
            resume = (self.folder / ".privet-run").exists()
            prepare()
            privet.runs.start(config, to_yaml(config), self.folder, resume=resume)
            os._exit(0)
        except BaseException:
            sys.setprofile(None)
            self.folder.with_suffix(".error").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(1)


class Calls:
    """Counts calls of functions, Python's and C's, in this process and kills it at the ``at``-th.

    So an instant can be told again, and the instants lie closest where most happens.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0

    def __call__(self) -> None:
        """Begin to count."""
        sys.setprofile(self._event)

    def _event(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.count += 1
            if self.count == self.at:
                die()


def calls_of(killer: Killer) -> int:
    """Calls in an undisturbed run."""
    report = killer.folder.with_suffix(".calls")
    counting = Calls()

    def prepare() -> None:
        leave = os._exit

        def report_and_leave(status: int) -> None:
            sys.setprofile(None)
            report.write_text(str(counting.count), encoding="utf-8")
            leave(status)

        os._exit = report_and_leave  # type: ignore[assignment]  # in the child only
        counting()

    assert killer.go(prepare)
    return int(report.read_text(encoding="utf-8"))


def no_statement(ledger: Any, **facts: Any) -> dict[str, Any]:
    """Stands in for the privacy statement where nothing is at stake in it."""
    return {
        "epsilon": "none",
        "reason": "",
        "unit": ledger.unit,
        "relation": ledger.relation,
        "delta": ledger.delta,
        "diagnostic": {"epsilon": None},
    }


def patched(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``around(original, *arguments)``, in a child process that is going to die."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


class Journal:
    """Lines that several processes append, and that a kill cannot take back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **facts: Any) -> None:
        """Add a line; it is with the kernel when this returns."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, json.dumps(facts).encode() + b"\n")
        os.close(descriptor)

    def lines(self, kind: str) -> Iterable[dict[str, Any]]:
        """The lines of one kind."""
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in found if line["kind"] == kind]
