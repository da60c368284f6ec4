"""Splitting into train, test and public records, and partitioning over silos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import PAIRS, config, pairs, write_jsonl

from privet.data import Record
from privet.data.load import load
from privet.data.partition import partition
from privet.data.split import Part, part_of
from privet.data_config import (
    DirichletPartition,
    IidPartition,
    Split,
)
from privet.errors import PrivetError


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
