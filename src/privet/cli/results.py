"""Verbs on runs that are there: ``ls``, ``show`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privet.cli.app import JsonOption, answer, app, show, tell
from privet.errors import PrivetError

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or its name under ./runs.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]


@app.command("ls")
def list_runs(runs: RunsOption = Path("runs"), json_: JsonOption = False) -> None:
    """List the runs under ./runs, oldest first."""
    from privet.report.record import RunRecord, find_all

    records, damaged = [], []
    for path in find_all(runs):
        try:
            records.append(RunRecord.open(path))
        except PrivetError:
            damaged.append(path)
    if json_:
        answer(
            [record.as_dict() for record in records] + [{"path": str(p), "state": "damaged"} for p in damaged]
        )
        return
    if not records and not damaged:
        typer.echo(f"No runs in {runs}. A first one: privet init run.yaml, then privet run run.yaml")
        return
    from privet.cli.tables import runs_table

    show(runs_table(records))
    for path in damaged:
        tell(f"{path}: damaged")


@app.command("show")
def show_run(run: RunArgument, json_: JsonOption = False) -> None:
    """Show one run: utility, promise, cost, and where things lie."""
    from privet.report.record import RunRecord, find

    record = RunRecord.open(find(run))
    if json_:
        answer(record.as_dict())
        return
    from privet.cli.tables import cost_lines, promise_table, promise_words, silo_table, stage_table

    show(f"{record.name}: {record.system}, {record.state_text}", "")
    stages = stage_table(record.stages, promise_words(record.promise))
    show(silo_table(record), promise_table(record), *([stages] if stages else []), cost_lines(record))


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run or more.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    json_: JsonOption = False,
) -> None:
    """Put runs side by side in one table."""
    from privet.report.record import RunRecord, find

    records = [RunRecord.open(find(name)) for name in runs]
    if json_:
        answer([record.as_dict() for record in records])
        return
    from privet.cli.tables import compare_markdown, compare_table

    if markdown:
        tell(compare_markdown(records))
    else:
        show(compare_table(records))
