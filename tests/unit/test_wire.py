"""The wire format: one encoding for each body, and a reason for each refusal."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from privet.protocol import RoundId
from privet.sealing.envelope import SERVER, Address, open_envelope, seal_envelope
from privet.sealing.identity import Identity
from privet.wire import (
    MAX_FIELDS,
    Array,
    Blob,
    Body,
    Flag,
    Real,
    Schema,
    Text,
    UpTo,
    Whole,
    WireError,
    decode,
    encode,
)

SCHEMA = Schema(
    {
        "attempt": Whole(0, 9),
        "done": Flag(),
        "loss": Real(),
        "name": Text(8),
        "blob": Blob(8, 2),
        "values": Array("int64", (UpTo(100),)),
        "matrix": Array("float32", (2, UpTo(3))),
        "scalar": Array("float64", ()),
        "mask": Array("bool", (UpTo(8),)),
    },
    optional=frozenset({"scalar"}),
)
BODY: Body = {
    "name": "zürich",
    "attempt": 3,
    "done": True,
    "loss": -0.5,
    "blob": b"\x00\xff",
    "values": np.arange(-3, 4),
    "matrix": np.ones((2, 3), np.float32),
    "scalar": np.array(2.5),
    "mask": np.array([True, False, True]),
}


def refused(data: bytes, schema: Schema = SCHEMA) -> str:
    with pytest.raises(WireError) as caught:
        decode(data, schema)
    return caught.value.reason


def one(kind_name: str, value: object) -> bytes:
    return encode({kind_name: value})  # type: ignore[dict-item]  # on purpose any object


def test_a_body_comes_back_as_it_was() -> None:
    read = decode(encode(BODY, SCHEMA), SCHEMA)
    assert set(read) == set(BODY)
    for name, value in BODY.items():
        got = read[name]
        assert type(got) is type(value)
        if isinstance(value, np.ndarray) and isinstance(got, np.ndarray):
            assert got.dtype == value.dtype
            assert got.shape == value.shape
            assert not got.flags.writeable
            assert np.array_equal(got, value)
        else:
            assert got == value


def test_equal_bodies_have_equal_bytes() -> None:
    values = np.arange(12, dtype=np.int32).reshape(3, 4)
    twin: Body = {"b": values.astype(">i4"), "a": 1}
    strided: Body = {"a": 1, "b": np.repeat(values, 2, axis=1)[:, ::2]}
    fortran: Body = {"a": 1, "b": np.asfortranarray(values)}
    expected = encode({"a": 1, "b": values})
    assert encode(twin) == encode(strided) == encode(fortran) == expected


def test_the_layout_is_the_documented_one() -> None:
    assert encode({"n": 5}).hex() == "505654010100016e020500000000000000"
    array = encode({"v": np.array([1, 2], np.uint16)})
    assert array.hex() == ("50565401010001760606010200000000000000" + "00" * 5 + "01000200")


def test_a_message_is_no_longer_than_its_schema_says() -> None:
    full = {**BODY, "name": "12345678", "blob": bytes(8), "values": np.arange(100), "mask": np.ones(8, bool)}
    assert len(encode(full, SCHEMA)) <= SCHEMA.max_bytes()


def test_arrays_are_views_of_the_message() -> None:
    schema = Schema({"x": Array("int64", (UpTo(1 << 20),))})
    data = encode({"x": np.arange(1 << 20)})
    tracemalloc.start()
    try:
        read = decode(data, schema)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(read["x"], np.ndarray)
    assert peak < 1 << 16


def test_what_is_not_in_the_schema_is_refused_in_both_directions() -> None:
    extra: Body = {**BODY, "loss_of_patient_7": 1.0}
    with pytest.raises(WireError, match="unknown-field"):
        encode(extra, SCHEMA)
    smaller = Schema({k: v for k, v in SCHEMA.fields.items() if k != "loss"})
    assert refused(encode(BODY), smaller) == "unknown-field"
    missing = {k: v for k, v in BODY.items() if k != "loss"}
    assert refused(encode(missing)) == "missing-field"
    decode(encode({k: v for k, v in BODY.items() if k != "scalar"}), SCHEMA)


def test_refusals_never_repeat_what_the_sender_wrote() -> None:
    with pytest.raises(WireError) as caught:
        decode(encode({"secret-canary": 1}), SCHEMA)
    assert "canary" not in str(caught.value)


def test_floats_are_their_bits_and_in_arrays_any() -> None:
    """As docs/wire.md says: what is read gives the same bytes again, also where values do not equal themselves."""
    schema = Schema({"x": Real(), "a": Array("float32", (UpTo(9),))})
    numbers = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    one, other = (encode({"x": zero, "a": numbers}, schema) for zero in (0.0, -0.0))
    assert one != other
    for raw in (one, other):
        assert encode(decode(raw, schema), schema) == raw


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("attempt", 10, "out-of-range"),
        ("attempt", -1, "out-of-range"),
        ("attempt", True, "wrong-type"),
        ("attempt", 1.0, "wrong-type"),
        ("done", 1, "wrong-type"),
        ("loss", float("nan"), "out-of-range"),
        ("loss", float("inf"), "out-of-range"),
        ("name", "123456789", "too-large"),
        ("blob", bytes(9), "too-large"),
        ("blob", b"1", "too-small"),
        ("blob", "text", "wrong-type"),
        ("values", np.arange(101), "wrong-shape"),
        ("values", np.arange(4).reshape(2, 2), "wrong-shape"),
        ("values", np.arange(4, dtype=np.int32), "wrong-dtype"),
        ("values", b"bytes", "wrong-type"),
        ("matrix", np.ones((3, 3), np.float32), "wrong-shape"),
        ("matrix", np.ones((2, 4), np.float32), "wrong-shape"),
        ("scalar", np.ones(1), "wrong-shape"),
    ],
)
def test_wrong_values_are_refused_when_sent_and_when_received(name: str, value: object, reason: str) -> None:
    body: Body = {**BODY, name: value}  # type: ignore[dict-item]  # on purpose any object
    with pytest.raises(WireError) as caught:
        encode(body, SCHEMA)
    assert caught.value.reason == reason
    assert caught.value.where == name
    assert refused(encode(body)) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "wrong-type"),
        (np.int64(1), "wrong-type"),
        (np.bool_(True), "wrong-type"),
        ([1], "wrong-type"),
        (1 << 63, "out-of-range"),
        ("\ud800", "bad-text"),
        (np.ones(1, np.float16), "wrong-dtype"),
        (np.array(["x"]), "wrong-dtype"),
        (np.array([None]), "wrong-dtype"),
        (np.ones((1,) * 9), "wrong-dtype"),
    ],
)
def test_values_without_a_place_on_the_wire_are_not_sent(value: object, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        one("x", value)
    assert caught.value.reason == reason


def test_damaged_headers_are_refused_with_their_reason() -> None:
    good = encode(BODY)
    assert refused(b"") == "truncated"
    assert refused(b"PK\x03\x04" + good[4:]) == "bad-magic"
    assert refused(good[:3] + b"\x02" + good[4:]) == "bad-version"
    assert refused(good + b"\x00") == "trailing-bytes"
    assert refused(good[:4] + struct.pack("<H", MAX_FIELDS) + good[6:]) == "unknown-field"
    assert refused(good[:4] + struct.pack("<H", len(BODY) + 1) + good[6:]) in {"truncated", "unknown-field"}


def test_every_truncation_is_refused() -> None:
    good = encode(BODY)
    assert {refused(good[:end]) for end in range(len(good))} == {"truncated"}


def test_fields_are_written_once_and_in_order() -> None:
    schema = Schema({"a": Flag(), "b": Flag()})
    field_a, field_b = b"\x01a\x01\x01", b"\x01b\x01\x01"
    head = b"PVT\x01\x02\x00"
    assert decode(head + field_a + field_b, schema) == {"a": True, "b": True}
    assert refused(head + field_a + field_a, schema) == "duplicate-field"
    assert refused(head + field_b + field_a, schema) == "field-order"


def test_values_have_one_encoding_only() -> None:
    schema = Schema(
        {"a": Flag(), "t": Text(9), "v": Array("bool", (1,))}, optional=frozenset({"a", "t", "v"})
    )
    head = b"PVT\x01\x01\x00"
    assert refused(head + b"\x01a\x01\x02", schema) == "out-of-range"
    assert refused(head + b"\x01t\x04" + struct.pack("<Q", 2) + b"\xff\xfe", schema) == "bad-text"
    assert refused(head + b"\x02\xff\xfe\x01\x01", schema) == "bad-text"
    array = bytearray(encode({"v": np.array([True])}))
    assert decode(bytes(array), schema)
    array[-1] = 2
    assert refused(bytes(array), schema) == "out-of-range"
    array[-1], array[-2] = 1, 1
    assert refused(bytes(array), schema) == "bad-padding"


def test_sizes_are_checked_before_memory_is_used() -> None:
    """A few bytes that claim exabytes must not make the receiver allocate anything."""
    schema = Schema({"b": Blob(1 << 62), "t": Text(8), "v": Array("float64", (UpTo(1 << 40), UpTo(1 << 17)))})
    head = b"PVT\x01\x01\x00"
    claims = [
        b"\x01b\x05" + struct.pack("<Q", 1 << 61) + b"xy",
        b"\x01b\x05" + struct.pack("<Q", (1 << 64) - 1) + b"xy",
        b"\x01t\x04" + struct.pack("<Q", 9) + b"123456789",
        b"\x01v\x06\x0a\x02" + struct.pack("<QQ", 1 << 40, 1 << 17) + bytes(16),
        b"\x01v\x06\x0a\x02" + struct.pack("<QQ", (1 << 64) - 1, 2) + bytes(16),
    ]
    tracemalloc.start()
    try:
        reasons = [refused(head + claim, schema) for claim in claims]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reasons == ["truncated", "too-large", "too-large", "truncated", "wrong-shape"]
    assert peak < 1 << 20


def test_an_empty_array_of_the_largest_shape_is_read() -> None:
    schema = Schema({"v": Array("float64", (UpTo(1 << 40), UpTo(1 << 17)))})
    for shape in ((0, 1 << 17), (1 << 40, 0)):
        read = decode(encode({"v": np.zeros(shape)}), schema)["v"]
        assert isinstance(read, np.ndarray)
        assert read.shape == shape


def test_schemas_that_cannot_be_kept_are_not_made() -> None:
    with pytest.raises(ValueError, match="no such array"):
        Array("float16", (1,))
    with pytest.raises(ValueError, match="at most"):
        Array("float64", (UpTo(1 << 40), UpTo(1 << 18)))
    with pytest.raises(ValueError, match="fields"):
        Schema({"a": Flag()}, optional=frozenset({"b"}))
    with pytest.raises(ValueError, match="names"):
        Schema({"": Flag()})


# ---- signed envelopes

IDENTITIES = [Identity.from_root(bytes([i]) * 32) for i in range(3)]
KEYS = {party: identity.public_key for party, identity in enumerate(IDENTITIES)}
ROSTER_HASH = bytes(32)
EXPECTED = Address(1, SERVER, "run-7", RoundId(4, 1), "round")
PAYLOAD = encode({"x": np.arange(3)})


def opened(data: bytes, expected: Address = EXPECTED, roster_hash: bytes = ROSTER_HASH) -> bytes:
    return bytes(open_envelope(data, expected=expected, keys=KEYS, roster_hash=roster_hash, max_payload=1000))


def envelope_refused(data: bytes, expected: Address = EXPECTED, roster_hash: bytes = ROSTER_HASH) -> str:
    with pytest.raises(WireError) as caught:
        opened(data, expected, roster_hash)
    return caught.value.reason


def test_an_envelope_opens_for_whom_it_was_sealed() -> None:
    data = seal_envelope(IDENTITIES[1], ROSTER_HASH, EXPECTED, PAYLOAD)
    assert opened(data) == PAYLOAD
    view = open_envelope(data, expected=EXPECTED, keys=KEYS, roster_hash=ROSTER_HASH, max_payload=1000)
    read = decode(view, Schema({"x": Array("int64", (3,))}))
    assert isinstance(read["x"], np.ndarray)
    assert read["x"].tolist() == [0, 1, 2]
    assert data == seal_envelope(IDENTITIES[1], ROSTER_HASH, EXPECTED, PAYLOAD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sender": 2}, "wrong-sender"),
        ({"receiver": 0}, "wrong-receiver"),
        ({"run": "run-8"}, "wrong-run"),
        ({"round": RoundId(5, 1)}, "wrong-round"),
        ({"round": RoundId(4, 2)}, "wrong-round"),
        ({"op": "evaluate"}, "wrong-op"),
    ],
)
def test_an_envelope_for_something_else_is_refused(changes: dict[str, object], reason: str) -> None:
    other = Address(**{**vars(EXPECTED), **changes})
    data = seal_envelope(IDENTITIES[1], ROSTER_HASH, other, PAYLOAD)
    assert envelope_refused(data) == reason
    # A forger who rewrites the header to what is expected still lacks the signature.
    forged = seal_envelope(IDENTITIES[2], ROSTER_HASH, EXPECTED, PAYLOAD)
    assert envelope_refused(forged) == "bad-signature"


def test_an_envelope_of_another_roster_or_an_unknown_sender_is_refused() -> None:
    data = seal_envelope(IDENTITIES[1], ROSTER_HASH, EXPECTED, PAYLOAD)
    assert envelope_refused(data, roster_hash=b"\x01" * 32) == "bad-signature"
    stranger = Address(9, SERVER, "run-7", RoundId(4, 1), "round")
    unknown = seal_envelope(IDENTITIES[1], ROSTER_HASH, stranger, PAYLOAD)
    assert envelope_refused(unknown, expected=stranger) == "wrong-sender"


def test_every_flipped_bit_and_every_truncation_of_an_envelope_is_refused() -> None:
    data = seal_envelope(IDENTITIES[1], ROSTER_HASH, EXPECTED, PAYLOAD)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        envelope_refused(bytes(flipped))
    assert {envelope_refused(data[:end]) for end in range(len(data))} == {"truncated"}
    assert envelope_refused(data + b"x") == "trailing-bytes"


def test_an_envelope_with_too_large_a_payload_is_refused_before_it_is_hashed() -> None:
    data = seal_envelope(IDENTITIES[1], ROSTER_HASH, EXPECTED, bytes(1001))
    assert envelope_refused(data) == "too-large"
    with pytest.raises(WireError, match="too-large"):
        seal_envelope(IDENTITIES[1], ROSTER_HASH, Address(1, 0, "r" * 300, RoundId(0), "x"), b"")
