"""``privet audit``: attack a run, or a configuration, and say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privet.cli.app import (
    JsonOption,
    SetOption,
    answer,
    app,
    say,
    show,
    stderr_console,
    stdout_is_for_answers,
)
from privet.errors import PrivetError

# Names, or beginnings of names, that `--only` may give; the suite's own order.
ATTACKS = ("audit", "poison", "mia.gradient", "mia.statistics", "mia.model", "invert")


# What experiments/audit_calibration counted; docs/evidence.md holds the table.
COUNTED = "20 honest seeds of each of two systems raised none, which bounds that probability by 0.14 only"


@app.command()
def audit(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|CONFIG", help="A finished run, or a YAML file to audit before it runs."),
    ],
    suite: Annotated[str, typer.Option(help="quick (a few minutes) or full.")] = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="ATTACK", help="Only these attacks, e.g. audit or invert; may be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws coins, canaries and candidates.")] = 0,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Attack a run through its own messages, each attack beside its positive control.

    Writes audit.json into the run's folder, and its chapter into report.html. Models that audits train are thrown away.
    """
    from privet.cli.progress import observer
    from privet.config import load

    if suite not in ("quick", "full"):
        raise PrivetError("there is no such suite", field="--suite", given=suite, allowed="quick, full")
    for name in only or ():
        if not any(name.startswith(known) or known.startswith(name) for known in ATTACKS):
            raise PrivetError(
                "there is no such attack", field="--only", given=name, allowed=", ".join(ATTACKS)
            )
    path = Path(target)
    from privet.report import RunRecord, write_report
    from privet.report.record import find
    from privet.run_folder import MARK

    record = None if path.is_file() else RunRecord.open(find(target))
    if record is not None and set_:
        raise PrivetError(
            "a run is audited as it ran",
            field="--set",
            given=set_[0],
            hint="audit a configuration to change it",
        )
    config = load(path if record is None else record.folder / MARK, set_ or ())
    from privet.attacks.suite import FILE
    from privet.attacks.suite import audit as attack

    with observer(stderr_console(), 0) as shown, stdout_is_for_answers():
        found = attack(
            config,
            record=record,
            suite=suite,  # type: ignore[arg-type]  # checked above
            seed=seed,
            only=tuple(only or ()),
            observe=shown,
        )
    if record is not None and not only:
        record.folder.write_json(FILE, found)
        with stdout_is_for_answers():
            write_report(RunRecord.open(record.folder.path))
    if json_:
        answer(found)
        return
    from privet.cli.tables import audit_table

    show(audit_table(found), "", _closing(found))
    if record is not None and only:
        say("With --only nothing is written into the run's folder.")


def _closing(found: dict[str, Any]) -> str:
    if not found["findings"]:
        return (
            "Nothing was attacked: no such attack applies to this configuration. This says nothing about it."
        )
    if found["alarms"]:
        return f"{found['alarms']} alarm(s): something is more visible than what was promised. Do not release this run."
    doubts = sum(row["verdict"] == "in doubt" for row in found["findings"])
    doubtful = (
        f" {doubts} row(s) in doubt: above what was promised at 95 %, not at the level that the whole suite shares; "
        "repeat with --suite full or another --seed."
        if doubts
        else ""
    )
    return (
        f"No alarm.{doubtful} That an attack fails proves nothing; docs/evidence.md says what was tried and what was "
        "not. "
        f"The levels of its tests, some of them asymptotic, are set so that a suite raises an alarm on an honest run "
        f"with probability {found['false_alarm']:g} at most; {COUNTED}."
    )
