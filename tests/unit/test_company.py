"""Rows that keep their bits in other company, and rows that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_models import FAMILIES, ODD
from transformers import (
    BitsAndBytesConfig,
    DbrxConfig,
    DeepseekV3Config,
    Llama4Config,
    LlamaConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from privet.company import bytes_of, computes_by_content, keeps_bits

ROWS = 8
VALUES = np.random.default_rng(0).standard_normal((ROWS + 1, 5)).astype(np.float32)


def sound(order: list[int]) -> NDArray[np.uint8]:
    return bytes_of(VALUES[order] * np.float32(0.1))


def with_the_sum_of_all(order: list[int]) -> NDArray[np.uint8]:
    rows = VALUES[order]
    return bytes_of(rows + np.float32(1e-7) * np.abs(rows).sum())


def with_its_place(order: list[int]) -> NDArray[np.uint8]:
    return bytes_of(VALUES[order] * np.linspace(1, 1 + 1e-6, len(order), dtype=np.float32)[:, None])


def with_another_end(order: list[int]) -> NDArray[np.uint8]:
    rows = VALUES[order].copy()
    rows[-1] *= np.float32(1 + 1e-6)  # the rest of a blocked product, in other instructions
    return bytes_of(rows)


def with_its_neighbour(order: list[int]) -> NDArray[np.uint8]:
    rows = VALUES[order]
    return bytes_of(rows + np.float32(1e-6) * np.roll(rows, 1, axis=0))


def test_rows_that_depend_on_themselves_alone_keep_their_bits() -> None:
    assert keeps_bits(sound, ROWS)
    assert keeps_bits(sound, 2)


@pytest.mark.parametrize("run", [with_the_sum_of_all, with_its_place, with_another_end, with_its_neighbour])
def test_rows_that_depend_on_company_or_place_are_found_out(
    run: Callable[[list[int]], NDArray[np.uint8]],
) -> None:
    assert not keeps_bits(run, ROWS)
    assert not keeps_bits(run, 2)


def test_a_difference_in_one_bit_counts_even_where_numbers_are_equal() -> None:
    def signed_zero(order: list[int]) -> NDArray[np.uint8]:
        return bytes_of(np.where(np.arange(ROWS)[:, None] == 0, np.float32(-0.0), np.float32(0.0)))

    assert not keeps_bits(signed_zero, ROWS)


@pytest.mark.parametrize(
    "config", [MixtralConfig(), Qwen3MoeConfig(), DeepseekV3Config(), DbrxConfig(), Llama4Config()]
)
def test_experts_are_found_whatever_a_family_calls_them_and_in_nested_parts(config: Any) -> None:
    assert computes_by_content(config)


@pytest.mark.parametrize(("threshold", "shared"), [(6.0, False), (0.0, True)])
def test_8_bit_weights_are_not_tried_where_one_row_s_outlier_changes_the_others(
    threshold: float, shared: bool
) -> None:
    config = LlamaConfig()
    config.quantization_config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=threshold)
    assert computes_by_content(config) != shared
    config.quantization_config = config.quantization_config.to_dict()
    assert computes_by_content(config) != shared
    config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    assert not computes_by_content(config)


@pytest.mark.parametrize("config", [*FAMILIES.values(), ODD["bloom"], MixtralConfig(num_local_experts=1)])
def test_models_without_experts_or_with_one_are_tried(config: Any) -> None:
    assert not computes_by_content(config)
