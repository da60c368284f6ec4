"""A first look at somebody's own files, so that ``privet init --data`` can write a ``data`` section that fits them.

It reads the first rows of each file and proposes; the person who owns the data decides. Nothing it reads is shown or
kept but the columns' names and, for a classification, the labels.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.data.sources import (
    Broken,
    csv_header,
    missing_extra,
    other_delimiters,
    read_csv,
    read_jsonl,
    unreadable,
)
from privet.errors import PrivetError
from privet.sealing.base import FEWEST_PARTIES
from privet.templates import RowError, plain_label, text_of
from privet.values import as_text

ROWS = 2000
LEAST_ROWS = 100
MOST_LABELS = 20
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
SILO_COLUMNS = ("silo", "site", "hospital", "bank", "organisation", "organization", "client", "branch")
GROUP_COLUMNS = ("patient_id", "patient", "person_id", "person", "user_id", "user", "author", "group")
PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"))


@dataclass(frozen=True)
class DataSketch:
    """What the first rows look like.

    Attributes:
        kind: ``jsonl``, ``csv`` or ``parquet``.
        path: The pattern as it was given.
        files: How many files it names.
        records: How many records there are, or for text files that were not read to their ends, lines.
        columns: Columns of the first rows.
        template: A proposal for ``data.template``.
        partition: A proposal for ``data.partition``.
        group: Column that seems to say which records belong together.
        delimiter: What stands between the columns of CSV.
        silos: How many silos the partition makes, where that is known.
        warnings: What is odd about the labels.
    """

    kind: str
    path: str
    files: int
    records: int
    columns: tuple[str, ...]
    template: dict[str, Any]
    partition: dict[str, Any]
    group: str | None
    delimiter: str = ","
    silos: int | None = None
    warnings: tuple[str, ...] = ()


def sketch(pattern: str) -> DataSketch:
    """Look at the files that ``pattern`` names.

    Raises:
        PrivetError: if there are none, they are of an unknown kind, a row is broken, or their columns fit no template.
    """
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not paths:
        raise PrivetError(
            "no such file", field="--data", given=pattern, hint="check the path or quote the pattern"
        )
    kind = KINDS.get(paths[0].suffix.lower())
    if kind is None:
        raise PrivetError(
            "unknown kind of file", field="--data", given=paths[0].name, allowed="*.jsonl, *.csv, *.parquet"
        )
    for path in paths:
        if KINDS.get(path.suffix.lower()) != kind:
            raise PrivetError(
                "is of another kind than the first",
                field=str(path),
                given=f"{path.suffix or 'no ending'} beside {paths[0].name}",
                hint="files of one kind, e.g. --data 'sites/*.jsonl' (quoted)",
            )
    delimiter = _delimiter(paths[0], kind)
    found = [_first_rows(path, kind, delimiter, max(LEAST_ROWS, ROWS // len(paths))) for path in paths]
    rows, whole = [row for part, _ in found for row in part], all(ended for _, ended in found)
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    group = next((name for name in GROUP_COLUMNS if name in columns), None)
    template = _template(rows, columns)
    partition = _partition(len(paths), columns)
    records = len(rows) if whole else max(len(rows), _lines(paths, kind))
    return DataSketch(
        kind,
        pattern,
        len(paths),
        records,
        columns,
        template,
        partition,
        group,
        delimiter,
        _silos(partition, rows, len(paths), whole),
        tuple(_warnings(rows, template)),
    )


def _delimiter(path: Path, kind: str) -> str:
    """The comma, unless it leaves the header in one piece and another mark does not."""
    if kind != "csv":
        return ","
    try:
        return next(iter(other_delimiters(csv_header(path))), ",")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error, "--data") from error


def _first_rows(path: Path, kind: str, delimiter: str, most: int) -> tuple[list[Mapping[str, Any]], bool]:
    """The first rows of one file, read as a run reads them, and whether these are all.

    Raises:
        PrivetError: if there are none, or a row among them is broken; with the file and the lines.
    """
    broken = Broken(str(path))
    broken.hint = "mend or remove these lines; docs/tutorial.md shows what a file looks like"
    found: Iterator[Mapping[str, Any]]
    if kind == "parquet":
        found = _parquet(path)
    else:
        lines = read_csv(path, delimiter, broken) if kind == "csv" else read_jsonl(path, broken)
        found = (row for _, row in lines)
    try:
        rows = list(itertools.islice(found, most))
        ended = next(found, None) is None
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error, "--data") from error
    broken.check()
    if not rows:
        raise PrivetError(
            "has no rows", field=str(path), allowed="one record a line", hint="fill it, or name other files"
        )
    return rows, ended


def _lines(paths: list[Path], kind: str) -> int:
    """Lines of text files, an upper bound on their records; the rows that Parquet files say they have."""
    if kind == "parquet":
        return sum(_parquet_file(path).metadata.num_rows for path in paths)
    count = 0
    for path in paths:
        with path.open("rb") as file:
            count += sum(1 for line in file if line.strip())
    return count


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    file = _parquet_file(path)
    with _readable_parquet(path):
        for batch in file.iter_batches(batch_size=ROWS):
            yield from batch.to_pylist()


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    with _readable_parquet(path):
        return parquet.ParquetFile(path)


@contextlib.contextmanager
def _readable_parquet(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise PrivetError(
            "this is not a Parquet file that can be read", field=str(path), hint="write it again"
        ) from error


def _template(rows: list[Mapping[str, Any]], columns: tuple[str, ...]) -> dict[str, Any]:
    if "messages" in columns:
        return {"kind": "chat", "messages": "messages"}
    label = next(
        (name for name in ("label", "labels", "class", "category", "target") if name in columns), None
    )
    text = next(
        (name for name in ("text", "sentence", "content", "document", "note", "body") if name in columns),
        None,
    )
    if label and text:
        labels = sorted({found for row in rows if (found := _label(row, label))})
        if 2 <= len(labels) <= MOST_LABELS:
            return {
                "kind": "classification",
                "prompt": f"{{{text}}}\nLabel:",
                "label": label,
                "verbalisers": {name: f" {name}" for name in labels},
            }
    for prompt, completion in PAIRS:
        if prompt in columns and completion in columns:
            # The space is part of the completion: most tokenizers begin a word with it.
            return {"kind": "prompt", "prompt": f"{{{prompt}}}\n", "completion": f"{{{completion}}}"}
    if text:
        return {"kind": "prompt", "prompt": "", "completion": f"{{{text}}}"}
    raise PrivetError(
        "no template fits these columns",
        field="--data",
        given=", ".join(columns),
        allowed="prompt and completion, text and label, messages, or text",
        hint="run `privet init` without --data and write the template with your columns' names",
    )


def _label(row: Mapping[str, Any], column: str) -> str:
    """A row's label as a run reads it; empty if there is none."""
    try:
        label = text_of(row, column)
    except RowError:
        return ""
    return label if label.strip() else ""


def _warnings(rows: list[Mapping[str, Any]], template: Mapping[str, Any]) -> list[str]:
    """What is odd about the labels, without numbers: how many rows there are is private."""
    if template["kind"] != "classification":
        return []
    column, found = template["label"], []
    if not all(_label(row, column) for row in rows):
        found.append(f"Some rows have no label in column '{column}': mend or remove them before a run.")
    alike: dict[str, list[str]] = {}
    for label in template["verbalisers"]:
        alike.setdefault(plain_label(label), []).append(label)
    found += [
        f"The labels {', '.join(map(repr, labels))} differ by case or blanks only: each counts as a label of its own "
        "here. Spell them alike in the data, and leave one."
        for labels in alike.values()
        if len(labels) > 1
    ]
    return found


def _silos(
    partition: Mapping[str, Any], rows: list[Mapping[str, Any]], files: int, whole: bool
) -> int | None:
    """How many silos there will be, if the rows that were looked at tell."""
    if partition["kind"] == "file":
        return files
    if partition["kind"] == "iid":
        return int(partition["silos"])
    seen = len({as_text(row.get(partition["column"])) for row in rows} - {None, ""})
    return seen if whole or seen >= FEWEST_PARTIES else None


def _partition(files: int, columns: tuple[str, ...]) -> dict[str, Any]:
    if files > 1:
        return {"kind": "file"}
    column = next((name for name in SILO_COLUMNS if name in columns), None)
    return {"kind": "column", "column": column} if column else {"kind": "iid", "silos": 4}
