"""Verbs that make something out of a run: ``evaluate``, ``export`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privet.cli.app import JsonOption, answer, app, show, stdout_is_for_answers
from privet.cli.results import RunArgument
from privet.cli.running import steps


@app.command()
def evaluate(
    run: RunArgument,
    task: Annotated[
        str | None,
        typer.Option(
            help="choices or loss on the run's own test records (without this, what the run was measured by), "
            "sentiment, or lm_eval:NAME, e.g. lm_eval:mmlu."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Records or items a task at most.")] = None,
    json_: JsonOption = False,
) -> None:
    """Evaluate a run's adapter beside its base model."""
    from privet.cli.tables import facts_table
    from privet.evaluate import evaluate as measure
    from privet.evaluate import flat_facts
    from privet.report.record import find

    path = find(run)
    with steps() as progress, stdout_is_for_answers():
        measured = measure(path, task, limit=limit, progress=progress)
    if json_:
        answer(measured)
    else:
        show(facts_table(f"{measured['task']} on {path.name}", flat_facts(measured)))


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    base: Annotated[
        str | None, typer.Option(help="Base model that the adapter names: a hub name or a folder.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds an export already.")
    ] = False,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit/--no-audit",
            help="Hand on what `privet audit` found: figures that are exact functions of training records.",
        ),
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Write a PEFT adapter folder with a model card.

    Plain `peft` loads it, and its README.md carries the privacy statement.
    """
    from privet.export import export as write
    from privet.report.record import RunRecord, find

    files = write(RunRecord.open(find(run)), out, base=base, force=force, audit=audit)
    if json_:
        answer({"path": str(out), "files": [path.name for path in files]})
    else:
        typer.echo(f"{out}: {', '.join(path.name for path in files)}")


@app.command()
def report(run: RunArgument, json_: JsonOption = False) -> None:
    """Write report.html of a run anew."""
    from privet.report import write_report
    from privet.report.record import RunRecord, find

    with stdout_is_for_answers():
        path = write_report(RunRecord.open(find(run)))
    if json_:
        answer({"path": str(path)})
    else:
        typer.echo(str(path))
