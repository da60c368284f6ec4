"""Verbs before a run: ``init``, ``validate``, ``plan`` and ``account``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.cli.app import (
    MISTAKE,
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
from privet.report import numbers

if TYPE_CHECKING:
    from privet.config import Config

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("run.yaml"),
    system: Annotated[
        str | None,
        typer.Option(
            help="fedavg, dp_lora, hedge … ; see the table of systems in the README. Without it hedge, or dp_lora "
            "where your files make fewer than three silos."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="Your files, e.g. 'sites/*.jsonl' (quoted): a data section to fit them."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a commented configuration, for the embedded data or your own."""
    from privet.data_sketch import sketch
    from privet.init_template import remarks, system_for, template

    if path.exists() and not force:
        raise PrivetError("exists already", field=str(path), hint="name another file, or use --force")
    found = sketch(data) if data else None
    system = system or system_for(found)
    text = template(system, found, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for remark in (each for about in remarks(system, found).values() for each in about):
        say(f"note: {remark}")
    if json_:
        answer({"path": str(path), "system": system, "data": found.kind if found else "sentiment"})
        return
    if found:
        files = f"{found.files} file{'s' if found.files != 1 else ''}"
        say(
            f"{files} with columns {', '.join(found.columns)}: read the data section and mend what was guessed wrong."
        )
    typer.echo(f"{path} written. Next: privet plan {path}")


@app.command()
def validate(config: ConfigArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """List every mistake in a configuration.

    Each comes with its path, the value that was given, and what is allowed.
    """
    from privet.config import ConfigError, load

    try:
        loaded = load(config, set_ or ())
    except ConfigError as error:
        if not json_:
            raise
        rows = [
            {
                "path": problem.path,
                "message": problem.message,
                "given": None if problem.given is None else str(problem.given),
                "allowed": problem.allowed,
            }
            for problem in error.problems
        ]
        answer({"valid": False, "problems": rows})
        raise typer.Exit(MISTAKE) from None
    if json_:
        answer({"valid": True, "problems": [], "system": loaded.system.kind})
    else:
        typer.echo(f"{config} is valid: {describe(loaded)}")


def describe(config: Config) -> str:
    """A configuration in one line."""
    rounds = f"{config.schedule.rounds} round{'s' if config.schedule.rounds != 1 else ''}"
    parts = [config.system.kind, rounds, f"model {config.model.name}"]
    privacy = config.privacy
    if privacy is None:
        parts.append("no privacy guarantee")
    else:
        about = f"{privacy.unit}, {privacy.relation}, δ {numbers.delta(privacy.delta)}"
        noise = f"noise multiplier {privacy.noise_multiplier:g}" if privacy.noise_multiplier else ""
        parts.append(noise or f"ε ≤ {privacy.target_epsilon:g} against the worst observer ({about})")
    return ", ".join([*parts, f"sealing {config.sealing.kind}"])


@app.command()
def plan(
    config: ConfigArgument,
    epsilon: Annotated[
        float | None, typer.Option(help="Calibrate the noise to this epsilon of the worst observer instead.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Load the model and measure clip norm and expected signal on the public records.",
        ),
    ] = False,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what a run would promise and cost, before anything runs.

    The model's weights are loaded with --measure only. Epsilon is told for every observer, with what cross-checks it.
    """
    from privet import plan as planning
    from privet.config import load

    loaded = load(config, set_ or ())
    with stderr_console().status("calculating ε and costs") as status, stdout_is_for_answers():
        measured = None
        if measure:
            from privet.public_clip import public_signal

            status.update("measuring on the public records")
            measured = public_signal(loaded)
        made: dict[str, Any] = planning.make(loaded, epsilon, measured).as_dict()
    if json_:
        answer(made)
    else:
        from privet.cli.plan_view import plan_view

        show(*plan_view(made))


@app.command()
def account(
    file: Annotated[
        Path,
        typer.Argument(
            help="YAML file of releases (docs/privacy-ledger.md shows one), or a run's dp_event.json or privacy.json."
        ),
    ],
    json_: JsonOption = False,
) -> None:
    """Calculate epsilon of the releases in a file.

    By closed form where there is one, by privacy loss distributions, Rényi DP, and the central-limit approximation.
    """
    from privet.account import account as compute

    computed = compute(file)
    if json_:
        answer(computed)
    else:
        from privet.cli.plan_view import account_view

        show(*account_view(computed))
