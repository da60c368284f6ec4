"""The command line's frame: one application, one way to answer, one way to fail.

- An answer goes to stdout, as a table or, with ``--json``, as JSON and nothing else. All other words go to stderr.
- A mistake that the user can mend (`PrivetError`, an unreadable file) is a message on stderr and exit code 2, never a
  stack trace; ``PRIVET_TRACEBACK=1`` shows the trace to whoever looks for a bug.
- Ctrl-C ends with exit code 130.

Verbs import what they need when they run, so that ``--help`` and ``validate`` answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from privet import __version__
from privet.errors import PrivetError
from privet.plain import plain_lines

if TYPE_CHECKING:
    from rich.console import Console

MISTAKE, INTERRUPTED = 2, 130
_JSON = "privet.json"


class Interrupted(Exception):
    """Ctrl-C, with the sentence that says how to go on."""


class Verbs(TyperGroup):
    """The group of all verbs, where every failure ends."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; turn what can go wrong into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except PrivetError as error:
            if os.environ.get("PRIVET_TRACEBACK"):
                raise
            fail(str(error), error.as_dict(), ctx)
        except (KeyboardInterrupt, Interrupted) as interruption:
            say(str(interruption) or "interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE or os.environ.get("PRIVET_TRACEBACK"):
                raise
            where = str(error.filename) if error.filename else "a file"
            problem = PrivetError(
                error.strerror or str(error), field=where, hint="check the path, the disk and rights"
            )
            fail(str(problem), problem.as_dict(), ctx)


def fail(message: str, parts: dict[str, Any], ctx: Any) -> None:
    """End with a message on stderr; with ``--json``, its parts on stdout too.

    Raises:
        typer.Exit: always.
    """
    say(f"privet: {message}")
    if ctx.meta.get(_JSON):
        answer({"error": parts})
    raise typer.Exit(MISTAKE) from None


def say(text: str) -> None:
    """One message for people, on stderr, without markup."""
    typer.echo(plain_lines(text), err=True)


def tell(text: str) -> None:
    """A verb's answer in words, on stdout."""
    typer.echo(plain_lines(text))


def answer(value: Any) -> None:
    """A verb's answer as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def show(*parts: Any) -> None:
    """Tables and text on stdout, as wide as the terminal; at least 100 columns where there is none."""
    console = _console(sys.stdout)
    for part in parts:
        console.print(plain_lines(part) if isinstance(part, str) else part)


def stderr_console() -> Console:
    """Where progress is shown."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or os.environ.get("COLUMNS") else 120
    # A silo's name, or a run that somebody else made, may hold what would be taken for markup.
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


@contextlib.contextmanager
def stdout_is_for_answers() -> Iterator[None]:
    """While it lasts, what libraries print goes to stderr, so that an answer in JSON stays JSON."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _remember(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value
    return value


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"privet {__version__}")
        raise typer.Exit


JsonOption = Annotated[
    bool, typer.Option("--json", callback=_remember, is_eager=True, help="Answer in JSON on stdout.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, e.g. schedule.rounds=5; may be repeated."
    ),
]
VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]

app = typer.Typer(
    name="privet",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def privet(version: VersionOption = False) -> None:
    """Fine-tune one language model together without sharing data; every run states what each party could learn.

    A first run: `privet init run.yaml`, `privet plan run.yaml`, `privet run run.yaml`.
    """
