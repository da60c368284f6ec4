"""Results as tables for a terminal. An epsilon never stands here without its observer, unit, relation and delta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from privet.plain import plain_lines
from privet.report import numbers
from privet.report.record import ObserverRow, RunRecord


def silo_table(record: RunRecord) -> Table | str:
    """Accuracy and loss of each silo before and after, and their means."""
    rows = record.silos
    if not rows:
        return "No metrics: the test data are not declared public, so what was measured stayed at the silos."
    with_accuracy = any(row.after.get("accuracy", row.before.get("accuracy")) is not None for row in rows)
    table = _table("Test metrics, before → after (95 % interval; ± standard error)")
    table.add_column("silo")
    table.add_column("records", justify="right")
    if with_accuracy:
        table.add_column("accuracy before", justify="right")
        table.add_column("after", justify="right")
    for name in ("loss before", "after", "change"):
        table.add_column(name, justify="right")
    for row in rows:
        accuracy = [_accuracy(row.before), _accuracy(row.after)] if with_accuracy else []
        loss = [numbers.loss(part.get("nll"), part.get("nll_se")) for part in (row.before, row.after)]
        moved = numbers.change(row.before.get("nll"), row.after.get("nll"))
        records = "" if row.records is None else f"{row.records:,}"
        table.add_row(row.silo, records, *accuracy, *loss, moved)
    means = {when: {m: record.mean(when, m) for m in ("accuracy", "nll")} for when in ("before", "after")}
    accuracy = [numbers.percent(means[when]["accuracy"]) for when in means] if with_accuracy else []
    loss = [numbers.loss(means[when]["nll"]) for when in means]
    table.add_section()
    table.add_row(
        "mean over silos", "", *accuracy, *loss, numbers.change(means["before"]["nll"], means["after"]["nll"]),
        style="bold",
    )  # fmt: skip
    if (control := record.control("nll")) is not None:
        cells = [numbers.percent(means["before"]["accuracy"]), numbers.percent(record.control("accuracy"))]
        table.add_row(
            "control: public records alone", "", *(cells if with_accuracy else []),
            numbers.loss(means["before"]["nll"]), numbers.loss(control),
            numbers.change(means["before"]["nll"], control),
        )  # fmt: skip
    return table


def promise_table(record: RunRecord) -> Table | str:
    """Epsilon per observer, under the unit, relation and delta that it is about."""
    if record.unaccounted:
        return f"What this run released cannot be accounted: {record.unaccounted}"
    if not record.observers:
        return "No privacy statement yet: nothing was released."
    what = "ε so far, per observer" if record.so_far else "ε per observer"
    return epsilon_table(f"{what} ({promise_words(record.promise)})", record.observers)


def epsilon_table(title: str, rows: Sequence[ObserverRow]) -> Table:
    """One row an observer, with the accountants that cross-check the headline."""
    table = _table(title)
    table.add_column("observer")
    table.add_column("ε", justify="right", style="bold")
    table.add_column("method")
    with_rdp = any(row.rdp is not None for row in rows)
    with_clt = any(row.clt is not None for row in rows)
    if with_rdp:
        table.add_column("RDP (looser bound)", justify="right")
    if with_clt:
        table.add_column("CLT (no bound)", justify="right")
    table.add_column("sees")
    for row in rows:
        sees = row.description if row.inside else f"{row.description} – beyond the trust model"
        if row.epsilon is None and row.reason:
            sees = f"{sees}. No finite ε: {row.reason}"
        checks = [numbers.epsilon(row.rdp) if row.rdp is not None else numbers.NOTHING] if with_rdp else []
        checks += [numbers.number(row.clt)] if with_clt else []
        table.add_row(row.name, numbers.epsilon(row.epsilon), row.method, *checks, sees)
    notes = {row.clt_note for row in rows if row.clt is not None and row.clt_note}
    if notes:
        table.caption = plain_lines(f"CLT: {'; '.join(sorted(notes))}. The guarantee is the column ε.")
    return table


def stage_table(stages: Sequence[Mapping[str, Any]], about: str) -> Table | str:
    """What each kind of release costs by itself; nothing if there is one kind only.

    Args:
        stages: Rows as in ``privacy.json``.
        about: Unit, relation and delta.
    """
    if not stages:
        return ""
    table = _table(f"ε of each stage by itself, against the {stages[0]['observer']} ({about})")
    for name in ("stage", "releases", "noise multiplier", "ε", "method"):
        table.add_column(name, justify="left" if name in ("stage", "method") else "right")
    for row in stages:
        value = None if row["value"] == "none" else float(row["value"])
        noise = numbers.number(row["noise_multiplier"])
        table.add_row(row["name"], str(row["count"]), noise, numbers.epsilon(value), row["method"])
    table.caption = "The promise is ε of all stages composed, in the table above: less than the sum of these."
    return table


def promise_words(promise: Mapping[str, Any]) -> str:
    """Unit, relation and delta, as a title names them."""
    delta = numbers.delta(promise["delta"])
    return f"unit {promise['unit']}, relation {promise['relation']}, δ = {delta}"


def cost_lines(record: RunRecord) -> str:
    """Bytes, seconds, and where everything lies."""
    parties = len({party for row in record.rounds for party in row.get("survivors", [])})
    among = f" over {parties} clients" if parties else ""
    lines = [
        ("rounds", f"{len(record.rounds)} of {record.planned_rounds}"),
        ("up", f"{numbers.size(record.bytes_up)}{among}"),
        ("down", numbers.size(record.bytes_down)),
        ("time", numbers.duration(record.seconds)),
        ("adapter", str(record.adapter) if record.adapter.exists() else "none yet"),
        (
            "report",
            str(record.folder / "report.html") if (record.folder / "report.html").exists() else "none yet",
        ),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in lines)


def runs_table(records: Sequence[RunRecord]) -> Table:
    """One row a run, for ``ls``."""
    table = _table(None)
    for name in ("run", "system", "state"):
        table.add_column(name)
    for name in ("rounds", "loss before", "after", "ε (worst observer)"):
        table.add_column(name, justify="right")
    table.add_column("for")
    for record in records:
        table.add_row(
            record.name, record.system, record.state, f"{len(record.rounds)}/{record.planned_rounds}",
            numbers.loss(record.mean("before", "nll")), numbers.loss(record.mean("after", "nll")),
            *worst_cells(record),
        )  # fmt: skip
    return table


COMPARED = (
    "run", "system", "ε (worst observer)", "for", "rounds",
    "accuracy before", "accuracy after", "loss before", "loss after", "up", "down", "time",
)  # fmt: skip
TEXT_COLUMNS = frozenset({"run", "system", "for"})


def compared_cells(record: RunRecord) -> list[str]:
    """The cells of a run under the heads ``COMPARED``."""
    return [
        record.name,
        record.system,
        *worst_cells(record),
        f"{len(record.rounds)}/{record.planned_rounds}",
        *(numbers.percent(record.mean(when, "accuracy")) for when in ("before", "after")),
        *(numbers.loss(record.mean(when, "nll")) for when in ("before", "after")),
        numbers.size(record.bytes_up),
        numbers.size(record.bytes_down),
        numbers.duration(record.seconds),
    ]


def compare_table(records: Sequence[RunRecord]) -> Table:
    """Runs side by side, one column a run."""
    table = _table("Accuracy and loss are means over silos")
    columns = [compared_cells(record) for record in records]
    table.add_column(COMPARED[0])
    for cells in columns:
        table.add_column(cells[0], justify="right")
    for row, name in enumerate(COMPARED[1:], start=1):
        table.add_row(name, *(cells[row] for cells in columns))
    return table


def compare_markdown(records: Sequence[RunRecord]) -> str:
    """The same as a Markdown table, for a README."""
    rule = ["---" if name in TEXT_COLUMNS else "--:" for name in COMPARED]
    rows = [list(COMPARED), rule, *(compared_cells(record) for record in records)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def worst_cells(record: RunRecord) -> list[str]:
    """The guarantee's epsilon, and what it is about."""
    worst, promise = record.worst, record.promise
    if record.unaccounted:
        return ["unknown", "the checkpoint cannot be read"]
    if worst is None:
        return [numbers.NOTHING, numbers.NOTHING]
    value = numbers.epsilon(worst.epsilon) + (" so far" if record.so_far else "")
    if promise["unit"] is None:
        return [value, worst.name]
    about = f"{worst.name}, {promise['unit']}, {promise['relation']}, δ {numbers.delta(promise['delta'])}"
    return [value, about]


def audit_table(found: Mapping[str, Any]) -> Table:
    """What attacks found, a row each; positive controls are marked."""
    table = _table(f"Attacks, suite {found['suite']} ({numbers.duration(found['seconds'])})")
    for name in ("attack", "on", "metric"):
        table.add_column(name)
    table.add_column("value [95 % interval]", justify="right")
    table.add_column("beside", justify="right")
    table.add_column("verdict")
    for row in found["findings"]:
        table.add_row(
            row["attack"], row["setting"], row["metric"], numbers.with_interval(row["value"], row["low"], row["high"]),
            numbers.number(row["compared"]), row["verdict"] + (" (control)" if row["control"] else ""),
            style="bold red" if row["verdict"] == "alarm" else None,
        )  # fmt: skip
    return table


def facts_table(title: str | None, facts: Mapping[str, Any]) -> Table:
    """Names and values."""
    table = _table(title, header=False)
    table.add_column("what")
    table.add_column("value")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def _accuracy(row: Mapping[str, Any]) -> str:
    return numbers.percent_interval(row.get("accuracy"), row.get("accuracy_low"), row.get("accuracy_high"))


class _Plain(Table):
    """A table whose cells are what they are: no markup, and nothing that moves a cursor."""

    def add_column(self, header: Any = "", *more: Any, **options: Any) -> None:
        super().add_column(_text(header), *more, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_text, cells), **options)


def _text(cell: Any) -> Any:
    return Text(plain_lines(cell)) if isinstance(cell, str) else cell


def _table(title: str | None, *, header: bool = True) -> Table:
    return _Plain(
        title=None if title is None else plain_lines(title),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=header,
        pad_edge=False,
    )
