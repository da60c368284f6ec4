"""``invert.sequence``: whole records out of gradients of a random model as wide as the attack needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from privet.attacks import control
from privet.attacks.control import Prepared
from privet.attacks.invert_sequence import RANK, Frame, Reader
from privet.attacks.layer_inputs import LayerInputs
from privet.attacks.pursuit import unit_rows
from privet.fixed_point import MAX_BOUND, Grid
from privet.lora import LoraSpec
from privet.material import LoraTrainer
from privet.pipeline import Round
from privet.tokenise import Example
from privet.train import Backbone

BEGIN, END, ANSWERS = (5, 6), (7, 8), (9, 10)
TEXTS = ((20, 31, 22, 40, 31, 60), (60, 31, 40, 22, 31, 20), (11, 80, 12, 90, 13, 70, 14, 15))
ROUNDING = Round(Grid(2.0**-17, MAX_BOUND), 4.0, 1 << 21)


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=97, hidden_size=256, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(shape)
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() > 1 else 1.0)
    spec = LoraSpec(RANK, 2.0 * RANK, ("q_proj", "v_proj"), control.LAYERS, "both", 0)
    backbone = Backbone(model.eval(), spec)
    backbone.set_flat(
        (0.02 * np.random.default_rng(0).standard_normal(backbone.dimension)).astype(np.float32)
    )
    inputs = LayerInputs(model, backbone.layout, 0)
    raw = inputs.vocabulary()
    material: Any = SimpleNamespace(trainer=LoraTrainer(backbone, 1))
    prepared = Prepared(material, inputs, raw, unit_rows(raw), (*BEGIN, *END))
    return Reader(prepared, LayerInputs(model, backbone.layout, 1), Frame(BEGIN, END, ANSWERS), ROUNDING)


def message(reader: Reader, ids: tuple[int, ...]) -> np.ndarray:
    """What a client sends of one local step, on the public grid."""
    supervised = np.zeros(len(ids), np.bool_)
    supervised[-2] = True
    record = Example("x", np.array(ids, np.int32), supervised)
    step = -control.RATE * reader.prepared.material.trainer.mean_gradient([record])
    steps = np.clip(np.rint(step / ROUNDING.grid.step), -ROUNDING.limit, ROUNDING.limit).astype(np.int64)
    return ROUNDING.backward(steps)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_record_is_read_in_order_with_its_answer(
    reader: Reader, text: tuple[int, ...], answer: int
) -> None:
    ids = (*BEGIN, *text, *END, answer)
    assert reader.recover(message(reader, ids), 20) == ids


def test_nothing_is_read_out_of_noise(reader: Reader) -> None:
    ids = (*BEGIN, *TEXTS[0], *END, ANSWERS[0])
    direction = message(reader, ids)
    noise = np.random.default_rng(1).standard_normal(len(direction)) * np.abs(direction).max()
    assert reader.recover((direction + noise).astype(np.float32), 14) == ()


def test_a_frame_is_what_public_texts_share() -> None:
    texts = [(5, 6, 1, 2, 7, 8), (5, 6, 3, 7, 8), (5, 6, 4, 4, 4, 7, 8)]
    assert Frame.of(texts, ANSWERS) == Frame(BEGIN, END, ANSWERS)
    assert Frame.of([(5, 6), (5, 6)], ()) == Frame((5, 6), (), ())
