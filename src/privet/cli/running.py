"""``privet run`` and ``privet fetch``: the verbs that take time and show how far they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.cli.app import (
    Interrupted,
    JsonOption,
    SetOption,
    answer,
    app,
    say,
    show,
    stderr_console,
    stdout_is_for_answers,
)
from privet.cli.configuring import ConfigArgument
from privet.errors import PrivetError

if TYPE_CHECKING:
    from privet.report import RunRecord


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="smollm2, sentiment, small or all.")] = "all",
    json_: JsonOption = False,
) -> None:
    """Make the embedded model and data available offline.

    What is there already is checked by its hashes and repaired.
    """
    from privet.fetch import fetch as get

    with steps() as progress, stdout_is_for_answers():
        folders = get(what, progress)  # type: ignore[arg-type]  # fetch names what is allowed
    if json_:
        answer({name: str(folder) for name, folder in folders.items()})
    else:
        for name, folder in folders.items():
            typer.echo(f"{name}: {folder}")


@app.command()
def run(
    config: ConfigArgument,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; a new one under ./runs when not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away the run in the folder first.")] = False,
    json_: JsonOption = False,
) -> None:
    """Run a configuration, or go on with a run.

    Ends with what was gained, what is promised to whom, and what it cost.
    """
    from privet.cli.progress import observer
    from privet.config import load

    if resume and fresh:
        raise PrivetError("--resume and --fresh exclude each other", hint="choose one of them")
    if resume and out is None:
        raise PrivetError(
            "--resume needs the run's folder",
            field="--out",
            hint="name it with --out; `privet ls` lists the runs here",
        )
    loaded = load(config, set_ or ())
    source = config.read_text(encoding="utf-8")
    from privet.report import RunRecord, write_report
    from privet.runs import default_folder, start

    folder = out or default_folder(loaded)
    try:
        with observer(stderr_console(), loaded.rounds) as shown, stdout_is_for_answers():
            result = start(loaded, source, folder, resume=resume, fresh=fresh, observe=shown)
    except KeyboardInterrupt:
        overrides = [part for assignment in set_ or () for part in ("--set", assignment)]
        command = shlex.join(["privet", "run", str(config), "--out", str(folder), "--resume", *overrides])
        raise Interrupted(f"interrupted; every finished round is kept: `{command}` goes on") from None
    record = RunRecord.open(folder)
    write_report(record)
    if json_:
        answer(result)
    else:
        _show_result(record, result)


def _show_result(record: RunRecord, result: dict[str, Any]) -> None:
    from privet.cli.tables import cost_lines, promise_table, promise_words, silo_table, stage_table

    stages = stage_table(record.stages, promise_words(record.promise))
    show(silo_table(record), promise_table(record), *([stages] if stages else []), cost_lines(record))
    if result.get("stopped"):
        say(f"The run stopped early: {result['stopped']}")


def steps() -> Any:
    """Shows progress of single steps, told as (what, done, total)."""
    from privet.cli.progress import observer

    return _Steps(observer(stderr_console(), 0))


class _Steps:
    """Turns the callback of `privet.fetch` into events."""

    def __init__(self, shown: Any) -> None:
        self._shown = shown

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._shown.__enter__()
        return lambda doing, done, total: self._shown(
            "progress", {"name": doing, "done": done, "total": total}
        )

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)
