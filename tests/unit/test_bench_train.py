"""The benchmark compares like with like and reports every path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny_models import VOCABULARY, make_model

from privet.bench_train import Workload, bench_train, hugging_face_batch
from privet.train import Backbone

WORKLOAD = Workload(layers=1, batch=2, length=12, answer=3, rank=2, repeats=2)


@pytest.mark.parametrize("supervision", ["answer", "full"])
def test_peft_s_labels_and_our_masks_ask_for_the_same_loss(supervision: Any) -> None:
    model = make_model()
    batch = WORKLOAD.records(VOCABULARY, supervision)[0]
    ids, labels = hugging_face_batch(batch)
    assert (labels != -100).sum(1).tolist() == [3 if supervision == "answer" else 11] * 2
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss.item()
    backbone = Backbone(model, WORKLOAD.spec())
    assert backbone.losses(batch).mean() == pytest.approx(expected, rel=1e-5)


# peft 0.21 asks transformers 5.23 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_every_path_is_measured_and_set_beside_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> Any:
        return SimpleNamespace(model=make_model(), name="tiny", dtype="float32", device="cpu")

    monkeypatch.setattr("privet.bench_train.load_model", load)
    threads = torch.get_num_threads()
    found = bench_train(workload=WORKLOAD)
    assert torch.get_num_threads() == threads
    paths = [
        "peft",
        *(f"ours, {kind}{private}" for kind in ("uncached", "cached") for private in ("", ", private")),
    ]
    assert [(row["supervision"], row["path"]) for row in found["rows"]] == [
        (supervision, path) for supervision in ("answer", "full") for path in paths
    ]
    for row in found["rows"]:
        assert row["step_seconds"] > 0
        assert row["speedup"] == 1 or row["path"] != "peft"
        assert ("over_non_private" in row) == row["path"].endswith("private")
    assert found["workload"]["trained_values"] == 2 * (32 + 32) + 2 * (32 + 16)
    assert found["fill"]["seconds_a_batch"] > 0
