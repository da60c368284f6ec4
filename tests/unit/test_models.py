"""Any causal language model loads frozen; what cannot be loaded says why and what next."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.tiny_models import FAMILIES
from support.tiny_tokenizer import make_tokenizer
from transformers import AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig

from privet import models
from privet.cache import sha256_file
from privet.errors import PrivetError
from privet.fetch import convert_gguf
from privet.hardware import choose_device, choose_dtype, cpu_features
from privet.model_config import ModelConfig
from privet.models import LoadedModel, load_model, resolve
from privet.tokenise import Tokenizer

TARGETS = {"gpt2": ("c_attn",)}


def save_tiny(folder: Path, config: Any, **tokenizer: Any) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer(**tokenizer).save_pretrained(folder)
    return str(folder)


def tiny_llama(**facts: Any) -> LlamaConfig:
    shape = {"vocab_size": 290, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return LlamaConfig(**shape, num_attention_heads=2, bos_token_id=None, eos_token_id=2, **facts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"), tiny_llama())


def load(name: str, **facts: Any) -> LoadedModel:
    return load_model(ModelConfig(name=name, **{"dtype": "float32"} | facts))


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """Shapes alone: random weights, three layers."""
    loaded = load(save_tiny(tmp_path / "model", FAMILIES[family]))
    assert loaded.target_modules() == TARGETS.get(family, ("q_proj", "v_proj"))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    logits = loaded.model(input_ids=torch.tensor([[3, 4, 5]])).logits
    assert logits.shape == (1, 3, 97)
    assert logits.dtype == torch.float32


def test_number_formats(folder: str) -> None:
    half = load(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    assert half.dtype == "bfloat16"
    assert load(folder, dtype="auto").dtype == ("bfloat16" if cpu_features().fast_bf16 else "float32")


def test_fingerprint_is_of_the_content(folder: str, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    first = load(folder).fingerprint
    assert load(str(copy)).fingerprint == first
    assert load(folder, dtype="bfloat16").fingerprint != first
    facts = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(facts | {"note": 1}))
    assert load(str(copy)).fingerprint != first


def test_what_a_folder_says_of_its_own_content_is_not_believed(folder: str, tmp_path: Path) -> None:
    """Other weights beside the same list of hashes are another model; a list of no such form is no error."""
    marks = set()
    for number, listed in enumerate(
        ({"files": {"model.safetensors": {"sha256": "0" * 64}}}, {"files": {"a": "b"}})
    ):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        (copy / "manifest.json").write_text(json.dumps(listed))
        marks.add(load(str(copy)).fingerprint)
    assert marks == {load(folder).fingerprint}


def test_a_model_of_ours_is_the_same_by_name_and_by_folder(small_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_folder, copy)
    assert load("small").fingerprint == load(str(copy)).fingerprint


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # by peft's way to ask
def test_an_adapter_is_no_base_model(folder: str, tmp_path: Path) -> None:
    """The library would load the adapter over weights of which it says no more whether they are all there."""
    copy = tmp_path / "adapted"
    shutil.copytree(folder, copy)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(target_modules=["q_proj"])
    )
    adapted.save_pretrained(copy)
    with pytest.raises(PrivetError, match="this is an adapter"):
        load(str(copy))


LOADED = """
import sys
from privet.model_config import ModelConfig
from privet.models import load_model
for revision in sys.argv[1:]:
    print(load_model(ModelConfig(name="org/tiny", revision=revision, dtype="float32")).fingerprint)
"""


def test_a_hub_s_model_is_named_by_its_commit(folder: str, tmp_path: Path) -> None:
    """A branch names whatever is there, and two revisions were one model to those who compare."""
    commits = {"main": "a" * 40, "other": "b" * 40, "same": "a" * 40}
    kept = tmp_path / "models--org--tiny"
    (kept / "refs").mkdir(parents=True)
    for ref, commit in commits.items():
        (kept / "refs" / ref).write_text(commit)
        shutil.copytree(folder, kept / "snapshots" / commit, dirs_exist_ok=True)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    asked = [*commits, "a" * 40]
    command = [sys.executable, "-c", LOADED, *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = dict(zip(asked, done.stdout.split(), strict=True))
    assert found["main"] == found["same"] == found["a" * 40] != found["other"]


def test_without_a_padding_token_end_of_text_pads_and_that_is_said(folder: str) -> None:
    loaded = load(folder)
    tokenizer: Tokenizer = loaded.tokenizer
    assert loaded.pad_id == tokenizer.eos_token_id
    assert "no padding token" in loaded.notes[0]


def test_with_a_padding_token_nothing_is_said(tmp_path: Path) -> None:
    loaded = load(save_tiny(tmp_path / "model", tiny_llama(), pad_token="<s>"))
    assert (loaded.pad_id, loaded.notes) == (1, ())


def test_neither_padding_nor_end_of_text(tmp_path: Path) -> None:
    name = save_tiny(tmp_path / "model", tiny_llama(), eos_token=None)
    with pytest.raises(PrivetError, match="neither a padding nor an end-of-text token") as caught:
        load(name)
    assert "pad_token" in str(caught.value.hint)


# --- GGUF ----------------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> None:
    """A random one-layer Llama with a byte-level vocabulary, as llama.cpp's converter lays it out."""
    tokenizer = make_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<b>", "<s>", "<e>") else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), 16),
        "output_norm": (16,),
        "blk.0.attn_norm": (16,),
        "blk.0.ffn_norm": (16,),
    }
    shapes |= {f"blk.0.attn_{name}": (16, 16) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16), "blk.0.ffn_down": (16, 32)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    loaded = load(str(tmp_path / "tiny.gguf"))
    assert loaded.target_modules() == ("q_proj", "v_proj")
    ids = loaded.tokenizer("the answer is")["input_ids"]
    assert loaded.model(input_ids=torch.tensor([ids])).logits.shape[:2] == (1, len(ids))
    loaded.model.save_pretrained(
        tmp_path / "saved"
    )  # refused by the library while it calls the model quantised


def test_gguf_is_converted_once_and_for_all_to_the_same_bytes(tmp_path: Path) -> None:
    """What fetching does with SmolLM2: the folder holds the GGUF's weights, rounded to bfloat16."""
    write_gguf(tmp_path / "tiny.gguf")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / name, name="tiny")
    assert sha256_file(tmp_path / "a/model.safetensors") == sha256_file(tmp_path / "b/model.safetensors")
    assert "quantization_config" not in json.loads((tmp_path / "a/config.json").read_text())
    direct, converted = load(str(tmp_path / "tiny.gguf")), load(str(tmp_path / "a"), dtype="bfloat16")
    weights = converted.model.state_dict()
    for key, value in direct.model.state_dict().items():
        assert torch.equal(value.to(torch.bfloat16), weights[key]), key
    assert converted.tokenizer("the answer")["input_ids"] == direct.tokenizer("the answer")["input_ids"]


# --- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere/at/all", "a/b/c", "nowhere.gguf"])
def test_nothing_at_this_path(name: str) -> None:
    with pytest.raises(PrivetError, match="nothing at this path") as caught:
        resolve(ModelConfig(name=name))
    assert caught.value.field == "model.name"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match="holds no model"):
        load(str(tmp_path))


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(PrivetError, match="a folder or a GGUF file"):
        load(str(tmp_path / "model.safetensors"))
    (tmp_path / "model.gguf").write_text("nonsense")
    with pytest.raises(PrivetError, match="cannot be loaded"):
        load(str(tmp_path / "model.gguf"))


def test_a_hub_name_without_a_network() -> None:
    with pytest.raises(PrivetError, match="cannot be loaded") as caught:
        load("nobody/nothing")
    assert "network" in str(caught.value.hint)


def damaged(folder: str, tmp_path: Path) -> Path:
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    return copy


def test_cut_weights(folder: str, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PrivetError, match="model cannot be loaded") as caught:
        load(str(copy))
    assert "copy it again" in str(caught.value.hint)


def test_weights_that_are_missing_are_not_made_up(folder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = damaged(folder, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(PrivetError, match="1 tensors are missing") as caught:
        load(str(copy))
    assert "layers.1.mlp.up_proj" in str(caught.value.given)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_files_that_are_gone(folder: str, tmp_path: Path, file: str) -> None:
    copy = damaged(folder, tmp_path)
    (copy / file).unlink()
    with pytest.raises(PrivetError, match="cannot be loaded"):
        load(str(copy))


def test_a_model_that_is_not_causal(tmp_path: Path) -> None:
    shape = {"vocab_size": 290, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**shape, intermediate_size=16)).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(PrivetError):
        load(str(tmp_path / "bert"))


def test_code_in_a_models_folder_is_not_run(folder: str, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path)
    facts = json.loads((copy / "config.json").read_text())
    facts |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (copy / "config.json").write_text(json.dumps(facts))
    (copy / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(PrivetError, match="cannot be loaded"):
        load(str(copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU answers")
@pytest.mark.parametrize(
    ("facts", "field"),
    [({"quantization": "4bit"}, "model.quantization"), ({"device": "cuda"}, "model.device")],
)
def test_without_a_gpu(folder: str, facts: dict[str, Any], field: str) -> None:
    with pytest.raises(PrivetError, match="GPU") as caught:
        load(folder, **facts)
    assert caught.value.field == field
    assert caught.value.hint


def test_quantization_on_the_processor_is_refused_in_the_configuration() -> None:
    with pytest.raises(ValueError, match="needs device"):
        ModelConfig(quantization="8bit", device="cpu")


# --- the processor -------------------------------------------------------------------------------------------


AMD, INTEL = ("vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n")


@pytest.mark.parametrize(
    ("text", "fast", "name"),
    [
        (
            f"{AMD}model name\t: Fast\nflags\t\t: fpu avx512f avx512_bf16\n\nmodel name\t: Other\nflags\t: fpu\n",
            True,
            "Fast",
        ),
        (f"{AMD}model name\t: Slow\nflags\t\t: fpu avx2 avx512f\n", False, "Slow"),
        (f"{INTEL}flags\t\t: fpu avx512f avx512_bf16 amx_bf16\n", True, None),
        (f"{INTEL}flags\t\t: fpu avx512f avx512_bf16\n", False, None),
        ("Features\t: fp asimd bf16 sve\n", True, None),
    ],
)
def test_cpu_features(text: str, fast: bool, name: str | None, tmp_path: Path) -> None:
    """Native is not fast: Intel's processors without AMX multiply bfloat16 at half the rate of float32."""
    (tmp_path / "cpuinfo").write_text(text)
    found = cpu_features(tmp_path / "cpuinfo")
    assert found.fast_bf16 == fast
    assert name is None or found.name == name
    assert found.cores >= 1


def test_cpu_features_without_linux(tmp_path: Path) -> None:
    found = cpu_features(tmp_path / "none")
    assert (found.features, found.fast_bf16) == ((), False)


def test_dtype_that_is_asked_for_is_taken() -> None:
    assert choose_dtype(ModelConfig(dtype="bfloat16"), "cpu") == "bfloat16"


def test_on_a_gpu_quantization_goes_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU to run on; held is what would be passed on to one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    config = ModelConfig(quantization="4bit")
    assert choose_device(config) == "cuda"
    assert choose_device(ModelConfig(device="cpu")) == "cpu"
    assert choose_dtype(config, "cuda") == "bfloat16"
    with pytest.raises(PrivetError, match="bitsandbytes"):
        models._quantization(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert models._quantization(config).load_in_4bit
    assert models._quantization(ModelConfig(quantization="8bit")).load_in_8bit
