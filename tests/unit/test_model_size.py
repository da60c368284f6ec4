"""Sizes of models and adapters without weights, built once and then read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from support.tiny_models import FAMILIES, make_model

from privet import material
from privet import model_size as module
from privet.config import Config, parse
from privet.data.records import DataReport, Dataset
from privet.errors import PrivetError
from privet.model_size import Described, ModelSize, model_size


def config(folder: Path, **lora: object) -> Config:
    return parse(
        {
            "version": 1,
            "system": {"kind": "fedavg"},
            "model": {"name": str(folder)},
            "data": {"kind": "sentiment"},
            "lora": {"rank": 2, "alpha": 4, **lora},
            "schedule": {"rounds": 1},
        },
        "test",
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIVET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / module.FOLDER


def saved(folder: Path, family: str = "llama") -> Path:
    make_model(family).config.save_pretrained(folder)
    return folder


def facts(size: ModelSize) -> dict[str, object]:
    return asdict(size) | {"factors": [factor.tolist() for factor in size.factors]}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_equals_what_was_built(
    family: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(saved(tmp_path / "model", family), layers={"top": 1}, factors="freeze_a")
    built = model_size(asked)
    monkeypatch.setattr(module, "_build", None)  # would be called, and fail
    assert facts(model_size(asked)) == facts(built)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_is_described_as_one_without_weights(family: str, tmp_path: Path, cache: Path) -> None:
    asked = config(saved(tmp_path / "model", family))
    model_size(asked)
    (kept,) = cache.iterdir()
    assert Described.read(kept.read_text()) == Described.of(make_model(family))


def test_one_description_serves_all_adapters_and_another_model_has_its_own(
    tmp_path: Path, cache: Path
) -> None:
    folder = saved(tmp_path / "model")
    sizes = [model_size(config(folder)), model_size(config(folder, rank=3))]
    assert len(list(cache.iterdir())) == 1
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"num_hidden_layers": 1}))
    sizes.append(model_size(config(folder)))
    assert len({size.dimension for size in sizes}) == 3
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"parameters": 1, "layers": 3}'])
def test_a_spoilt_file_is_made_anew(content: str, tmp_path: Path, cache: Path) -> None:
    asked = config(saved(tmp_path / "model"))
    built = model_size(asked)
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert facts(model_size(asked)) == facts(built)
    assert json.loads(kept.read_text())["parameters"] == built.parameters


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRIVET_CACHE", str(tmp_path / "file"))
    assert model_size(config(saved(tmp_path / "model"))).dimension > 0


def test_a_configuration_that_cannot_be_read_is_refused_and_not_kept(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(PrivetError, match="cannot be read"):
        model_size(config(folder))
    assert not cache.exists()


def test_a_second_plan_loads_neither_torch_nor_transformers(tmp_path: Path, cache: Path) -> None:
    asked = config(saved(tmp_path / "model"))
    model_size(asked)
    program = (
        "import sys; from privet.config import parse; from privet.model_size import model_size;"
        f"model_size(parse({asked.model_dump(mode='json')!r}, 'test'));"
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_that_loads_the_model_describes_it_for_the_next_plan(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_down: list[tuple[object, Described]] = []
    monkeypatch.setattr(material, "keep", lambda source, described: put_down.append((source, described)))
    monkeypatch.setattr(material, "load_data", lambda *_: Dataset([], {}, False, {}, [], DataReport("", 0)))
    material.gather(config(small_folder))
    assert put_down == [(small_folder, module._build(config(small_folder), small_folder))]
