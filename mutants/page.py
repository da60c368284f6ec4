"""docs/mutants.md: the table of mutants and what caught them, as the last complete trial found it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mutants.trial import Verdict

HEAD = """\
# Mutants: planted bugs and what catches them

Written by `make mutants`; do not edit. A claim of privacy is worth as much as the tests that would notice if it stopped
being true. Each row is a build with one bug planted in it. The tests named beside it pass on the code as it is, and
every one of them fails on that build, by an assertion and not by a crash; else the command fails. Where a bug leaves
the guarantee standing because a second line of defence holds (the norm check behind the clip, the constructor that
refuses an unsound order), there is a row for the single bug and a row in which both lines are broken.

The last column is the first complaint of the first test. *n* cases: how many of a test's cases noticed, of all.

| planted bug | in | caught by | it says |
|---|---|---|---|
"""

POWER = """
## What canaries can and cannot find

`test_trap_09_canaries_are_as_visible_as_the_ledger_says` plants orthogonal records, half of them inside by a coin, and
estimates from the opened sums of one run how far inside and outside lie apart. Its chance to report more than the
ledger's μ when **half of the noise** is missing (512 canaries, 4 rounds, σ = 1 charged and 0.5 drawn, δ = 1e-5, lower
bound at 2.5 %):

| q | μ of the charged ε | μ that the scores show, noise halved | power |
|---|---|---|---|
"""

FOOT = """
So where everybody, or nearly, takes part in every round the audit finds it surely. From q = 0.5 down it hardly ever
does: the ε of a sampled run is set by rare, large losses, while scores show averages, and a score's own sampling noise
hides the rest. A canary audit that stays silent there shows nothing. What holds at every q are the tests that look at
the parts by themselves: the variance of opened sums against the ledger's σ, the length that one record can move a sum,
the sizes of batches against the ledger's q, and the number of draws against the ledger's count.

## What is not shown

A mutant shows that one bug would be noticed, not that all would. The canary estimate is parametric (normal scores).
Nobody planted bugs in `cryptography`, TenSEAL, `dp_accounting`, numpy or the operating system's random generator.
"""


def page(verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    rows = [_row(verdict) for verdict in verdicts]
    return HEAD + "\n".join(rows) + "\n" + POWER + "\n".join(_power_rows()) + "\n" + FOOT


def _row(verdict: Verdict) -> str:
    files = "<br>".join(dict.fromkeys(f"`{edit.file}`" for edit in verdict.mutant.edits))
    if verdict.trial is None or verdict.trial.hung:
        return f"| {verdict.mutant.name} | {files} | a time limit: the run hangs | |"
    caught, says = [], ""
    for test in verdict.mutant.tests:
        failures = verdict.trial.complaints_of(test)
        cases = len(failures) + sum(case.split("[")[0] == test for case in verdict.trial.passed)
        share = f" ({len(failures)} of {cases} cases)" if cases > 1 else ""
        caught.append(f"`{test.split('::')[-1]}`{share}")
        says = says or next(iter(failures.values()))
    return f"| {verdict.mutant.name} | {files} | {'<br>'.join(caught)} | {_cell(says)} |"


def _cell(text: str, most: int = 90) -> str:
    """The beginning of a failure as code in a cell, without what differs from run to run: bytes, addresses, folders."""
    for changing in (r"b'[^ ]*'", r"0x[0-9a-f]+", r"'/[^' ]*'?"):
        text = re.sub(changing, "…", text)
    short = text if len(text) <= most else text[:most] + "…"
    return "`" + short.replace("|", "∣").replace("`", "'") + "`"


def _power_rows() -> list[str]:
    from privet.privacy.accountants import compute
    from privet.privacy.events import Release, Sampling

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    canary = importlib.import_module("support.canary")
    rows = []
    for rate in (1.0, 0.9, 0.5, 0.2, 0.05, 0.01):
        release = Release("sum", 1.0, 4, Sampling.poisson(rate) if rate < 1 else Sampling.none())
        claimed = canary.mu_of_epsilon(compute([release], 1e-5).value, 1e-5)
        shown = canary.visible_mu(rate, 0.5, 4)
        rows.append(f"| {rate:g} | {claimed:.2f} | {shown:.2f} | {canary.power(shown, claimed, 512):.3f} |")
    return rows
