"""Users' own data: formats, what is wrong with a file, silos and parts of files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from support.records import PAIRS, config, every_record, pairs, write_jsonl

from privet.data.each_alone import load_each_alone
from privet.data.load import load, load_public
from privet.data.near_duplicates import normalise
from privet.data.records import in_public_order
from privet.data.sources import rows_of_files
from privet.errors import PrivetError


def test_jsonl_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = pairs(30)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = []
    for kind in ("jsonl", "csv", "parquet"):
        dataset = load(config(kind=kind, path=str(tmp_path / f"rows.{kind}"), template=PAIRS))
        found.append([(r.prompt, r.completion) for r in every_record(dataset)])
        assert dataset.report.rows == 30
    assert found[0] == found[1] == found[2]


def test_hugging_face_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = pairs(20)
    made = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows), held=datasets.Dataset.from_list(rows[:4])
    )
    made.save_to_disk(str(tmp_path / "made"))
    facts = {"kind": "huggingface", "name": str(tmp_path / "made"), "template": PAIRS, "test_public": True}
    dataset = load(config(**facts, test_split="held"))
    assert dataset.size == 20
    assert {name: len(records) for name, records in dataset.test.items()} == {"all": 4}
    with pytest.raises(PrivetError, match="no such split") as caught:
        load(config(**facts, test_split="test"))
    assert "held" in str(caught.value.allowed)


def test_hugging_face_name_that_is_not_there() -> None:
    with pytest.raises(PrivetError, match="cannot be loaded") as caught:
        load(config(kind="huggingface", name="nobody/nothing", template=PAIRS))
    assert caught.value.field == "data.name"


def test_broken_lines_are_all_named_and_never_quoted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"question": "a?", "answer": "b"})
    path.write_text("\n".join([good, "{secret", good, "[1]", '{"question": NaN}', "", good]) + "\n")
    with pytest.raises(PrivetError, match="3 broken rows") as caught:
        load(config(kind="jsonl", path=str(path), template=PAIRS))
    text = str(caught.value)
    assert "line 2: not valid JSON" in text
    assert "line 4: a JSON list" in text
    assert "line 5: not valid JSON" in text
    assert "secret" not in text


def test_rows_that_do_not_fit_the_template_are_named(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"question": "a?", "answer": "b"},
            {"question": "a?"},
            {"question": None, "answer": "b"},
            {"question": [1], "answer": ""},
        ],
    )
    with pytest.raises(PrivetError, match="3 broken rows") as caught:
        load(config(kind="jsonl", path=path, template=PAIRS))
    text = str(caught.value)
    assert "rows.jsonl line 2: no column 'answer'" in text
    assert "line 3: column 'question' holds no value" in text
    assert "line 4: column 'question' holds list" in text


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("x\n" * 50)
    with pytest.raises(PrivetError, match="50 broken rows") as caught:
        load(config(kind="jsonl", path=str(tmp_path / "rows.jsonl"), template=PAIRS))
    assert "and 30 more" in str(caught.value)


def test_broken_csv_names_the_line_where_the_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"two\nlines?",yes\nonly one\na?,b,c\nfine?,yes\n')
    with pytest.raises(PrivetError, match="2 broken rows") as caught:
        load(config(kind="csv", path=str(path), template=PAIRS))
    assert "line 4: 1 value for 2 columns; line 5: 3 values" in str(caught.value)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("", "line 3: a quote opens in this row and is never closed$"),
        ("fine?,yes\n", "a quote opens in this row and is never closed: the 1 line after it went with it"),
        ("fine?,yes\n" * 5, "never closed: the 5 lines after it went with it"),
        ('"closed?",no\n', "line 3: not valid CSV .*, in the 1 line that a quote in this row took with it"),
        ("fine?,yes\n" * 5 + '"closed?",no\n', "in the 6 lines that a quote in this row took with it"),
        ("x" * (1 << 20), "line 3: a value of more than 1048576 characters, in the 1 line that a quote"),
    ],
    ids=["none", "one", "five", "closed after one", "closed after six", "too long"],
)
def test_an_open_quote_is_named_with_what_it_swallowed(tmp_path: Path, after: str, message: str) -> None:
    """The parser finds it out at the end of the file, or where another quote opens; the mistake is where it began."""
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\nfine?,yes\n"open?,yes\n' + after)
    with pytest.raises(PrivetError, match="1 broken row") as caught:
        load(config(kind="csv", path=str(path), template=PAIRS))
    assert re.search(message, str(caught.value), re.MULTILINE)


def test_values_of_csv_may_be_longer_than_the_parsers_own_limit(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"question,answer\n{'why ' * 50_000},yes\n")
    dataset = load(config(kind="csv", path=str(tmp_path / "rows.csv"), template=PAIRS, split={"test": 0}))
    assert dataset.size == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not name the columns"),
        (b"a,a\n1,2\n", "same name"),
        (b"a;b\n1;2\n", 'delimiter: ";"'),
        (b"a,b\n1,2\n\xff\xfe,2\n", "not UTF-8 text\n.* line 3"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(PrivetError, match=message):
        load(config(kind="csv", path=str(tmp_path / "rows.csv"), template=PAIRS))


def test_parquet_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PrivetError, match="not a Parquet file"):
        load(config(kind="parquet", path=str(tmp_path / "rows.parquet"), template=PAIRS))


def test_a_parquet_row_that_cannot_be_read_is_left_out_alone_at_a_site(tmp_path: Path) -> None:
    """Also for a column that no template reads: one record decides neither about others nor about taking part."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    texts = pyarrow.array([b"fine", b"\xff\xfe", b"fine too", b"late"]).view("string")
    when = pyarrow.array([0, 0, 0, 2**62], pyarrow.timestamp("us"))
    question = pyarrow.array(["a", "b", "c", "d"])
    parquet.write_table(pyarrow.table({"question": question, "answer": texts, "when": when}), path)
    wanted = config(kind="parquet", path=str(path), template=PAIRS)
    left_out: list[str] = []
    rows = rows_of_files(str(path), wanted, "data", left_out)
    assert [row.columns["question"] for row in rows] == ["a", "c"]
    assert left_out == ["line 2: a value that cannot be read", "line 4: a value that cannot be read"]
    with pytest.raises(PrivetError, match="a value that cannot be read"):
        rows_of_files(str(path), wanted, "data")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match="no such file") as caught:
        load(config(kind="jsonl", path=str(tmp_path / "*.jsonl"), template=PAIRS))
    assert caught.value.field == "data.path"


def test_one_silo_a_file_and_private_test_records_stay_at_theirs(tmp_path: Path) -> None:
    for name, count in (("north", 60), ("south", 40)):
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [row | {"question": f"{name} {row['question']}"} for row in pairs(count)],
        )
    dataset = load(
        config(
            kind="jsonl",
            path=str(tmp_path / "*.jsonl"),
            template=PAIRS,
            partition={"kind": "file"},
            split={"test": 0.3},
        )
    )
    assert [silo.name for silo in dataset.silos] == ["north", "south"]
    assert not dataset.test_public
    for name, records in dataset.test.items():
        assert records
        assert all(record.prompt.startswith(name) for record in records)
    assert len(every_record(dataset)) == 100


def test_separate_test_and_public_files(tmp_path: Path) -> None:
    facts = {
        "kind": "jsonl",
        "path": write_jsonl(tmp_path / "train.jsonl", pairs(20)),
        "test_path": write_jsonl(tmp_path / "test.jsonl", pairs(5)),
        "public_path": write_jsonl(tmp_path / "public.jsonl", pairs(7)),
        "template": PAIRS,
        "test_public": True,
    }
    dataset = load(config(**facts))
    assert (dataset.size, len(dataset.test["all"]), len(dataset.public)) == (20, 5, 7)
    assert len({record.id for record in every_record(dataset)}) == 32


def test_groups_of_users_are_not_divided(tmp_path: Path) -> None:
    rows = [row | {"person": i % 25} for i, row in enumerate(pairs(200))]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    split = {"group": "person", "test": 0.2, "validation": 0.2, "public": 0.2}
    dataset = load(config(kind="jsonl", path=path, template=PAIRS, split=split, test_public=True))
    parts = {
        "train": [r for silo in dataset.silos for r in silo.records],
        "test": [r for records in dataset.test.values() for r in records],
        "validation": [r for records in dataset.validation.values() for r in records],
        "public": dataset.public,
    }
    held = {name: {record.group for record in records} for name, records in parts.items()}
    assert all(held.values())
    assert sum(map(len, held.values())) == 25 == dataset.report.groups


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_rows_without_a_group_are_broken_and_no_person_of_their_own(
    tmp_path: Path, blank: str | None
) -> None:
    rows = [row | {"person": blank if i % 2 else f"p{i}"} for i, row in enumerate(pairs(6))]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PrivetError, match="3 broken rows") as caught:
        load(config(kind="jsonl", path=path, template=PAIRS, split={"group": "person"}))
    assert "rows.jsonl line 2: column 'person'" in str(caught.value)


def test_copies_stay_together_without_groups(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        pairs(60) + [row | {"question": row["question"].upper() + "!"} for row in pairs(60)],
    )
    dataset = load(config(kind="jsonl", path=path, template=PAIRS, split={"test": 0.4}, test_public=True))
    train = {normalise(record.prompt) for silo in dataset.silos for record in silo.records}
    test = {normalise(record.prompt) for records in dataset.test.values() for record in records}
    assert len(train) + len(test) == 60
    assert not train & test


def test_a_private_row_says_nothing_about_which_public_records_come_first(tmp_path: Path) -> None:
    """Codecs and clip norms are made of the first ones, exactly: an order by line numbers would tell of every row."""
    rows = pairs(200)

    def read(some: list[dict[str, str]]) -> tuple[set[str], list[str]]:
        path = write_jsonl(tmp_path / "rows.jsonl", some)
        dataset = load(config(kind="jsonl", path=path, template=PAIRS, split={"test": 0, "public": 0.4}))
        private = {record.prompt for silo in dataset.silos for record in silo.records}
        return private, [record.prompt for record in in_public_order(dataset.public, seed=0)]

    private, public = read(rows)
    assert len(public) > 50
    assert public != sorted(public, key=[row["question"] for row in rows].index)
    first = next(row for row in rows if any(row["question"] in prompt for prompt in private))
    without = read([row for row in rows if row is not first])
    assert len(without[0]) == len(private) - 1
    assert without[1] == public


def test_users_keep_their_near_duplicates_unless_they_ask(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(10) + pairs(10))
    facts = {"kind": "jsonl", "path": path, "template": PAIRS, "split": {"test": 0}}
    assert load(config(**facts)).size == 20
    removed = load(config(**facts, remove_near_duplicates=True))
    assert removed.report.dropped == {"near-duplicate of a record without group": 20 - removed.size}
    assert removed.size <= 10


WORDS = {"kind": "classification", "prompt": "{text}", "verbalisers": {"yes": " yes", "no": " no"}}


@pytest.mark.parametrize(
    ("labels", "told", "alike"),
    [
        (["yes", "Yes", "no "], "labels without one: 'Yes', 'no '", True),
        (["maybe", "maybe", "no"], "labels without one: 'maybe'", False),
        ([str(i) for i in range(7)], "labels without one: '0', '1', '2', '3', '4', and 2 more", False),
        (["a" * 100], f"labels without one: '{'a' * 24}…'", False),
    ],
)
def test_labels_without_a_verbaliser_are_told_beside_those_that_have_one(
    labels: list[str], told: str, alike: bool, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": "secret", "label": label} for label in labels])
    with pytest.raises(PrivetError, match="broken row") as caught:
        load(config(kind="jsonl", path=path, template=WORDS))
    error = caught.value
    assert error.allowed == "labels 'yes', 'no'"
    assert str(error.given).endswith(f"; {told}")
    assert ("'Yes' and 'yes' differ by case or blanks only" in str(error.hint)) == alike
    assert "secret" not in str(error)


def test_the_report_counts_empty_columns_of_the_prompt_and_copies_within_a_silo(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "yes", "site": site} for text in ("a", " ", "b") for site in ("x", "y")]
    rows += [rows[0], rows[0], rows[0] | {"label": "no"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    facts = {"kind": "jsonl", "path": path, "template": WORDS, "split": {"test": 0}}
    report = load(config(**facts, partition={"kind": "column", "column": "site"})).report
    assert (report.blank, report.copies) == (2, 2)
    assert report.lines()[-2] == "a column of the prompt is empty in 2 records"
    assert report.lines()[-1].startswith(
        "exact copies within a silo: 2 records; epsilon for one record is weaker"
    )
    assert load_each_alone(config(**facts))[0].report.copies == 5  # a site's file is one silo
    assert "copies" not in str(load_public(config(**facts)).report.lines())


def test_a_key_that_stands_twice_and_words_that_are_no_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "question": "b", "answer": "c"}\n{"question": NaN, "answer": "c"}\n')
    with pytest.raises(PrivetError, match="2 broken rows") as caught:
        load(config(kind="jsonl", path=str(path), template=PAIRS))
    given = "line 1: not valid JSON: a key stands twice; line 2: not valid JSON: NaN is not JSON"
    assert caught.value.given == given
