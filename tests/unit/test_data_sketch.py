"""A first look at somebody's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from privet.config import parse
from privet.data.load import load
from privet.data_sketch import ROWS, sketch
from privet.errors import PrivetError
from privet.init_template import template


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt"),
        ({"question": "a", "answer": "b", "site": "x"}, "prompt"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "chat"),
        ({"text": "a"}, "prompt"),
    ],
)
def test_templates_follow_the_columns_and_validate(row: dict[str, Any], kind: str, tmp_path: Path) -> None:
    found = sketch(str(write(tmp_path / "data.jsonl", [row] * 3)))
    assert found.template["kind"] == kind
    assert found.partition == (
        {"kind": "column", "column": "site"} if "site" in row else {"kind": "iid", "silos": 4}
    )
    parse(yaml.safe_load(template("hedge", found)))


def test_labels_become_verbalisers_unless_they_are_too_many(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "yes" if i % 2 else "no"} for i in range(8)]
    found = sketch(str(write(tmp_path / "few.jsonl", rows)))
    assert found.template["verbalisers"] == {"no": " no", "yes": " yes"}
    parse(yaml.safe_load(template("dp_lora", found)))
    rows = [{"text": f"t{i}", "label": str(i)} for i in range(50)]
    assert sketch(str(write(tmp_path / "many.jsonl", rows))).template["kind"] == "prompt"


@pytest.mark.parametrize(
    ("values", "labels"),
    [((True, False), ["false", "true"]), ((0.0, 1.0), ["0", "1"]), ((0.5, 2), ["0.5", "2"])],
)
def test_labels_are_written_as_a_run_reads_them(values: Any, labels: list[str], tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": values[i % 2]} for i in range(40)]
    found = sketch(str(write(tmp_path / "data.jsonl", rows)))
    assert list(found.template["verbalisers"]) == labels
    data = parse(yaml.safe_load(template("hedge", found))).data
    assert load(data).report.rows == 40


def test_odd_labels_are_warned_of_without_numbers(tmp_path: Path) -> None:
    labels = ["yes", "Yes", "no", "", None, " "]
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    found = sketch(str(write(tmp_path / "data.jsonl", rows)))
    assert list(found.template["verbalisers"]) == ["Yes", "no", "yes"]
    empty, alike = found.warnings
    assert empty.startswith("Some rows have no label in column 'label'")
    assert alike.startswith("The labels 'Yes', 'yes' differ by case or blanks only")
    text = template("hedge", found)
    assert "# Note: Some rows have no label" in text
    parse(yaml.safe_load(text))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("question,answer,hospital\na,b,north\n", encoding="utf-8")
    found = sketch(str(path))
    assert (found.kind, found.partition) == ("csv", {"kind": "column", "column": "hospital"})
    parse(yaml.safe_load(template("fedavg", found)))


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "data.parquet")
    found = sketch(str(tmp_path / "data.parquet"))
    assert found.kind == "parquet"
    parse(yaml.safe_load(template("hedge", found)))


def test_parquet_files_say_how_many_rows_they_have(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = ROWS + 1000
    parquet.write_table(
        pa.table({"prompt": ["a"] * rows, "completion": ["b"] * rows}), tmp_path / "1.parquet"
    )
    parquet.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "2.parquet")
    assert sketch(str(tmp_path / "*.parquet")).records == rows + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", "", "has no rows"),
        ("data.jsonl", "{nonsense", "line 1: not valid JSON at column 2"),
        ("data.jsonl", "[1, 2]\n", "line 1: a JSON list"),
        ("data.jsonl", '{"alpha": 1, "beta": 2}\n', "no template fits"),
        ("data.csv", "prompt,completion\na,b\na,b,c\n", "line 3: 3 values for 2 columns"),
        ("data.csv", 'prompt,completion\na,"b\n', "line 2: a quote opens in this row and is never closed"),
        ("data.csv", '"prompt', "does not name the columns"),
        ("data.parquet", "PAR1 not really", "not a Parquet file"),
        ("data.xlsx", "x", "unknown kind of file"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PrivetError, match=message):
        sketch(str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n\n{"text"\n', "b.jsonl: 1 broken row\n  given:   line 3: not valid JSON"),
        (b"", "b.jsonl: has no rows"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "not UTF-8 text\n  given:   .*b.jsonl line 2"),
    ],
)
def test_the_file_that_is_broken_is_blamed_with_its_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", [{"text": "a"}] * 3)
    (tmp_path / "b.jsonl").write_bytes(content)
    with pytest.raises(PrivetError, match=message) as caught:
        sketch(str(tmp_path / "*.jsonl"))
    assert "a.jsonl" not in str(caught.value)


def test_files_of_two_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na\n", encoding="utf-8")
    write(tmp_path / "b.jsonl", [{"text": "a"}])
    with pytest.raises(PrivetError, match=r"b\.jsonl: is of another kind"):
        sketch(str(tmp_path / "*"))


def test_another_delimiter_is_found(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("prompt;completion\na,b;c\n", encoding="utf-8")
    found = sketch(str(tmp_path / "data.csv"))
    assert (found.delimiter, found.columns) == (";", ("prompt", "completion"))
    assert parse(yaml.safe_load(template("hedge", found))).data.delimiter == ";"  # type: ignore[union-attr]


def test_values_of_csv_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(f"prompt,completion\na,{'b' * 200_000}\n", encoding="utf-8")
    assert sketch(str(tmp_path / "data.csv")).records == 1


def test_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match="no such file"):
        sketch(str(tmp_path / "*.jsonl"))


def test_nothing_of_a_broken_row_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"secret diagnosis', encoding="utf-8")
    with pytest.raises(PrivetError) as caught:
        sketch(str(tmp_path / "data.jsonl"))
    assert "diagnosis" not in str(caught.value)
