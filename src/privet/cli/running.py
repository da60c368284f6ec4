"""``privet run`` and ``privet fetch``: the verbs that take time and show how far they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
    loaded = load(config, set_ or ())
    source = config.read_text(encoding="utf-8")
    from privet.runs import start

    try:
        with observer(stderr_console(), loaded.schedule.rounds) as shown, stdout_is_for_answers():
            result = start(loaded, source, out, resume=resume, fresh=fresh, observe=shown)
    except KeyboardInterrupt:
        folder = f" --out {out}" if out else ""
        raise Interrupted(
            f"interrupted; every finished round is kept: `privet run {config}{folder} --resume` goes on"
        ) from None
    if json_:
        answer(result)
        return
    _show_result(result)


def _show_result(result: dict[str, Any]) -> None:
    from privet.cli.tables import cost_lines, promise_table, silo_table
    from privet.report import RunRecord, write_report

    record = RunRecord.open(Path(result["adapter"]).parent)
    if not Path(result["report"]).exists():
        write_report(record)
    show(silo_table(record), promise_table(record), cost_lines(record))
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
