"""``privet``: the command line. One module a group of verbs; `app.py` is the frame that they share."""

from __future__ import annotations

from typer.models import CommandInfo

from privet.cli import (
    auditing,
    configuring,
    deploying,
    environment,
    keys,
    measuring,
    products,
    results,
    running,
)
from privet.cli.app import app

__all__ = ["app", "main"]

# The order in which --help lists the verbs is the order in which a newcomer needs them.
VERBS = (
    *("init", "doctor", "validate", "plan", "account", "fetch", "run", "ls", "show", "compare", "evaluate"),
    *("audit", "export", "report", "submit", "status", "logs", "stop", "fetch-result"),
)
MODULES = (auditing, configuring, deploying, environment, keys, measuring, products, results, running)


def _place(command: CommandInfo) -> int:
    name = command.name or getattr(command.callback, "__name__", "")
    return VERBS.index(name)


app.registered_commands.sort(key=_place)


def main() -> None:
    """Entry point of the command ``privet``."""
    app()
