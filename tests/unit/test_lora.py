"""Layout of the flat vector, A's public start, and folders that plain `peft` loads with the same logits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import FAMILIES, LAYERS, make_model, random_flat, spec
from transformers import AutoModelForCausalLM

from privet.errors import PrivetError
from privet.lora import AdaptedLayer, AdapterLayout, LoraSpec, default_targets, initial_a
from privet.lora_layers import attach, layout_of
from privet.train import Backbone

GOLDEN = "7e7c47abed4123a9c8cc2d2d23ede7f177cd3ae345dceff3fb5c29e30dda1c75"
PREFIX = "base_model.model.model.layers"


def test_the_vector_holds_a_then_b_layer_by_layer_in_the_model_s_order() -> None:
    both = layout_of(make_model(), spec("both", 2))
    names = [tensor.name for tensor in both.tensors]
    expected = [
        f"{PREFIX}.{layer}.self_attn.{target}.lora_{factor}.weight"
        for layer in (1, 2)
        for target in ("q_proj", "v_proj")
        for factor in "AB"
    ]
    assert names == expected
    assert [tensor.shape for tensor in both.tensors[:4]] == [(3, 32), (32, 3), (3, 32), (16, 3)]
    assert [tensor.start for tensor in both.tensors[1:]] == [tensor.stop for tensor in both.tensors[:-1]]
    frozen = layout_of(make_model(), spec("freeze_a", 2))
    assert [tensor.name for tensor in frozen.tensors] == expected[1::2]
    assert frozen.dimension == 2 * (32 + 16) * 3


def test_layouts_need_no_weights() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(FAMILIES["qwen2"])
    assert layout_of(model, spec()) == layout_of(make_model("qwen2"), spec())


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.data(),
)
def test_property_flatten_inverts_split(
    rank: int, widths: list[tuple[int, int]], data: st.DataObject
) -> None:
    factors = data.draw(st.sampled_from(["both", "freeze_a"]))
    layers = tuple(AdaptedLayer(f"m.{i}.q", n, m) for i, (n, m) in enumerate(widths))
    layout = AdapterLayout(LoraSpec(rank=rank, factors=factors), layers, ("q",))
    assert layout.dimension == sum(rank * (m + (n if factors == "both" else 0)) for n, m in widths)
    flat = np.random.default_rng(0).standard_normal(layout.dimension).astype(np.float32)
    np.testing.assert_array_equal(layout.flatten(layout.split(flat)), flat)
    assert set(layout.peft_state(flat)) == set(layout.initial_state())
    assert len(layout.peft_state(flat)) == 2 * len(widths)


def test_a_starts_the_same_on_every_machine() -> None:
    drawn = initial_a(7, "some.layer", (4, 25))
    assert drawn.dtype == np.float32
    # Taken once; other bits on some machine would mean that parties start from different adapters.
    assert hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest() == GOLDEN
    assert np.abs(drawn).max() <= 0.2
    wide = initial_a(0, "wide", (64, 576))
    assert wide.std() == pytest.approx(1 / np.sqrt(3 * 576), rel=0.02)
    for other in (initial_a(8, "some.layer", (4, 25)), initial_a(7, "other.layer", (4, 25))):
        assert not np.array_equal(drawn, other)


def test_a_does_not_depend_on_which_other_layers_are_adapted() -> None:
    model = make_model()
    few, all_layers = (layout_of(model, spec(layers=layers)).initial_state() for layers in (1, "all"))
    for name, value in few.items():
        np.testing.assert_array_equal(all_layers[name], value)


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", (0, 1, 2)), (2, (1, 2)), ((2, 0, 2), (0, 2)), (3, (0, 1, 2))]
)
def test_layers_are_all_top_ones_or_a_list(layers: Any, expected: tuple[int, ...]) -> None:
    assert spec(layers=layers).chosen_layers(LAYERS) == expected


@pytest.mark.parametrize("layers", [0, 4, -1, (3,), (-1, 2), ()])
def test_layers_that_are_not_there_are_refused(layers: Any) -> None:
    with pytest.raises(PrivetError, match="no such layers") as caught:
        spec(layers=layers).chosen_layers(LAYERS)
    assert caught.value.field == "lora.layers"


@pytest.mark.parametrize(("setting", "value"), [("rank", 0), ("alpha", 0.0)])
def test_a_spec_without_size_is_refused(setting: str, value: float) -> None:
    with pytest.raises(PrivetError) as caught:
        spec(**{setting: value})
    assert caught.value.field == f"lora.{setting}"


def test_targets_default_by_family_and_mistakes_name_what_there_is() -> None:
    assert default_targets(["o_proj", "q_proj", "v_proj"]) == ("q_proj", "v_proj")
    assert default_targets(["c_attn", "c_proj", "c_fc"]) == ("c_attn",)
    with pytest.raises(PrivetError, match="no default") as caught:
        default_targets(["x", "y"])
    assert "x, y" in caught.value.render()
    with pytest.raises(PrivetError, match="no such layer") as caught:
        layout_of(make_model(), spec(targets=("q_proj", "query")))
    assert caught.value.given == "query"
    assert "k_proj" in caught.value.render()
    with pytest.raises(PrivetError, match="decoder's layers"):
        layout_of(torch.nn.Linear(2, 2), spec())


def test_the_device_memory_of_all_layers_is_the_flat_vector() -> None:
    model = make_model()
    attachment = attach(model, spec())
    vector = np.arange(attachment.layout.dimension, dtype=np.float32)
    attachment.set_flat(vector)
    pieces = attachment.layout.split(vector)
    layer = model.get_submodule("model.layers.1.self_attn.v_proj")
    np.testing.assert_array_equal(layer.a.numpy(), pieces[f"{PREFIX}.1.self_attn.v_proj.lora_A.weight"])
    np.testing.assert_array_equal(layer.b.numpy(), pieces[f"{PREFIX}.1.self_attn.v_proj.lora_B.weight"])
    assert not [name for name, parameter in model.named_parameters() if parameter.requires_grad]


# peft 0.21 asks transformers 5.23 for an attribute by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("family", "factors", "layers", "targets", "dtype"),
    [
        ("llama", "freeze_a", 2, None, torch.float32),
        ("llama", "both", (0, 2), ("q_proj", "o_proj", "down_proj"), torch.bfloat16),
        ("qwen2", "both", "all", None, torch.float32),
        ("gpt2", "both", 2, ("c_attn", "c_fc"), torch.float32),
        ("gpt2", "freeze_a", "all", None, torch.float32),
    ],
)
def test_plain_peft_loads_the_folder_and_gives_the_same_logits(
    tmp_path: Path, family: str, factors: str, layers: Any, targets: Any, dtype: torch.dtype
) -> None:
    from peft import PeftModel

    model = make_model(family, dtype=dtype)
    backbone = Backbone(model, spec(factors, layers, targets=targets))
    flat = random_flat(backbone)
    backbone.set_flat(flat)
    ids = torch.arange(3, 33).view(2, 15)
    with torch.no_grad():
        ours = model(input_ids=ids).logits.float()
        backbone.layout.save_peft(flat, tmp_path, "some/base")
        fresh = make_model(family, dtype=dtype)
        bare = fresh(input_ids=ids).logits.float()
        loaded = PeftModel.from_pretrained(fresh, str(tmp_path))
        theirs = loaded(input_ids=ids).logits.float()
    assert (ours - bare).abs().max() > 0.1
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    np.testing.assert_array_equal(backbone.layout.load_peft(tmp_path), flat)

    loaded.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    np.testing.assert_array_equal(backbone.layout.load_peft(tmp_path / "peft"), flat)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    layout = layout_of(make_model(), spec("freeze_a", 1))
    with pytest.raises(PrivetError, match="no adapter here"):
        layout.load_peft(tmp_path)
    layout.save_peft(layout.initial_flat(), tmp_path, "base")
    with pytest.raises(PrivetError, match="has no tensor"):
        layout_of(make_model(), spec("both", 2)).load_peft(tmp_path)
    with pytest.raises(PrivetError, match="init_seed"):
        layout_of(make_model(), spec("freeze_a", 1, init_seed=1)).load_peft(tmp_path)
