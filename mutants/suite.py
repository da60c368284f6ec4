"""Runs named tests against one source tree, in a process of its own, and writes down which of them failed and how.

``python -m mutants.suite SOURCE OUT TEST...``. The process refuses to run if ``privet`` came from somewhere else: a
mutant that is not imported would look like a survivor, or like a pass.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest


class Recorder:
    """A pytest plugin that keeps, for each test, whether it passed and the first lines of its failure."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.broken: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported is no catch."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {str(report.longrepr).splitlines()[-1]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Failures in set-up count like those of the test."""
        if report.failed:
            crash: Any = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else str(report.longrepr)
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            self.failed.setdefault(report.nodeid, " ".join(lines[:2]))
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


def main() -> int:
    """Run, and write ``{"passed", "failed", "broken"}`` to the file that was asked for."""
    source, out, *tests = sys.argv[1:]
    import privet

    if not Path(privet.__file__).resolve().is_relative_to(Path(source).resolve()):
        sys.exit(f"privet was imported from {privet.__file__}, not from {source}")
    recorder = Recorder()
    arguments = ["-p", "no:cacheprovider", "--tb=short", "--durations=0", *tests]
    code = pytest.main(arguments, plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not recorder.broken:
        recorder.broken.append(f"pytest ended with {code!r}")
    Path(out).write_text(json.dumps(vars(recorder)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
