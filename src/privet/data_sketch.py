"""A first look at somebody's own files, so that ``privet init --data`` can write a ``data`` section that fits them.

It reads the first rows and proposes; the person who owns the data decides. Nothing it reads is shown or kept but the
columns' names and, for a classification, the labels.
"""

from __future__ import annotations

import csv
import glob
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import PrivetError

ROWS = 2000
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
        records: How many records there are; at most those of the first rows, for Parquet.
        columns: Columns of the first rows.
        template: A proposal for ``data.template``.
        partition: A proposal for ``data.partition``.
        group: Column that seems to say which records belong together.
    """

    kind: str
    path: str
    files: int
    records: int
    columns: tuple[str, ...]
    template: dict[str, Any]
    partition: dict[str, Any]
    group: str | None


def sketch(pattern: str) -> DataSketch:
    """Look at the files that ``pattern`` names.

    Raises:
        PrivetError: if there are none, they are of an unknown kind, or their columns fit no template.
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
    try:
        rows = list(itertools.islice(_rows(paths, kind), ROWS))
    except (ValueError, UnicodeDecodeError):
        raise PrivetError(
            f"is no {kind} in UTF-8",
            field=str(paths[0]),
            hint="docs/tutorial.md shows what a file looks like",
        ) from None
    if not rows:
        raise PrivetError("has no rows", field=str(paths[0]), allowed="one record a line")
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    group = next((name for name in GROUP_COLUMNS if name in columns), None)
    template = _template(rows, columns)
    partition = _partition(len(paths), columns)
    records = len(rows) if len(rows) < ROWS else max(ROWS, _lines(paths, kind))
    return DataSketch(kind, pattern, len(paths), records, columns, template, partition, group)


def _rows(paths: list[Path], kind: str) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        if kind == "parquet":
            yield from _parquet(path)
            continue
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind == "csv":
                yield from csv.DictReader(file)
                continue
            for line in file:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError
                    yield row


def _lines(paths: list[Path], kind: str) -> int:
    """Lines of text files, an upper bound on their records."""
    if kind == "parquet":
        return 0
    count = 0
    for path in paths:
        with path.open("rb") as file:
            count += sum(1 for line in file if line.strip())
    return count


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise PrivetError(
            "Parquet needs pyarrow", field=str(path), hint="pip install 'privet[data]', or convert to JSONL"
        ) from None
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=ROWS):
        yield from batch.to_pylist()


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
        labels = list(dict.fromkeys(str(row[label]) for row in rows if row.get(label) is not None))
        if 2 <= len(labels) <= MOST_LABELS:
            words = {name: f" {name}" for name in sorted(labels)}
            return {
                "kind": "classification",
                "prompt": f"{{{text}}}\nLabel:",
                "label": label,
                "verbalisers": words,
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


def _partition(files: int, columns: tuple[str, ...]) -> dict[str, Any]:
    if files > 1:
        return {"kind": "file"}
    column = next((name for name in SILO_COLUMNS if name in columns), None)
    return {"kind": "column", "column": column} if column else {"kind": "iid", "silos": 4}
