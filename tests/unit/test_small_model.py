"""The small test model is a real language model, repeats bit for bit, and never saw a record of an experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from privet import small_model
from privet.cache import sha256_file
from privet.data.load import load
from privet.data.near_duplicates import normalise
from privet.data_config import DOMAINS, SentimentData
from privet.model_config import ModelConfig
from privet.models import load_model
from privet.small_model import train_small_model


def test_it_knows_the_task_a_little(small_folder: Path) -> None:
    """Measured: 0.629 of 1,364 test records; the larger class has 0.532, the standard error is 0.013.

    Other seeds of its training gave 0.58 to 0.61.
    """
    loaded = load_model(ModelConfig(name="small", dtype="float32"))
    assert 1e6 < sum(parameter.numel() for parameter in loaded.model.parameters()) < 3e6
    dataset = load(SentimentData())
    records = [record for held in dataset.test.values() for record in held]
    words = [loaded.tokenizer(word)["input_ids"][0] for word in (" negative", " positive")]
    right = []
    for record in records:
        ids = torch.tensor([loaded.tokenizer(record.prompt)["input_ids"]])
        right.append(int(loaded.model(input_ids=ids).logits[0, -1, words].argmax()) == record.label)
    assert np.mean(right) > 0.56


def test_training_repeats_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_model, "_LONGEST", 14)
    monkeypatch.setattr(small_model, "_WORD_LISTS", 800)
    before = torch.get_rng_state()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train_small_model(tmp_path / name)
        torch.randn(3)  # whatever happened before must not matter
    files = [path.name for path in (tmp_path / "a").iterdir()]
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(files)
    for file in files:
        assert sha256_file(tmp_path / "a" / file) == sha256_file(tmp_path / "b" / file), file
    torch.set_rng_state(before)


def test_its_text_is_no_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Stop(Exception):
        pass

    def tokenizer(texts: list[str]) -> None:
        seen.extend(texts)
        raise Stop

    monkeypatch.setattr(small_model, "_train_tokenizer", tokenizer)
    with pytest.raises(Stop):
        train_small_model(tmp_path)
    dataset = load(SentimentData(domains=DOMAINS))
    records = [r for s in dataset.silos for r in s.records]
    records += [*dataset.public, *(r for held in dataset.test.values() for r in held)]
    prompts = {normalise(text.rpartition(":")[0]) for text in seen}
    assert len(prompts) > 7000
    assert not prompts & {normalise(record.prompt) for record in records}
