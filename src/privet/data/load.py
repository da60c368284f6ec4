"""From the ``data`` section of a configuration to silos, test records and a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from privet.data.near_duplicates import near_duplicates
from privet.data.partition import FILE_COLUMN, Held, partition
from privet.data.records import DataReport, Dataset, Record, Silo, copies
from privet.data.sentiment import read_sentiment
from privet.data.sources import Broken, Row, rows_of_files, rows_of_hub
from privet.data.split import PARTS, Part, part_of
from privet.data_config import (
    BlockPartition,
    ClassificationTemplate,
    ColumnPartition,
    CsvData,
    DataConfig,
    FilePartition,
    HuggingFaceData,
    JsonlData,
    ParquetData,
    SentimentData,
    Template,
)
from privet.fetch import Progress, sentiment_dir
from privet.templates import LabelError, RowError, choices, content, group_of, is_blank, plain_label, render

_LABELS = 5
_LONG = 24


@dataclass(frozen=True)
class _Entry:
    """A record and what it says, without the template's words."""

    record: Record
    text: str


@dataclass
class _Collected:
    """Records before they are held out and partitioned; ``fixed`` are those whose part is given."""

    source: str
    entries: list[_Entry] = field(default_factory=list)
    fixed: dict[Part, list[_Entry]] = field(default_factory=dict)
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Read, render, hold out and partition.

    Args:
        config: The ``data`` section.
        progress: Told what goes on when the embedded data have to be fetched first.

    Raises:
        PrivetError: for files that are missing or broken (with the lines), a silo without records, or a
            partition that does not fit the data.
    """
    collected = _sentiment(config, progress) if isinstance(config, SentimentData) else _user_data(config)
    if config.remove_near_duplicates:
        _remove_near_duplicates(collected)
    parts = _hold_out(collected, config)
    public_test = {"test": parts.pop("test")} if config.test_public else {}
    public = parts.pop("public")
    held = partition(parts, config.partition)
    partitioned = sum(len(records) for part in held.values() for records in part.values())
    if left := sum(map(len, parts.values())) - partitioned:
        collected.dropped["in groups below minimum_records"] = left
    test = _by_topic(public_test["test"], config) if public_test else _filled(held["test"])
    silos = [Silo(name, records) for name, records in held["train"].items()]
    validation = _filled(held["validation"])
    dataset = Dataset(silos, test, config.test_public, validation, public, DataReport(collected.source))
    return replace(dataset, report=_report(collected, dataset, config.template))


def load_public(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Only what is declared public, for a machine that holds no private record: no file of a silo is opened.

    Args:
        config: The ``data`` section.
        progress: See `load`.

    Raises:
        PrivetError: for files that are missing or broken.
    """
    if isinstance(config, SentimentData):
        whole = load(config, progress)  # published as a whole
        return replace(whole, silos=[], validation={})
    collected, rows = _Collected("public records"), dict[Part, Sequence[Row]]()
    if isinstance(config, HuggingFaceData):
        if config.test_public and config.test_split is not None:
            rows["test"] = rows_of_hub(config, config.test_split, "data.test_split")
    else:
        if config.test_public and config.test_path is not None:
            rows["test"] = rows_of_files(config.test_path, config, "data.test_path")
        if config.public_path is not None:
            rows["public"] = rows_of_files(config.public_path, config, "data.public_path")
    for part, found in rows.items():
        collected.fixed[part] = _render_all(found, config, f"{part}/")
    held = {part: [entry.record for entry in entries] for part, entries in collected.fixed.items()}
    collected.rows = sum(map(len, held.values()))
    test = _by_topic(held.get("test", []), config)
    dataset = Dataset([], test, config.test_public, {}, held.get("public", []), DataReport(collected.source))
    return replace(dataset, report=_report(collected, dataset, config.template))


def _sentiment(config: SentimentData, progress: Progress | None) -> _Collected:
    folder = sentiment_dir(progress)
    collected = _Collected("sentiment")
    weak = 0
    for domain in config.domains:
        for row, group in read_sentiment(folder, domain):
            collected.rows += 1
            score = row.columns["score"]
            if score == 0 or abs(score) < config.minimum_score:
                weak += 1
            else:
                record = render(row.columns, config.template, record_id=row.id, group=group, own_id=True)
                collected.entries.append(_Entry(record, row.columns["text"]))
    collected.dropped[f"absolute score under {config.minimum_score:g}, or zero"] = weak
    return collected


def _user_data(config: JsonlData | CsvData | ParquetData | HuggingFaceData) -> _Collected:
    if isinstance(config, HuggingFaceData):
        collected = _Collected(config.name)
        rows = {"train": rows_of_hub(config, config.train_split, "data.train_split")}
        if config.test_split is not None:
            rows["test"] = rows_of_hub(config, config.test_split, "data.test_split")
    else:
        collected = _Collected(config.path)
        rows = {"train": rows_of_files(config.path, config, "data.path")}
        if config.test_path is not None:
            rows["test"] = rows_of_files(config.test_path, config, "data.test_path")
        if config.public_path is not None:
            rows["public"] = rows_of_files(config.public_path, config, "data.public_path")
    collected.rows = sum(map(len, rows.values()))
    collected.entries = _render_all(rows["train"], config, "")
    parts: tuple[Part, ...] = ("test", "public")
    for part in parts:
        if part in rows:
            collected.fixed[part] = _render_all(rows[part], config, f"{part}/")
    return collected


def _render_all(
    rows: Sequence[Row], config: JsonlData | CsvData | ParquetData | HuggingFaceData, prefix: str
) -> list[_Entry]:
    broken = Broken("data")
    entries, labels = [], list[str]()
    for row in rows:
        try:
            group = group_of(row.columns, config.split.group)
            record = render(row.columns, config.template, record_id=prefix + row.id, group=group)
            entries.append(_Entry(record, content(row.columns, config.template)))
        except RowError as error:
            broken.add(row.place, str(error))
            if isinstance(error, LabelError):
                labels.append(error.label)
    if labels and isinstance(config.template, ClassificationTemplate):
        _explain(broken, list(dict.fromkeys(labels)), list(config.template.verbalisers))
    broken.check()
    return entries


def _explain(broken: Broken, found: Sequence[str], allowed: Sequence[str]) -> None:
    """Beside the rows, which labels they hold: the data lie on this machine, and no other is told."""
    more = [f"and {len(found) - _LABELS} more"] if len(found) > _LABELS else []
    short = [repr(label if len(label) <= _LONG else f"{label[:_LONG]}…") for label in found[:_LABELS]]
    broken.found = "labels without one: " + ", ".join(short + more)
    broken.allowed = "labels " + ", ".join(map(repr, allowed))
    plain = {plain_label(label): label for label in allowed}
    alike = next((label for label in found if plain_label(label) in plain), None)
    if alike is not None:
        broken.hint = (
            f"{alike!r} and {plain[plain_label(alike)]!r} differ by case or blanks only, and labels are compared "
            "exactly: spell them alike, in the data or under data.template.verbalisers"
        )


def _remove_near_duplicates(collected: _Collected) -> None:
    loose = [i for i, entry in enumerate(collected.entries) if entry.record.group is None]
    removed = {loose[i] for i in near_duplicates([collected.entries[i].text for i in loose])}
    collected.entries = [entry for i, entry in enumerate(collected.entries) if i not in removed]
    collected.dropped["near-duplicate of a record without group"] = len(removed)


def _hold_out(collected: _Collected, config: DataConfig) -> dict[Part, list[Record]]:
    # Separate test data replace what would be cut off; declared public data add to it.
    split = config.split.model_copy(update={"test": 0.0}) if "test" in collected.fixed else config.split
    parts: dict[Part, list[Record]] = {part: [] for part in PARTS}
    for part, entries in collected.fixed.items():
        parts[part] += [entry.record for entry in entries]
    for entry in collected.entries:
        parts[part_of(entry.record.group, entry.text, split)].append(entry.record)
    return parts


def _by_topic(records: Sequence[Record], config: DataConfig) -> Held:
    """Public test records by what is worth telling apart, whoever the silos are."""
    column: str | None
    if isinstance(config.partition, ColumnPartition | BlockPartition):
        column = config.partition.column
    elif isinstance(config.partition, FilePartition):
        column = FILE_COLUMN
    else:
        column = "domain" if isinstance(config, SentimentData) else None
    topics: Held = {}
    for record in records:
        topics.setdefault("all" if column is None else str(record.fields.get(column)), []).append(record)
    return topics


def _filled(held: Held) -> Held:
    return {name: records for name, records in held.items() if records}


def _report(collected: _Collected, dataset: Dataset, template: Template) -> DataReport:
    names = choices(template)
    records = [record for silo in dataset.silos for record in silo.records]
    held_out = [r for part in (dataset.test, dataset.validation) for held in part.values() for r in held]
    labels = Counter(record.label for record in records if record.label is not None)
    groups = {record.group for record in (*records, *held_out, *dataset.public)} - {None}
    return DataReport(
        source=collected.source,
        rows=collected.rows,
        dropped=collected.dropped,
        train={silo.name: len(silo) for silo in dataset.silos},
        test={name: len(held) for name, held in dataset.test.items()},
        validation={name: len(held) for name, held in dataset.validation.items()},
        public=len(dataset.public),
        groups=len(groups),
        labels={names[label].strip(): count for label, count in sorted(labels.items())},
        blank=sum(is_blank(record, template) for record in records),
        copies=sum(copies(silo.records) for silo in dataset.silos),
    )
