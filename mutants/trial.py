"""One trial: named tests on one source tree, with a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mutants.mutant import Mutant
from mutants.planting import Stale, plant

COMPLAINTS = ("assert ", "AssertionError", "Failed: ")
"""How the failure of an assertion, or of ``pytest.raises``, begins."""


@dataclass(frozen=True)
class Trial:
    """What came out.

    Attributes:
        seconds: Wall-clock time.
        passed: Node ids of cases that passed.
        failed: First lines of the failure, by node id of the case.
        broken: Why the tests could not be run, if they could not.
        hung: Whether the time limit ended it.
    """

    seconds: float
    passed: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    hung: bool = False

    def complaints_of(self, test: str) -> dict[str, str]:
        """Assertions of a test function that failed, over its cases.

        A case that ends in any other exception has broken down, and has not noticed what is wrong.
        """
        return {
            case: why
            for case, why in self.failed.items()
            if case.split("[")[0] == test and why.startswith(COMPLAINTS)
        }


@dataclass(frozen=True)
class Verdict:
    """A mutant and what became of it.

    Attributes:
        mutant: The mutant.
        trial: Its trial; ``None`` if it could not be planted.
        stale: Why it could not be planted.
    """

    mutant: Mutant
    trial: Trial | None
    stale: str = ""

    @property
    def missed(self) -> list[str]:
        """Named tests without a failed assertion; none is missed by a mutant that hangs."""
        if self.trial is None or self.trial.hung:
            return []
        return [test for test in self.mutant.tests if not self.trial.complaints_of(test)]

    @property
    def state(self) -> str:
        """``caught``, ``caught (hangs)``, ``survived``, ``seen by some only``, ``broken`` or ``stale``."""
        if self.trial is None:
            return "stale"
        if self.trial.hung:
            return "caught (hangs)"
        if self.trial.broken:
            return "broken"
        if not self.missed:
            return "caught"
        return "survived" if len(self.missed) == len(self.mutant.tests) else "seen by some only"

    @property
    def good(self) -> bool:
        """Whether every named test noticed."""
        return self.state.startswith("caught")


def attempt(root: Path, source: Path, tests: Sequence[str], seconds: float) -> Trial:
    """Run ``tests`` of the project at ``root`` on the package in ``source``."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="privet-trial-") as folder:
        out = Path(folder) / "outcome.json"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins only cost time
        environment["PYTHONPATH"] = os.pathsep.join([str(source), str(Path(__file__).parent.parent)])
        command = [sys.executable, "-m", "mutants.suite", str(source), str(out), *tests]
        try:
            done = subprocess.run(
                command,
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Trial(time.monotonic() - started, hung=True)
        spent = time.monotonic() - started
        if not out.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return Trial(spent, broken=(*last, f"exit code {done.returncode}"))
        seen = json.loads(out.read_text("utf-8"))
        return Trial(spent, tuple(seen["passed"]), seen["failed"], tuple(seen["broken"]))


def judge(root: Path, original: Path, mutant: Mutant) -> Verdict:
    """Plant a mutant in a copy of the source tree ``original`` and run its tests of the project at ``root``."""
    with tempfile.TemporaryDirectory(prefix="privet-mutant-") as folder:
        source = Path(folder) / "src"
        try:
            plant(original, source, mutant)
        except (Stale, SyntaxError) as reason:
            return Verdict(mutant, None, str(reason))
        return Verdict(mutant, attempt(root, source, mutant.tests, mutant.seconds))
