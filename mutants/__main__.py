"""``python -m mutants [NAME...]``: plant each bug, run its tests, write docs/mutants.md; survivors fail the command."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants.catalogue import MUTANTS
from mutants.mutant import Mutant
from mutants.page import page
from mutants.planting import Stale, plant
from mutants.trial import Verdict, attempt, judge

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "mutants.md"


def main() -> int:
    """0 if all mutants are caught by all tests named with them, and these pass on the code as it is."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all mutants when absent")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    parser.add_argument("--list", action="store_true", help="names only")
    asked = parser.parse_args()
    chosen = [m for m in MUTANTS if not asked.names or any(part in m.name for part in asked.names)]
    if asked.list or not chosen:
        print("\n".join(m.name for m in chosen) or "no such mutant")
        return 0 if chosen else 2
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="privet-source-") as folder:
        # One state of the source for all, also when somebody edits it meanwhile.
        source = Path(shutil.copytree(ROOT / "src", Path(folder) / "src"))
        if not (_can_be_planted(source, chosen) and _pass_as_they_are(source, chosen, asked.jobs)):
            return 1
        verdicts = []
        with ThreadPoolExecutor(asked.jobs) as pool:
            for verdict in pool.map(lambda m: judge(ROOT, source, m), chosen):
                verdicts.append(verdict)
                _tell(verdict)
    bad = [v for v in verdicts if not v.good]
    print(
        f"{len(verdicts) - len(bad)} of {len(verdicts)} mutants caught in {time.monotonic() - started:.0f} s"
    )
    if not bad and len(chosen) == len(MUTANTS):
        PAGE.write_text(page(verdicts), "utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if bad else 0


def _can_be_planted(source: Path, mutants: Sequence[Mutant]) -> bool:
    """Whether every mutant's text is where it should be; quick, so that a stale one is told before anything runs."""
    stale = []
    for mutant in mutants:
        with tempfile.TemporaryDirectory(prefix="privet-mutant-") as folder:
            try:
                plant(source, Path(folder) / "src", mutant)
            except (Stale, SyntaxError) as reason:
                stale.append(f"stale: {mutant.name}\n        {reason}")
    print("".join(f"{line}\n" for line in stale), end="")
    return not stale


def _pass_as_they_are(source: Path, mutants: Sequence[Mutant], jobs: int) -> bool:
    """Whether all named tests exist and pass on the code without a bug planted."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    started, parts = time.monotonic(), [tests[i::jobs] for i in range(jobs) if tests[i::jobs]]
    with ThreadPoolExecutor(jobs) as pool:
        trials = list(pool.map(lambda part: attempt(ROOT, source, part, 600), parts))
    passed = {case.split("[")[0] for trial in trials for case in trial.passed}
    troubles = [f"{case}: {why}" for trial in trials for case, why in trial.failed.items()]
    troubles += [why for trial in trials for why in trial.broken]
    troubles += ["the tests took more than 600 s" for trial in trials if trial.hung]
    troubles += [f"{test} does not pass as it is" for test in tests if test not in passed]
    seconds = time.monotonic() - started
    print(
        f"{len(tests)} tests on the code as it is: {'fail' if troubles else 'pass'} in {seconds:.0f} s",
        flush=True,
    )
    print("".join(f"  {trouble}\n" for trouble in troubles), end="")
    return not troubles


def _tell(verdict: Verdict) -> None:
    seconds = f"{verdict.trial.seconds:4.0f} s" if verdict.trial else "   -  "
    print(f"{seconds}  {verdict.state:<18} {verdict.mutant.name}", flush=True)
    reasons = [verdict.stale] if verdict.stale else []
    if verdict.trial is not None and not verdict.good:
        reasons += [*verdict.trial.broken, *(f"not noticed by {test}" for test in verdict.missed)]
    for reason in reasons:
        print(f"        {reason}")


if __name__ == "__main__":
    sys.exit(main())
