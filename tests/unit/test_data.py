"""Reading, holding out and partitioning: nothing is lost silently, no group is divided, broken rows are named."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from privet.data import Dataset, Record
from privet.data.load import load
from privet.data.near_duplicates import near_duplicates, normalise, shingles
from privet.data.partition import partition
from privet.data.split import Part, part_of
from privet.data_config import (
    BlockPartition,
    ClassificationTemplate,
    DataConfig,
    DirichletPartition,
    IidPartition,
    SentimentData,
    Split,
)
from privet.errors import PrivetError
from privet.sealing.roster import check_name

ADAPTER: TypeAdapter[Any] = TypeAdapter(DataConfig)
PAIRS = {"kind": "prompt", "prompt": "{question}", "completion": "{answer}"}


def config(**facts: Any) -> Any:
    return ADAPTER.validate_python(facts)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} times {i}?", "answer": str(i * i), **more} for i in range(count)]


def every_record(dataset: Dataset) -> list[Record]:
    parts = [silo.records for silo in dataset.silos]
    parts += [*dataset.test.values(), *dataset.validation.values(), dataset.public]
    return [record for part in parts for record in part]


@pytest.fixture(scope="module")
def sentiment() -> Dataset:
    return load(SentimentData())


# --- the embedded data ---------------------------------------------------------------------------------------


def test_sentiment_sizes(sentiment: Dataset) -> None:
    report = sentiment.report
    assert report.rows == 23703
    assert report.train == {"tweets": 2164, "movie": 7991, "amazon": 2211, "nyt": 1383}
    assert report.test == {"tweets": 234, "movie": 832, "amazon": 185, "nyt": 113}
    assert report.public == 564
    assert sentiment.size == 13749
    assert sentiment.test_public


def test_sentiment_report_accounts_for_every_row(sentiment: Dataset) -> None:
    report = sentiment.report
    assert report.rows == len(every_record(sentiment)) + sum(report.dropped.values())
    assert len(report.dropped) == 2
    assert any("near-duplicate" in line for line in report.lines())


def test_sentiment_labels_follow_the_score(sentiment: Dataset) -> None:
    for record in every_record(sentiment):
        assert abs(record.fields["score"]) >= 1
        assert record.label == int(record.fields["score"] > 0)
        assert record.completion == (" negative", " positive")[record.label]


def test_no_group_and_no_copy_is_in_two_parts(sentiment: Dataset) -> None:
    parts = {
        "train": [record for silo in sentiment.silos for record in silo.records],
        "test": [record for records in sentiment.test.values() for record in records],
        "public": sentiment.public,
    }
    for key in (lambda r: r.group, lambda r: normalise(r.fields["text"]) if r.group is None else None):
        seen = {part: {key(record) for record in records} - {None} for part, records in parts.items()}
        assert not seen["train"] & seen["test"]
        assert not seen["train"] & seen["public"]
        assert not seen["test"] & seen["public"]


def test_ids_are_unique(sentiment: Dataset) -> None:
    assert max(Counter(record.id for record in every_record(sentiment)).values()) == 1


def test_the_split_does_not_depend_on_the_template(sentiment: Dataset) -> None:
    template = ClassificationTemplate(
        kind="classification", prompt="{text} It was", verbalisers={0: "bad", 1: "good"}
    )
    other = load(SentimentData(template=template))
    assert {r.id for r in other.public} == {r.id for r in sentiment.public}
    assert [r.id for r in other.silos[1].records] == [r.id for r in sentiment.silos[1].records]


def test_forty_clients_of_whole_groups(sentiment: Dataset) -> None:
    dataset = load(SentimentData(partition=BlockPartition(kind="blocks", column="domain", silos=40)))
    assert len(dataset.silos) == 40
    assert dataset.size == sentiment.size
    assert min(map(len, dataset.silos)) > 300
    assert max(map(len, dataset.silos)) < 370
    holders: dict[str, set[str]] = {}
    for silo in dataset.silos:
        assert len({record.fields["domain"] for record in silo.records}) == 1
        for record in silo.records:
            if record.group is not None:
                holders.setdefault(record.group, set()).add(silo.name)
    assert max(map(len, holders.values())) == 1
    assert set(dataset.test) == {"tweets", "movie", "amazon", "nyt"}


def test_one_client_an_article() -> None:
    facts = {"kind": "sentiment", "domains": ["nyt"], "minimum_score": 0, "partition": {"kind": "group"}}
    assert len(load(config(**facts, split={"test": 0})).silos) == 498
    held_out = load(config(**facts, split={"test": 0.1}))
    assert 430 < len(held_out.silos) < 460
    assert sum(map(len, held_out.test.values())) > 300
    for silo in held_out.silos:
        check_name(silo.name, "silo")  # a run puts it into its roster


def test_two_groups_never_become_one_silo(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "a", "person": name} for i, name in enumerate(("a/b", "a-b"))]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    split = {"group": "person", "test": 0}
    dataset = load(config(kind="jsonl", path=path, template=PAIRS, partition={"kind": "group"}, split=split))
    assert sorted(silo.name for silo in dataset.silos) == ["a-b", "a/b"]


# --- files ---------------------------------------------------------------------------------------------------


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
    assert "line 4: 1 values for 2 columns; line 5: 3 values" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "does not name the columns"), (b"a,a\n1,2\n", "same name"), (b"a,b\n\xff\xfe,2\n", "not UTF-8")],
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


def test_users_keep_their_near_duplicates_unless_they_ask(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(10) + pairs(10))
    facts = {"kind": "jsonl", "path": path, "template": PAIRS, "split": {"test": 0}}
    assert load(config(**facts)).size == 20
    removed = load(config(**facts, remove_near_duplicates=True))
    assert removed.report.dropped == {"near-duplicate of a record without group": 20 - removed.size}
    assert removed.size <= 10


# --- splitting -----------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.floats(0, 0.5), st.integers(0, 3))
def test_raising_the_public_share_moves_no_test_record(text: str, public: float, seed: int) -> None:
    before = part_of(None, text, Split(test=0.2, validation=0.1, seed=seed))
    after = part_of(None, text, Split(test=0.2, validation=0.1, public=public, seed=seed))
    assert after == before or (before, after) == ("train", "public")


def test_shares_are_about_right() -> None:
    split = Split(test=0.1, validation=0.2, public=0.3)
    parts = Counter(part_of(f"person {i}", "", split) for i in range(20000))
    # Five standard errors of a share of 20,000 groups: a false alarm in 1 of 10^6 seeds, and the seed is fixed.
    shares: dict[Part, float] = {"test": 0.1, "validation": 0.2, "public": 0.3, "train": 0.4}
    for part, share in shares.items():
        assert abs(parts[part] / 20000 - share) < 5 * (share * (1 - share) / 20000) ** 0.5


# --- partitioning --------------------------------------------------------------------------------------------


def labelled(count: int, labels: int = 4, offset: int = 0) -> list[Record]:
    return [
        Record(f"{offset + i}", "p", "c", label=(offset + i) % labels, group=f"g{(offset + i) // 3}")
        for i in range(count)
    ]


def parts_of(train: int, test: int = 0) -> Any:
    return {"train": labelled(train), "test": labelled(test, offset=train), "validation": []}


@given(st.integers(1, 12), st.integers(12, 80), st.integers(0, 20), st.integers(0, 5))
def test_every_record_goes_to_exactly_one_silo(silos: int, train: int, test: int, seed: int) -> None:
    for how in (
        IidPartition(kind="iid", silos=silos, seed=seed),
        DirichletPartition(kind="dirichlet", silos=silos, alpha=10.0, seed=seed) if silos < 5 else None,
    ):
        if how is None:
            continue
        parts = parts_of(train, test)
        held = partition(parts, how)
        for part, records in parts.items():
            assert sorted(r.id for rs in held[part].values() for r in rs) == sorted(r.id for r in records)
            assert list(held[part]) == list(held["train"])
        assert partition(parts, how) == held


def test_iid_shares_are_equal() -> None:
    held = partition(parts_of(103), IidPartition(kind="iid", silos=10))
    assert sorted({len(records) for records in held["train"].values()}) == [10, 11]


def test_dirichlet_skews_labels_and_test_records_alike() -> None:
    def skew(alpha: float, part: Part) -> Any:
        held = partition(parts_of(8000, 4000), DirichletPartition(kind="dirichlet", silos=5, alpha=alpha))
        return np.array(
            [[sum(r.label == k for r in rs) for k in range(4)] for rs in held[part].values()], float
        )

    even, skewed = skew(1000.0, "train"), skew(0.3, "train")
    assert (even / even.sum(0)).std() < 0.02
    assert (skewed / skewed.sum(0)).std() > 0.1
    shares, test_shares = skewed / skewed.sum(0), skew(0.3, "test") / skew(0.3, "test").sum(0)
    assert np.abs(shares - test_shares).max() < 0.002


def test_dirichlet_that_cannot_fill_its_silos() -> None:
    with pytest.raises(PrivetError, match="1000") as caught:
        partition(parts_of(20), DirichletPartition(kind="dirichlet", silos=15, alpha=0.01, minimum_records=2))
    assert "alpha" in str(caught.value.hint)


def test_dirichlet_needs_labels() -> None:
    records: Any = {"train": [Record("1", "p", "c")]}
    with pytest.raises(PrivetError, match="no label"):
        partition(records, DirichletPartition(kind="dirichlet", silos=1, alpha=1))


def test_a_silo_without_records_is_an_error() -> None:
    with pytest.raises(PrivetError, match="no training records") as caught:
        partition(parts_of(3), IidPartition(kind="iid", silos=5))
    assert caught.value.given == "silo-3, silo-4"


def test_no_records_at_all(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(PrivetError, match="has no records"):
        load(config(kind="jsonl", path=str(tmp_path / "rows.jsonl"), template=PAIRS))


def test_a_column_that_a_row_lacks(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*pairs(3, site="a"), *pairs(1)])
    with pytest.raises(PrivetError, match="no value in the column") as caught:
        load(
            config(
                kind="jsonl",
                path=path,
                template=PAIRS,
                partition={"kind": "column", "column": "site"},
                split={"test": 0},
            )
        )
    assert caught.value.field == "data.partition.column"


def test_small_groups_that_are_left_out_are_reported(tmp_path: Path) -> None:
    rows = [row | {"person": "few" if i < 2 else f"p{i % 3}"} for i, row in enumerate(pairs(20))]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    how = {"kind": "group", "minimum_records": 3}
    dataset = load(
        config(kind="jsonl", path=path, template=PAIRS, partition=how, split={"group": "person", "test": 0})
    )
    assert len(dataset.silos) == 3
    assert dataset.report.dropped == {"in groups below minimum_records": 2}


def test_groups_are_needed_for_one_silo_each(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", pairs(5))
    with pytest.raises(PrivetError, match="no group"):
        load(config(kind="jsonl", path=path, template=PAIRS, partition={"kind": "group"}, split={"test": 0}))


# --- near-duplicates -----------------------------------------------------------------------------------------


def brute_force(texts: list[str], similarity: float) -> list[int]:
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    for i, one in enumerate(sets):
        if not any(len(one & sets[k]) / len(one | sets[k]) >= similarity for k in kept):
            kept.append(i)
    return [i for i in range(len(texts)) if i not in kept]


@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=0, max_size=9).map(" ".join), max_size=14),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_near_duplicates_are_those_of_all_pairs(texts: list[str], similarity: float) -> None:
    assert near_duplicates(texts, similarity) == brute_force(texts, similarity)


def test_normalised_copies_are_near_duplicates() -> None:
    texts = [
        "A great film, really great!",
        "a GREAT film … really great http://x.y @me",
        "Something else altogether",
    ]
    assert near_duplicates(texts) == [1]


# --- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "sentiment", "domain": ["nyt"]},
        {"kind": "sentiment", "domains": ["books"]},
        {"kind": "sentiment", "partition": {"kind": "group"}},
        {"kind": "sentiment", "partition": {"kind": "file"}},
        {"kind": "sentiment", "split": {"group": "domain"}},
        {"kind": "jsonl"},
        {"kind": "jsonl", "path": "a", "test_path": "a"},
        {"kind": "jsonl", "path": "a", "partition": {"kind": "group"}},
        {"kind": "jsonl", "path": "a", "test_path": "b", "partition": {"kind": "file"}},
        {"kind": "huggingface", "name": "a", "partition": {"kind": "file"}},
        {"kind": "csv", "path": "a", "delimiter": ",,"},
        {
            "kind": "jsonl",
            "path": "a",
            "template": {"kind": "classification", "verbalisers": {0: " x", 1: " x"}},
        },
        {"kind": "jsonl", "path": "a", "template": {"kind": "classification", "verbalisers": {0: " x"}}},
    ],
    ids=lambda facts: ",".join(f"{k}={v}" for k, v in facts.items())[:60],
)
def test_configurations_that_make_no_sense(facts: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**facts)


def test_every_setting_is_described() -> None:
    for name, model in ADAPTER.json_schema()["$defs"].items():
        for setting, facts in model.get("properties", {}).items():
            assert facts.get("description"), f"{name}.{setting}"
