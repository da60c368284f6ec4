"""A run's adapter beside its base model: the trainer's scores are the model's, lm-eval runs without a network."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from privet.config import parse
from privet.data_config import SENTIMENT_TEMPLATE
from privet.errors import PrivetError
from privet.evaluate import evaluate, flat_facts
from privet.lm_tasks import OFFLINE_TASK, LmEval, offline_items, write_offline_task
from privet.model_config import ModelConfig
from privet.models import load_model
from privet.runs import start

CONFIG = {
    "system": {"kind": "fedavg"},
    "model": {"name": "small", "dtype": "float32"},
    "data": {"kind": "sentiment", "domains": ["tweets", "nyt"], "split": {"test": 0.09, "public": 0.04}},
    "lora": {"layers": {"top": 2}, "rank": 4},
    "schedule": {"rounds": 1},
    "evaluation": {"max_records": 40},
    "engine": {"threads": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    start(parse(CONFIG), yaml.safe_dump(CONFIG), out)
    return out


@pytest.fixture(autouse=True)
def _warnings_of_others() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lm-eval, peft and datasets warn of one another
        yield


def test_choices_are_what_the_run_measured(run: Path) -> None:
    measured = evaluate(run)
    assert measured["task"] == "choices"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    written = {(row["silo"], row["when"]): row for row in rows}
    assert len(measured["silos"]) == 4
    for row in measured["silos"]:
        before = written[row["silo"], {"base": "before", "adapter": "after"}[row["when"]]]
        assert row["records"] == before["records"] == 40
        assert row["accuracy"] == before["accuracy"]
        assert row["nll"] == pytest.approx(before["nll"], rel=1e-6)
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert measured["base"]["nll"] != measured["adapter"]["nll"]


def test_scores_are_those_of_plain_transformers(run: Path) -> None:
    """Accuracy and NLL among the verbalisers, computed again with one unpadded forward pass a record."""
    from privet.data.load import load
    from privet.data_config import SentimentData

    measured = {row["silo"]: row for row in evaluate(run, "sentiment")["silos"] if row["when"] == "base"}
    loaded = load_model(ModelConfig(name="small", dtype="float32"))
    words = [loaded.tokenizer(word)["input_ids"] for word in SENTIMENT_TEMPLATE.verbalisers.values()]
    assert [len(ids) for ids in words] == [1, 1]
    records = load(SentimentData(domains=("tweets", "nyt"))).test["nyt"][:40]
    right, nll = [], []
    for record in records:
        ids = loaded.tokenizer(record.prompt)["input_ids"]
        logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1, [words[0][0], words[1][0]]]
        right.append(int(logits.argmax()) == record.label)
        nll.append(-float(torch.log_softmax(logits, 0)[record.label]))
    assert measured["nyt"]["accuracy"] == np.mean(right)
    assert measured["nyt"]["nll"] == pytest.approx(np.mean(nll), rel=1e-4)
    assert measured["nyt"]["nll_se"] == pytest.approx(np.std(nll, ddof=1) / 40**0.5, rel=1e-3)


def test_loss_is_of_the_completion_among_all_tokens(run: Path) -> None:
    choices, loss = evaluate(run, "choices", limit=10), evaluate(run, "loss", limit=10)
    assert {row["records"] for row in loss["silos"]} == {10}
    assert loss["base"]["accuracy"] is None
    assert loss["base"]["nll"] >= choices["base"]["nll"]


def test_flat_facts_hold_every_number(run: Path) -> None:
    facts = flat_facts(evaluate(run, "choices", limit=10))
    assert {"nll, base", "nll, adapter", "accuracy, base", "accuracy, adapter"} <= set(facts)
    assert "NLL" in facts["nyt (10 records), adapter"]
    assert "accuracy" in facts["nyt (10 records), adapter"]


def test_unknown_task(run: Path) -> None:
    with pytest.raises(PrivetError, match="no such task") as caught:
        evaluate(run, "mmlu")
    assert "lm_eval:NAME" in str(caught.value.allowed)


def rewrite(run: Path, tmp_path: Path, data: dict[str, Any]) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    facts = yaml.safe_load((run / "resolved.yaml").read_text()) | {"data": data}
    (copy / "resolved.yaml").write_text(yaml.safe_dump(facts))
    shutil.copytree(run / "adapter", copy / "adapter")
    shutil.copyfile(run / "privacy.json", copy / "privacy.json")
    return copy


def test_private_records_are_not_measured(run: Path, tmp_path: Path) -> None:
    copy = rewrite(run, tmp_path, {"kind": "jsonl", "path": "rows.jsonl"})
    with pytest.raises(PrivetError, match="private records") as caught:
        evaluate(copy, "loss")
    assert caught.value.field == "data.test_public"


def test_choices_need_a_classification(run: Path, tmp_path: Path) -> None:
    copy = rewrite(run, tmp_path, {"kind": "jsonl", "path": "rows.jsonl", "test_public": True})
    with pytest.raises(PrivetError, match="no choices"):
        evaluate(copy, "choices")
    measured = evaluate(copy, "sentiment", limit=5)
    assert {row["silo"] for row in measured["silos"]} == {"tweets", "movie", "amazon", "nyt"}


# --- lm-eval -------------------------------------------------------------------------------------------------


def test_offline_items() -> None:
    items = list(offline_items())
    assert len(items) == 281
    assert all(len(item["choices"]) == 4 and all(item["choices"]) and item["question"] for item in items)
    assert {item["answer"] for item in items} == {0, 1, 2, 3}
    assert len({item["subject"] for item in items}) == 57


def test_lm_eval_offline_on_the_export(run: Path) -> None:
    measured = evaluate(run, f"lm_eval:{OFFLINE_TASK}", limit=12)
    for when in ("base", "adapter"):
        assert measured[when]["items"] == 12
        assert 0 <= measured[when]["acc"] <= 1
        assert measured[when]["acc_stderr"] > 0 or measured[when]["acc"] in (0, 1)


def test_the_offline_task_is_an_ordinary_one(tmp_path: Path) -> None:
    task = yaml.safe_load(write_offline_task(tmp_path).read_text())
    assert task["dataset_path"] == "json"
    assert Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().count("\n") == 281


def test_no_such_lm_eval_task() -> None:
    with pytest.raises(PrivetError, match="no such task") as caught:
        LmEval("mmlu_on_the_moon")
    assert OFFLINE_TASK in str(caught.value.allowed)


def test_tasks_of_the_hub_are_known_and_say_what_they_need(small_folder: Path) -> None:
    assert LmEval("mmlu").name == "mmlu"
    loaded = load_model(ModelConfig(name="small", dtype="float32"))
    with pytest.raises(PrivetError, match="cannot be run") as caught:
        LmEval("ceval", limit=1)(loaded.model, loaded.tokenizer)
    assert OFFLINE_TASK in str(caught.value.hint)
