"""The embedded data: sizes, labels, groups that stay together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.records import PAIRS, config, every_record, write_jsonl

from privet.data import Dataset
from privet.data.load import load
from privet.data.near_duplicates import normalise
from privet.data_config import (
    BlockPartition,
    ClassificationTemplate,
    SentimentData,
)
from privet.sealing.roster import check_name


@pytest.fixture(scope="module")
def sentiment() -> Dataset:
    return load(SentimentData())


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
