"""Fuzzing the parsers: whatever arrives, it is a body that the schema allows or a `WireError`, in little memory."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privet.errors import PrivetError
from privet.protocol import RoundId
from privet.sealing.envelope import Address, open_envelope, seal_envelope
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.wire import (
    Array,
    Blob,
    Body,
    Flag,
    Kind,
    Real,
    Schema,
    Text,
    UpTo,
    Whole,
    WireError,
    decode,
    encode,
)

DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
)
NAMES = st.text(min_size=1, max_size=8)


def arrays() -> st.SearchStrategy[Any]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    return st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    arrays(),
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=6)


def kind_of(value: object) -> Kind:
    match value:
        case bool():
            return Flag()
        case int():
            return Whole()
        case float():
            return Real(finite=False)
        case str():
            return Text(len(value.encode()))
        case bytes():
            return Blob(len(value))
        case np.ndarray():
            return Array(value.dtype.name, tuple(UpTo(size) for size in value.shape))
    raise AssertionError


def schema_of(body: Body) -> Schema:
    return Schema({name: kind_of(value) for name, value in body.items()})


def decode_or_refuse(data: bytes, schema: Schema) -> Body | None:
    try:
        return decode(data, schema)
    except WireError:
        return None


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


@given(BODIES)
@settings(max_examples=200)
def test_round_trip(body: Body) -> None:
    schema = schema_of(body)
    data = encode(body, schema)
    read = decode(data, schema)
    assert read.keys() == body.keys()
    assert all(same(read[name], body[name]) for name in body)
    assert len(data) <= schema.max_bytes()
    assert encode(dict(reversed(read.items()))) == data


@given(BODIES, st.data())
@settings(max_examples=300)
def test_a_mutated_message_is_refused_or_is_the_encoding_of_what_it_says(
    body: Body, data: st.DataObject
) -> None:
    schema = schema_of(body)
    mutated = bytearray(encode(body))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position] ^= 1 << data.draw(st.integers(0, 7))
    read = decode_or_refuse(bytes(mutated), schema)
    if read is not None:
        schema.check(read)
        assert encode(read) == bytes(mutated)


@given(BODIES, st.data())
@settings(max_examples=100)
def test_a_truncated_or_extended_message_is_refused(body: Body, data: st.DataObject) -> None:
    schema, good = schema_of(body), encode(body)
    end = data.draw(st.integers(0, len(good) - 1))
    assert decode_or_refuse(good[:end], schema) is None
    assert decode_or_refuse(good + data.draw(st.binary(min_size=1, max_size=9)), schema) is None


FIXED = Schema(
    {
        "a": Whole(0, 5),
        "b": Blob(1 << 40),
        "v": Array("float64", (UpTo(1 << 40), UpTo(1 << 17))),
        "s": Text(1 << 40),
    },
    optional=frozenset({"a", "b", "s", "v"}),
)


@given(st.binary(max_size=200), st.sampled_from([b"", b"PVT\x01", b"PVT\x01\x01\x00\x01v\x06\x0a\x02"]))
@settings(max_examples=400)
def test_random_bytes_never_do_more_than_get_refused(noise: bytes, start: bytes) -> None:
    tracemalloc.start()
    try:
        read = decode_or_refuse(start + noise, FIXED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if read is not None:
        assert encode(read) == start + noise
    assert peak < 1 << 18


SENDER = Identity.from_root(bytes(32))
ADDRESS = Address(0, 1, "run", RoundId(2), "round")
ENVELOPE = seal_envelope(SENDER, bytes(32), ADDRESS, b"payload of a message")


def open_or_refuse(data: bytes) -> bytes | None:
    try:
        return bytes(
            open_envelope(
                data,
                expected=ADDRESS,
                keys={0: SENDER.public_key},
                roster_hash=bytes(32),
                max_payload=1 << 40,
            )
        )
    except WireError:
        return None


@given(st.data())
@settings(max_examples=300)
def test_an_envelope_that_was_touched_does_not_open(data: st.DataObject) -> None:
    mutated = bytearray(ENVELOPE)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(mutated)))
        end = data.draw(st.integers(start, min(len(mutated), start + 9)))
        mutated[start:end] = data.draw(st.binary(max_size=9))
    if bytes(mutated) != ENVELOPE:
        assert open_or_refuse(bytes(mutated)) is None
    assert open_or_refuse(data.draw(st.binary(max_size=200))) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300)
def test_a_roster_file_is_read_or_refused_as_a_users_mistake(data: st.DataObject) -> None:
    document = Roster.in_memory(["a", "b"], [Identity.from_root(bytes([i]) * 32) for i in (1, 2)])
    content = json.loads(document.to_json())
    where = data.draw(st.sampled_from(["privet_roster", "consortium", "members", "signatures", "new"]))
    content[where] = data.draw(JSON)
    if data.draw(st.booleans()) and isinstance(content.get("members"), list) and content["members"]:
        content["members"][0] = data.draw(JSON)
    text = json.dumps(content) if data.draw(st.booleans()) else data.draw(st.text(max_size=50))
    with contextlib.suppress(PrivetError):
        Roster.from_json(text)
