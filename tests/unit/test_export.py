"""What is exported loads in plain ``peft`` and carries the privacy statement."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from support.finished_run import LAYOUT, finished_run

from privet.errors import PrivetError
from privet.export import PEFT_KEYS, export
from privet.report.record import RunRecord


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return RunRecord.open(finished_run(tmp_path / "run"))


# peft asks transformers for an attribute under its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_plain_peft_loads_it_and_the_model_changes(record: RunRecord, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    export(record, tmp_path / "out")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).eval()
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        before = base(tokens).logits
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
        after = loaded(tokens).logits
    assert float((before - after).abs().max()) > 1e-3
    written = load_file(record.adapter / "adapter_model.safetensors")
    state = {
        name.replace(".default", ""): value for name, value in loaded.state_dict().items() if "lora_" in name
    }
    assert set(state) == set(written)
    assert all(np.array_equal(state[name].numpy(), value) for name, value in written.items())


def test_the_card_carries_the_whole_statement(record: RunRecord, tmp_path: Path) -> None:
    export(record, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert record.privacy is not None
    for text in (
        "unit record, relation add-remove, δ = 1e-5",
        str(record.privacy["mechanism"]),
        "| clip norm (L2) | 2.5 |",
        "| noise multiplier | 0.9 |",
        "Poisson, rate 0.0183",
        "| rounds | 40 of 40 |",
        "dp-accounting 0.6",
        "honest but curious",
        "hyper-parameters",
        "4-bit",
        *record.privacy["not_covered"],
        *(row["observer"] for row in record.privacy["epsilon"].values()),
    ):
        assert text in card, text
    for name, row in record.privacy["epsilon"].items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        shown = float(line.split("|")[2])
        assert row["value"] <= shown <= row["value"] * 1.001, "rounded up, never down"
    assert card.startswith("---\nlibrary_name: peft\n")


def test_a_run_without_finite_epsilon_says_none_and_why(tmp_path: Path) -> None:
    record = RunRecord.open(finished_run(tmp_path / "run", "fedavg"))
    export(record, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "No finite epsilon" in card
    assert "| server | none: updates: they are not noised |" in card


def test_evidence_goes_along_but_no_configuration_with_its_paths(record: RunRecord, tmp_path: Path) -> None:
    files = {path.name for path in export(record, tmp_path / "out")}
    assert files == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"privacy.json", "dp_event.json"} <= files
    assert not {"resolved.yaml", "config.yaml"} & files
    assert str(tmp_path) not in "".join(
        path.read_text(encoding="utf-8")
        for path in (tmp_path / "out").iterdir()
        if path.suffix != ".safetensors"
    )


def test_the_base_model_can_be_named(record: RunRecord, tmp_path: Path) -> None:
    export(record, tmp_path / "named", base="some/model")
    config = json.loads((tmp_path / "named" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/model"
    LAYOUT.save_peft(LAYOUT.initial_flat(), record.adapter, "smollm2-135m-instruct")
    export(record, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_folder_in_use_is_not_touched(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("", encoding="utf-8")
    for force in (False, True):
        with pytest.raises(PrivetError, match="is not empty"):
            export(record, tmp_path / "mine", force=force)
    export(record, tmp_path / "out")
    with pytest.raises(PrivetError, match="--force"):
        export(record, tmp_path / "out")
    export(record, tmp_path / "out", force=True)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    record = RunRecord.open(finished_run(tmp_path / "run", rounds=3, ended=False))
    with pytest.raises(PrivetError, match="has no adapter yet"):
        export(record, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "nan", "half", "shape", "config"])
def test_a_damaged_adapter_is_refused(damage: str, record: RunRecord, tmp_path: Path) -> None:
    path = record.adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "nan":
        tensors[name][0, 0] = np.nan
    elif damage == "half":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = np.ascontiguousarray(tensors[name][:, :1])
    else:
        (record.adapter / "adapter_config.json").write_text("[]", encoding="utf-8")
    if damage in ("nan", "half", "shape"):
        save_file(tensors, path)
    with pytest.raises(PrivetError, match=r"no whole adapter|no LoRA configuration"):
        export(record, tmp_path / "out")


def test_what_an_audit_found_can_be_left_out(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run")
    row = {
        "attack": "mia.model",
        "control": False,
        "setting": "the adapter",
        "metric": "AUC",
        "samples": "9 records",
    }
    row |= {"value": 0.54321, "low": 0.4, "high": 0.7, "compared": 0.5, "verdict": "reported"}
    (folder / "audit.json").write_text(json.dumps({"suite": "quick", "alarms": 0, "findings": [row]}))
    record = RunRecord.open(folder)
    export(record, tmp_path / "out")
    assert (tmp_path / "out" / "audit.json").exists()
    assert "mia.model" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    export(record, tmp_path / "out", force=True, audit=False)
    assert not (tmp_path / "out" / "audit.json").exists()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "mia.model" not in card
    assert "This run was attacked" in card


def test_the_card_says_how_to_ask_the_adapter(record: RunRecord, tmp_path: Path) -> None:
    export(record, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Prompt" in card
    assert '`"Text: {text}\\nSentiment:"`' in card
    assert '1: `" positive"`' in card
    assert f"| tokens at most (max_length) | {record.config['data']['max_length']};" in card


def test_the_card_says_where_the_test_model_is(record: RunRecord, tmp_path: Path) -> None:
    export(record, tmp_path / "out", base="small")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "privet's own test model" in card
    assert "`privet fetch small`" in card
    assert 'from_pretrained("small")' not in card
    assert str(Path.home()) not in card


def test_a_card_holds_no_code_or_markup_of_whoever_made_the_run(record: RunRecord, tmp_path: Path) -> None:
    path = record.adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert set(config) <= PEFT_KEYS, "all that runs write is handed on"
    name = 'x")\nimport os; os.system("true")#`x'
    path.write_text(
        json.dumps({**config, "base_model_name_or_path": name, "auto_mapping": "x"}), encoding="utf-8"
    )
    bad = "`a`<img src=x>`b`\r# Heading [click](http://evil) "
    statement = {**(record.privacy or {}), "guarantee": "None.\n\n<script>x</script>", "reason": bad}
    rows = (record.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    silo = {**json.loads(rows[0]), "silo": bad}
    (record.folder / "metrics.jsonl").write_text(
        "\n".join([json.dumps(silo), *rows]) + "\n", encoding="utf-8"
    )
    words = {"kind": "classification", "prompt": "{text}", "verbalisers": {"0": " <neg>", "1": " R&B"}}
    raw = {**record.config, "data": {"template": words}}
    record.folder.write("resolved.yaml", yaml.safe_dump(raw))
    record.folder.write_json("privacy.json", statement)
    export(RunRecord.open(record.folder.path), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    assert "import os; os" not in [line[:13] for line in code.splitlines()]
    assert ast.literal_eval(ast.parse(code).body[2].value.args[0]) == name  # type: ignore[attr-defined]  # an assignment of a call
    for mark in ("<script>", "<img", "](http", "\r"):
        assert mark not in card
    assert "\n# Heading" not in card
    assert '`" <neg>"`' in card, "answers stand as they are learned"
    assert '`" R&B"`' in card
    handed = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert "auto_mapping" not in handed
