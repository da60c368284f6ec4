"""What is done to records and model before anything is computed from them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.tiny_models import make_model
from support.tiny_tokenizer import make_tokenizer

from privet import material
from privet.config import Config, parse
from privet.data.records import DataReport, Dataset, Record, in_public_order
from privet.errors import PrivetError


def test_the_first_public_records_stand_for_all() -> None:
    """As they come they are sorted by silo: the first quarter would be one silo's."""
    records = [Record(f"silo{i // 100}/{i}", "a", "b", own_id=True) for i in range(400)]
    drawn = in_public_order(records, seed=0)
    assert sorted(drawn, key=records.index) == records
    # Hypergeometric, 100 of 4 x 100: fewer than 12 of one silo has probability below 1e-3.
    assert min(Counter(record.id.split("/")[0] for record in drawn[:100]).values()) >= 12
    assert in_public_order(records[::-1], seed=0) == drawn, "whatever order they came in"
    assert in_public_order(records, seed=1) != drawn


TARGETS = {"gpt2": ("c_attn",), "bloom": ("query_key_value",), "mpt": ("Wqkv",)}


def config(folder: Path, max_length: int, targets: tuple[str, ...] | None = None) -> Config:
    raw = {
        "system": {"kind": "fedavg"},
        "model": {"name": str(folder), "dtype": "float32"},
        "data": {"kind": "sentiment", "max_length": max_length},
        "lora": {"targets": targets},
    }
    return parse(raw, "test")


def gathered(
    folder: Path, family: str, max_length: int, monkeypatch: pytest.MonkeyPatch
) -> material.Material:
    """What is loaded for a model of this family and no records at all."""
    monkeypatch.setenv("PRIVET_CACHE", str(folder / "cache"))
    monkeypatch.setattr(material, "load_data", lambda *_: Dataset([], {}, False, {}, [], DataReport("", 0)))
    make_model(family).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    return material.gather(config(folder / "model", max_length, TARGETS.get(family)))


@pytest.mark.parametrize("family", ["llama", "dynamic", "gpt2", "mpt"])
def test_records_longer_than_the_model_reads_are_refused_before_there_are_any(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them would raise in its round (GPT-2, MPT) or change the model for later ones (dynamic RoPE)."""
    with pytest.raises(PrivetError, match="64 positions") as caught:
        gathered(tmp_path, family, 65, monkeypatch)
    assert caught.value.field == "data.max_length"
    assert (caught.value.given, caught.value.allowed) == (65, "at most 64")
    assert caught.value.hint
    assert gathered(tmp_path, family, 64, monkeypatch).model.positions == 64


def test_a_model_without_a_limit_reads_records_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gathered(tmp_path, "bloom", 5000, monkeypatch).model.positions is None


def test_padding_counts_as_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = gathered(tmp_path, "gpt2", 64, monkeypatch).model
    loaded.model.config.n_positions = 70
    with pytest.raises(PrivetError) as caught:
        material.check_length(config(tmp_path, 65), loaded)
    assert (caught.value.given, caught.value.allowed) == (65, "at most 64")
