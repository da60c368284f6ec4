"""``privet doctor``: looks at the machine, and says how to mend what is missing."""

from __future__ import annotations

import typer

from privet.cli.app import JsonOption, answer, app, show, stderr_console, stdout_is_for_answers

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red")}


@app.command()
def doctor(json_: JsonOption = False) -> None:
    """Check this machine, and say how to mend what is missing.

    Imports the packages, encrypts, accounts, takes a training step, and looks at processor, cache and disk. The exit
    code is 1 if something that is needed fails.
    """
    from rich.text import Text

    from privet import doctor as examination

    console = stderr_console()
    with console.status("looking at the machine") as status, stdout_is_for_answers():
        found = examination.examine(lambda name: status.update(f"checking {name}"))
    healthy = examination.healthy(found)
    if json_:
        answer(examination.as_dict(found))
    else:
        width = max(len(finding.name) for finding in found)
        for finding in found:
            mark, style = MARKS[finding.status]
            show(Text.assemble((f"{mark} {finding.name:<{width}}  ", style), finding.detail))
            if finding.mend:
                show(
                    Text(f"  {'':<{width}}  → {finding.mend}", style="" if finding.status == "ok" else style)
                )
        failed = sum(finding.status == "failed" for finding in found)
        typer.echo("All that is needed works." if healthy else f"{failed} of {len(found)} checks failed.")
    if not healthy:
        raise typer.Exit(1)
