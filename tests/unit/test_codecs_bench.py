"""The codec bench on updates with known structure, and the file that updates are kept in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privet.bench_codecs import Row, bench_codecs
from privet.codecs.base import dimension_of
from privet.data.records import DataReport, Dataset, Record, Silo
from privet.errors import PrivetError
from privet.update_sets import FORMAT, UpdateSet, UpdateSetConfig, drawn, load_or_collect

LAYOUT = tuple(
    (f"layers.{layer}.q.lora_{factor}", (8, 32) if factor == "A" else (32, 8))
    for layer in range(8)
    for factor in "AB"
)
D = dimension_of(LAYOUT)


def updates() -> UpdateSet:
    """Clients and public records share three directions; the factors A are ten times smaller."""
    draw = np.random.default_rng(0)
    size = np.concatenate([np.full(256, 0.1 if name.endswith("A") else 1.0) for name, _ in LAYOUT])
    directions = draw.normal(size=(3, D)) * size

    def some(count: int) -> np.ndarray:
        weights = draw.normal(size=(count, 3)) + np.array([1, 0, 0])
        return (weights @ directions + 0.3 * draw.normal(size=(count, D)) * size).astype(np.float32)

    return UpdateSet(LAYOUT, some(20), some(20), some(60), UpdateSetConfig(clients=20), ("a",) * 20)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return bench_codecs(updates(), ratios=(4,), noises=(0.0, 1.0))


def of(rows: list[Row], codec: str, noise: float) -> Row:
    return next(row for row in rows if row["codec"] == codec and row["noise"] == noise)


def test_rows_have_the_agreed_fields_and_cover_every_kind(rows: list[Row]) -> None:
    fields = {"codec", "ratio", "noise", "cosine", "relative_error", "control_cosine"}
    assert all(set(row) == fields for row in rows)
    kinds = {row["codec"].split()[0] for row in rows}
    assert kinds == {
        "identity",
        "random_projection",
        "count_sketch",
        "prune",
        "top_k",
        "row_pca",
        "autoencoder",
        "public_subspace",
    }
    assert all(
        np.isfinite([row["cosine"], row["relative_error"], row["control_cosine"]]).all() for row in rows
    )


def test_no_codec_without_noise_loses_nothing_but_what_the_clip_takes(rows: list[Row]) -> None:
    assert of(rows, "identity", 0.0)["cosine"] > 0.98
    assert of(rows, "identity", 0.0)["ratio"] == 1


def test_what_knows_the_updates_beats_the_control_and_what_does_not_does_not(rows: list[Row]) -> None:
    subspace = of(rows, "public_subspace 10", 1.0)
    assert subspace["cosine"] > 2 * subspace["control_cosine"]
    filled = of(rows, "random_projection by_std", 0.0)
    assert filled["cosine"] > 1.2 * filled["control_cosine"]
    plain = of(rows, "random_projection", 0.0)
    assert plain["cosine"] == pytest.approx(plain["control_cosine"], abs=0.08)


def test_a_size_that_the_adapter_does_not_allow_is_left_out_and_said() -> None:
    told: list[str] = []
    found = bench_codecs(updates(), ratios=(10,), noises=(0.0,), progress=told.append)
    assert [line for line in told if line.startswith("autoencoder conv: left out")]
    assert not [row for row in found if row["codec"] == "autoencoder conv"]


def test_it_says_how_far_the_collecting_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(config: UpdateSetConfig, folder: Path, told: Callable[[str, int, int], None]) -> UpdateSet:
        for at in range(25):
            told("updates", at, 25)
        return updates()

    told: list[str] = []
    monkeypatch.setattr("privet.bench_codecs.load_or_collect", collect)
    bench_codecs(ratios=(), noises=(0.0,), progress=told.append)
    assert told[:4] == ["updates: 0 of 25", "updates: 10 of 25", "updates: 20 of 25", "identity"]


def test_the_records_behind_updates_are_drawn() -> None:
    """As they come they are sorted by label: the first of each client would all be of one."""

    def some(name: str) -> list[Record]:
        return [Record(f"{name}/{i}", "a", "b", label=i // 50, own_id=True) for i in range(100)]

    silos = [Silo(name, some(name)) for name in "abcd"]
    data = Dataset(silos, {}, True, {}, some("public"), DataReport("here", 500))
    config = UpdateSetConfig(clients=2, records=4, public=8, public_records=2)
    found = drawn(data, config)
    assert [len(records) for records in found] == [4] * 4 + [2] * 8
    assert len({record.id for records in found for record in records}) == 4 * 4 + 8 * 2
    # Of 16 fair draws fewer than 3 are of one label with probability 0.4 %, but the seed is fixed.
    assert 3 <= sum(record.label or 0 for records in found[:4] for record in records) <= 13
    assert found == drawn(data, config)
    with pytest.raises(PrivetError, match="too few records"):
        drawn(data, UpdateSetConfig(clients=2, records=4, public=51, public_records=2))


def test_a_file_of_another_format_is_collected_anew(tmp_path: Path) -> None:
    kept, path = updates(), tmp_path / "updates.npz"
    kept.save(path)
    with np.load(path) as stored:
        parts = dict(stored)
    about = json.loads(parts["about"].tobytes())
    assert about["format"] == FORMAT
    parts["about"] = np.frombuffer(json.dumps(about | {"format": FORMAT - 1}).encode(), np.uint8)
    np.savez(path, **parts)
    with pytest.raises(PrivetError, match="holds no updates"):
        UpdateSet.load(path)


def test_updates_come_back_from_their_file(tmp_path: Path) -> None:
    kept = updates()
    path = tmp_path / f"updates-{kept.config.digest()}.npz"
    kept.save(path)
    found = load_or_collect(kept.config, tmp_path)
    assert found.layout == LAYOUT
    assert found.config == kept.config
    assert found.domains == kept.domains
    for name in ("clients", "fit", "public"):
        assert np.array_equal(getattr(found, name), getattr(kept, name))
    assert UpdateSetConfig(seed=1).digest() != UpdateSetConfig().digest()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_without_updates_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "updates.npz"
    path.write_bytes(content)
    with pytest.raises(PrivetError, match="holds no updates"):
        UpdateSet.load(path)
    with pytest.raises(PrivetError, match="holds no updates"):
        UpdateSet.load(tmp_path / "missing.npz")
