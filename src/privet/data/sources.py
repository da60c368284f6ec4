"""Rows out of JSONL, CSV, Parquet and Hugging Face data sets, each with an identity and a place in its file.

A broken row is an error that lists the lines of all of them; it never quotes what a row says, labels apart.
"""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from privet.data.partition import FILE_COLUMN
from privet.data_config import CsvData, HuggingFaceData, JsonlData, ParquetData
from privet.errors import PrivetError

_TOGETHER = 4096
"""Rows of Parquet that are made into Python's at once."""
_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        id: Unique in the data set.
        place: Where to find it, for messages, e.g. ``line 7``.
        columns: Its values by column.
    """

    id: str
    place: str
    columns: Mapping[str, Any]


class Broken:
    """Collects what is wrong with the rows of a file, to report all of it at once.

    Args:
        source: The file.
        left_out: Where broken rows are put down, if they are to be left out; else one of them refuses the file.

    Attributes:
        allowed: What the configuration takes, for the message, where that helps.
        found: What all of them have in common, told after the rows.
        hint: The next step.
    """

    def __init__(self, source: str, left_out: list[str] | None = None) -> None:
        self.source, self._left_out = source, left_out
        self.allowed: str | None = None
        self.found: str | None = None
        self.hint = "mend or remove these lines; rows are never skipped silently"
        self._rows: list[str] = []

    @property
    def decoding(self) -> str:
        """Where each row stands for itself, a bad byte spoils the characters that it is in and nothing else."""
        return "strict" if self._left_out is None else "replace"

    def add(self, place: str, what: str) -> None:
        """Note one broken row."""
        self._rows.append(f"{place}: {what}")

    def check(self) -> None:
        """Raise if any row is broken.

        Raises:
            PrivetError: with the place and the reason of up to 20 rows, and how many there are.
        """
        if self._left_out is not None:
            self._left_out += self._rows
            return
        if not self._rows:
            return
        more = len(self._rows) - _SHOWN
        shown = self._rows[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        shown += [self.found] if self.found else []
        raise PrivetError(
            _count(len(self._rows), "broken row"),
            field=self.source,
            given="; ".join(shown),
            allowed=self.allowed,
            hint=self.hint,
        )


def rows_of_files(
    pattern: str,
    config: JsonlData | CsvData | ParquetData,
    field: str,
    left_out: list[str] | None = None,
) -> list[Row]:
    """All rows of the files that ``pattern`` names, in the order of the files' names.

    Args:
        pattern: A path or a glob pattern.
        config: Says how files are read.
        field: Name of the setting, for messages.
        left_out: Where broken rows are put down; then neither they nor a file without rows are errors.

    Raises:
        PrivetError: if there is no such file, it cannot be read, or a row is broken.
    """
    paths = [Path(p) for p in sorted(glob.glob(pattern, recursive=True)) if Path(p).is_file()]
    if not paths:
        raise PrivetError(
            "no such file",
            field=field,
            given=pattern,
            hint=f"check the path; it is taken from {Path.cwd()} unless it begins with a slash",
        )
    names = [path.stem for path in paths]
    if len(set(names)) != len(names):
        names = [path.as_posix() for path in paths]
    rows: list[Row] = []
    for path, name in zip(paths, names, strict=True):
        broken = Broken(str(path), left_out)
        if isinstance(config, JsonlData):
            found = read_jsonl(path, broken)
        elif isinstance(config, CsvData):
            found = read_csv(path, config.delimiter, broken)
        else:
            found = _parquet(path, broken)
        before = len(rows)
        try:
            rows += [
                Row(f"{name}:{n}", f"{path.name} line {n}", {**row, FILE_COLUMN: name}) for n, row in found
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(path, error, field) from error
        broken.check()
        if len(rows) == before and left_out is None:
            raise PrivetError(
                "the file has no records",
                field=field,
                given=path,
                hint="a file that is a silo's would leave it without records: fill it, or take it out of the pattern",
            )
    return rows


def unreadable(path: Path, error: OSError | UnicodeDecodeError, field: str) -> PrivetError:
    """The error of a file that cannot be opened or is no text, with the line where that shows."""
    if isinstance(error, UnicodeDecodeError):
        line, hint = _undecodable_line(path), "convert it to UTF-8"
        return PrivetError("the file is not UTF-8 text", field=field, given=f"{path} line {line}", hint=hint)
    return PrivetError("the file cannot be read", field=field, given=path, hint="check its rights")


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def read_jsonl(path: Path, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSONL file with their lines, as they are asked for.

    Args:
        path: The file.
        broken: Told of every row that is none; the caller checks it in the end.
    """
    with path.open(encoding="utf-8-sig", errors=broken.decoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                if isinstance(error, json.JSONDecodeError):
                    what = f" at column {error.colno}"
                else:
                    what = f": {error}" if isinstance(error, ValueError) else ""
                broken.add(f"line {number}", f"not valid JSON{what}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                broken.add(f"line {number}", f"a JSON {type(row).__name__} where an object is needed")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; the parser would silently take the last of two."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key stands twice")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


DELIMITERS = ";\t|,"
"""What stands between columns where it is not what the configuration says."""


LONGEST_VALUE = 1 << 20
"""Characters that a value of a CSV file may have. An open quote takes so much with it at most."""


def read_csv(path: Path, delimiter: str, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV file with the lines where they begin, as they are asked for.

    Args:
        path: The file.
        delimiter: What stands between columns.
        broken: Told of every row that is none; the caller checks it in the end.

    Raises:
        PrivetError: if the first line does not name the columns.
    """
    csv.field_size_limit(LONGEST_VALUE)  # the parser's own limit, 128 KiB, is less than a long document
    with path.open(encoding="utf-8-sig", newline="", errors=broken.decoding) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = _header(reader, path)
        others = other_delimiters(header)
        if others:
            raise PrivetError(
                "the first line is one column whose name holds what looks like a delimiter",
                field=str(path),
                given=f"{header[0][:80]!r}, read with data.delimiter {delimiter!r}",
                hint=f"set data.delimiter: {json.dumps(others[0])}",
            )
        while True:
            start = reader.line_num + 1  # a quoted value may span lines: the row begins here
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                broken.add(f"line {start}", _csv_mistake(error, reader.line_num - start))
                continue
            if len(values) == len(header):
                yield start, dict(zip(header, values, strict=True))
            elif values:
                broken.add(
                    f"line {start}", f"{_count(len(values), 'value')} for {_count(len(header), 'column')}"
                )


def csv_header(path: Path) -> list[str]:
    """The first line of a CSV file, taken apart at commas.

    Raises:
        PrivetError: if it does not name the columns.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _header(csv.reader(file, strict=True), path)


def other_delimiters(header: Sequence[str]) -> list[str]:
    """What may stand between the columns instead, if the header looks like one column."""
    return [mark for mark in DELIMITERS if mark in header[0]] if len(header) == 1 else []


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(reader, None)
    except csv.Error:
        header = None
    if not header or len(set(header)) != len(header):
        raise PrivetError(
            "two columns have the same name" if header else "the first line does not name the columns",
            field=str(path),
            hint="CSV needs a header line with distinct names",
        )
    return header


def _csv_mistake(error: csv.Error, more: int) -> str:
    """What a person has to look for; an open quote swallows lines, and the parser only sees where that ends."""
    if str(error) == "unexpected end of data":
        opened = "a quote opens in this row and is never closed"
        return f"{opened}: the {_count(more, 'line')} after it went with it" if more > 0 else opened
    swallowed = f", in the {_count(more, 'line')} that a quote in this row took with it" if more > 0 else ""
    if str(error).startswith("field larger"):
        return f"a value of more than {LONGEST_VALUE} characters{swallowed}"
    return f"not valid CSV ({error}{swallowed})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _parquet(path: Path, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise PrivetError(
            "this is not a Parquet file that can be read", field=str(path), hint="write it again"
        ) from error
    for start in range(0, table.num_rows, _TOGETHER):
        for number, row in enumerate(_rows_of(table.slice(start, _TOGETHER)), start=start + 1):
            if row is None:
                broken.add(f"line {number}", "a value that cannot be read")
            else:
                yield number, row


def _rows_of(table: Any) -> list[dict[str, Any] | None]:
    """Rows of a part of a table; ``None`` for one that cannot be read: a time beyond Python's, text that is none."""
    try:
        return list(table.to_pylist())
    except Exception:  # each type of Arrow's raises what it likes
        if table.num_rows == 1:
            return [None]
        half = table.num_rows // 2
        return [*_rows_of(table.slice(0, half)), *_rows_of(table.slice(half))]


def rows_of_hub(config: HuggingFaceData, split: str, field: str) -> list[Row]:
    """All rows of one split of a Hugging Face data set.

    Raises:
        PrivetError: if it cannot be loaded or has no such split.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "huggingface") from error
    try:
        if Path(config.name).is_dir() and (
            (Path(config.name) / "dataset_dict.json").exists() or (Path(config.name) / "state.json").exists()
        ):
            loaded = datasets.load_from_disk(config.name)
        else:
            loaded = datasets.load_dataset(config.name, config.configuration, revision=config.revision)
    except (
        Exception
    ) as error:  # the library raises dozens of kinds, from requests, fsspec, pyarrow and its own
        raise PrivetError(
            f"the data set cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
            if str(error)
            else f"the data set cannot be loaded ({type(error).__name__})",
            field="data.name",
            given=config.name,
            hint="check name, configuration and network; without a network, use a folder from `save_to_disk`",
        ) from error
    if hasattr(loaded, "keys"):
        if split not in loaded:
            raise PrivetError(
                "the data set has no such split", field=field, given=split, allowed=", ".join(loaded.keys())
            )
        loaded = loaded[split]
    return [Row(f"{split}:{n}", f"row {n}", dict(row)) for n, row in enumerate(loaded)]


def missing_extra(package: str, kind: str) -> PrivetError:
    """The error of data that need a package which is not installed."""
    return PrivetError(
        f"data of kind {kind} need the package {package}",
        field="data.kind",
        given=kind,
        hint="pip install 'privet[data]'",
    )
