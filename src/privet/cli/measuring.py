"""``privet bench``: the measurements that the documentation quotes, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from privet.cli.app import JsonOption, answer, app, say, show, stdout_is_for_answers

bench = typer.Typer(
    help="Measure on this machine what the documentation quotes.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(bench, name="bench")


@bench.command("train")
def train(json_: JsonOption = False) -> None:
    """Tokens a second and step times: a plain peft loop, ours without and with the cache, private and not."""
    from privet.bench_train import bench_train

    _run(lambda: bench_train(observe=say), "Training", json_)


@bench.command("sealing")
def sealing(
    values: Annotated[int, typer.Option(min=1, help="Length of each client's vector.")] = 1 << 20,
    clients: Annotated[int, typer.Option(min=3, help="Number of clients.")] = 3,
    json_: JsonOption = False,
) -> None:
    """CPU seconds and bytes of every sealing level, beside FedShield's path."""
    from privet.bench_sealing import bench_sealing

    say(f"summing {clients} vectors of {values:,} values under every level; minutes for a million")
    _run(lambda: bench_sealing(values, clients), "Sealing", json_)


@bench.command("codecs")
def codecs(json_: JsonOption = False) -> None:
    """Fidelity of every codec at several ratios, with and without noise."""
    from privet.bench_codecs import bench_codecs

    _run(lambda: bench_codecs(progress=say), "Codecs", json_)


@bench.command("engine")
def engine(
    local: Annotated[bool, typer.Option("--local", help="The local engine only.")] = False,
    sites: Annotated[
        list[int] | None, typer.Option("--sites", help="How many sites; repeat it. All of 2, 4, 8 if absent.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """What engines cost besides training: FLARE with TLS on this machine by size and sites, and the local engine."""
    from privet.bench_engine import SITES, bench_engine

    chosen = () if local else (sites or SITES)
    _run(lambda: bench_engine(say, sites=chosen), "Engine", json_)


def _run(measure: Callable[[], Any], title: str, as_json: bool) -> None:
    with stdout_is_for_answers():
        measured = measure()
    if as_json:
        answer(measured)
    else:
        _print(title, measured)


def _print(title: str, measured: Any) -> None:
    """A list of flat rows as one table; a mapping as names and values, with its lists as tables of their own."""
    from privet.cli.tables import facts_table

    if isinstance(measured, Mapping):
        flat = {name: _cell(value) for name, value in measured.items() if not _is_rows(value)}
        if flat:
            show(facts_table(title, flat))
        for name, value in measured.items():
            if _is_rows(value):
                show(_rows_table(f"{title}: {name}", value))
    elif _is_rows(measured):
        show(_rows_table(title, measured))


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _rows_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
