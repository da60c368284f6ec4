"""Forecast lengths are those of real messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.traffic import Traffic, message_bytes
from privet.wire import Array, Blob, Flag, Real, Schema, Text, UpTo, Whole, encode

DTYPES = ("bool", "uint8", "int32", "float64")


@given(st.data())
def test_a_forecast_is_the_length_of_the_message(data: st.DataObject) -> None:
    """Whatever stands where: arrays are padded to where they begin."""
    names = data.draw(st.lists(st.text("abcdeé_", min_size=1, max_size=9), unique=True, max_size=8))
    kinds: dict[str, Any] = {}
    body: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    for name in names:
        kind = data.draw(st.sampled_from(["flag", "whole", "real", "text", "blob", "fixed", "array"]))
        length = data.draw(st.integers(0, 20))
        if kind == "flag":
            kinds[name], body[name] = Flag(), True
        elif kind == "whole":
            kinds[name], body[name] = Whole(), length
        elif kind == "real":
            kinds[name], body[name] = Real(), 0.5
        elif kind == "text":
            kinds[name], body[name], sizes[name] = Text(20), "x" * length, length
        elif kind == "blob":
            kinds[name], body[name], sizes[name] = Blob(20), bytes(length), length
        elif kind == "fixed":
            kinds[name], body[name] = Blob(length, length), bytes(length)
        else:
            dtype, columns = data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(0, 3))
            kinds[name] = Array(dtype, (UpTo(20), columns))
            body[name], sizes[name] = np.zeros((length, columns), dtype), (length, columns)
    schema = Schema(kinds)
    assert message_bytes(schema, **sizes) == len(encode(body, schema))


def test_an_optional_field_counts_where_its_size_is_given() -> None:
    schema = Schema({"a": Whole(), "b": Blob(9)}, optional=frozenset({"b"}))
    assert message_bytes(schema) == len(encode({"a": 1}, schema))
    assert message_bytes(schema, b=4) == len(encode({"a": 1, "b": b"1234"}, schema))


def test_a_size_that_is_needed_is_asked_for() -> None:
    schema = Schema({"a": Array("uint8", (UpTo(4), 2)), "b": Blob(9)})
    for sizes in (
        {},
        {"a": (1, 2)},
        {"b": 1},
        {"a": (1, 3), "b": 1},
        {"a": (5, 2), "b": 1},
        {"a": 2, "b": 1},
    ):
        with pytest.raises(ValueError, match="is needed"):
            message_bytes(schema, **sizes)  # type: ignore[arg-type]  # mappings of several types


def test_traffic_adds_up() -> None:
    question, answer = Schema({"a": Whole()}), Schema({"b": Blob(9)})
    one = Traffic.of(question, answer, {}, {"b": 3})
    assert (one.up, one.down) == (len(encode({"b": b"abc"})), len(encode({"a": 1})))
    assert (one + one) * 0.5 == one
