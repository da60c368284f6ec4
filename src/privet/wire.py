"""The bytes of a message: versioned, typed, deterministic, and refused unless a schema expects them.

No pickle and nothing self-describing beyond names, types and shapes. The same body always gives the same
bytes (fields are sorted by name and there is one way to write each value; -0.0 is another value than 0.0), so
bytes can be signed, hashed and compared. `decode` refuses with a `WireError` and a reason whatever its schema does
not allow, and it checks every size against the schema and against the bytes that are really there *before* it
allocates. The layout is in ``docs/wire.md``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scalar: TypeAlias = bool | int | float | str
Body: TypeAlias = dict[str, Scalar | bytes | NDArray[Any]]
"""A message: a flat mapping of names to scalars, bytes and arrays. What is not in the wire schema cannot be sent."""

MAGIC = b"PVT"
VERSION = 1
MAX_NAME_BYTES = 64
MAX_FIELDS = 256
MAX_DIMENSIONS = 8
MAX_ARRAY_BYTES = 1 << 60
ALIGNMENT = 8

_FLAG, _WHOLE, _REAL, _TEXT, _BLOB, _ARRAY = range(1, 7)
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "float32", "float64"),
)
_DTYPE_CODES = {name: code for code, name in enumerate(_DTYPES)}
_NATIVE = {np.dtype(name): name for name in _DTYPES}
"""Names that numpy would make anew each time it is asked."""


class WireError(ValueError):
    """A message that is not what the schema expects.

    Args:
        reason: Short fixed slug, e.g. ``truncated``; safe to log and to count.
        where: The schema's own name of the field, or another constant; never text that the sender chose.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        self.reason, self.where = reason, where
        super().__init__(f"{reason} ({where})" if where else reason)


@dataclass(frozen=True)
class Flag:
    """A ``bool``."""


@dataclass(frozen=True)
class Whole:
    """An ``int`` in ``[low, high]``, at most 64 bits signed."""

    low: int = -(1 << 63)
    high: int = (1 << 63) - 1


@dataclass(frozen=True)
class Real:
    """A ``float``; NaN and infinities only where ``finite`` is false."""

    finite: bool = True


@dataclass(frozen=True)
class Text:
    """A ``str`` of at most ``max_bytes`` bytes in UTF-8."""

    max_bytes: int


@dataclass(frozen=True)
class Blob:
    """``bytes`` of at most ``max_bytes``, and at least ``min_bytes``."""

    max_bytes: int
    min_bytes: int = 0


@dataclass(frozen=True)
class UpTo:
    """A dimension of an array that may have any length from 0 to ``limit``."""

    limit: int


@dataclass(frozen=True)
class Array:
    """An array of one dtype; each dimension is a fixed length or `UpTo` a limit. Its floats may be NaN or infinite."""

    dtype: str
    shape: tuple[int | UpTo, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPE_CODES or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(f"no such array on the wire: {self.dtype}, {len(self.shape)} dimensions")
        # numpy refuses larger ones even if they are empty, and would do so while decoding.
        if self.max_bytes() > MAX_ARRAY_BYTES:
            raise ValueError(f"an array on the wire has at most {MAX_ARRAY_BYTES} bytes")

    def max_bytes(self) -> int:
        """Bytes of the largest array that fits."""
        limits = [d.limit if isinstance(d, UpTo) else d for d in self.shape]
        return math.prod(limits) * np.dtype(self.dtype).itemsize

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of ``shape`` is allowed."""
        pairs = zip(shape, self.shape, strict=False)
        return len(shape) == len(self.shape) and all(
            0 <= given <= allowed.limit if isinstance(allowed, UpTo) else given == allowed
            for given, allowed in pairs
        )


Kind: TypeAlias = Flag | Whole | Real | Text | Blob | Array
_TAGS: dict[type, int] = {Flag: _FLAG, Whole: _WHOLE, Real: _REAL, Text: _TEXT, Blob: _BLOB, Array: _ARRAY}


@dataclass(frozen=True)
class Schema:
    """What a message may hold: kinds by field name. Fields are required unless named in ``optional``."""

    fields: Mapping[str, Kind]
    optional: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if len(self.fields) > MAX_FIELDS or not self.optional <= set(self.fields):
            raise ValueError(f"a schema has at most {MAX_FIELDS} fields, and optional ones are among them")
        for name in self.fields:
            if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
                raise ValueError(f"field names have 1 to {MAX_NAME_BYTES} bytes")

    def max_bytes(self) -> int:
        """Upper bound of an encoded message's length: a receiver may refuse longer ones unread."""
        total = len(MAGIC) + 3
        for name, kind in self.fields.items():
            total += 1 + len(name.encode()) + 1 + _room(kind)
        return total

    def check(self, body: Mapping[str, Any]) -> None:
        """Refuse a body, before encoding or inside one process, exactly as `decode` would refuse its bytes.

        Raises:
            WireError: with the reason.
        """
        for name, value in body.items():
            kind = self.fields.get(name)
            if kind is None:
                raise WireError("unknown-field")
            _check_value(name, kind, value)
        self._check_missing(body)

    def _check_missing(self, body: Mapping[str, Any]) -> None:
        for name in self.fields:
            if name not in body and name not in self.optional:
                raise WireError("missing-field", name)


@dataclass(frozen=True)
class Message:
    """The schemas of an operation's question and of its answer."""

    request: Schema
    reply: Schema


def encode(body: Body, schema: Schema | None = None) -> bytes:
    """The one encoding of a body.

    Args:
        body: Names to scalars, bytes and arrays; arrays may be non-contiguous or of either byte order.
        schema: If given, `Schema.check` is applied first: what the schema does not name cannot be sent.

    Raises:
        WireError: if a value has no place on the wire or is not in the schema.
    """
    if schema is not None:
        schema.check(body)
    if len(body) > MAX_FIELDS:
        raise WireError("too-many-fields")
    parts: list[bytes | memoryview] = [MAGIC, struct.pack("<BH", VERSION, len(body))]
    length = len(MAGIC) + 3
    names = {}
    for name in body:
        raw = name.encode("utf-8", "surrogatepass")
        if not 0 < len(raw) <= MAX_NAME_BYTES:
            raise WireError("bad-name")
        names[raw] = name
    for raw in sorted(names):
        head = bytes([len(raw)]) + raw
        pieces = _encode_value(body[names[raw]], length + len(head))
        parts += [head, *pieces]
        length += len(head) + sum(len(piece) for piece in pieces)
    return b"".join(parts)


def decode(data: bytes | bytearray | memoryview, schema: Schema) -> Body:
    """Read a message, or refuse it.

    Arrays are read-only views of ``data`` where alignment allows, so a large message is not copied;
    ``data`` must not be changed afterwards.

    Raises:
        WireError: for every input that is not the encoding of a body which the schema allows.
    """
    reader = _Reader(memoryview(data).cast("B"))
    if reader.take(len(MAGIC)) != MAGIC:
        raise WireError("bad-magic")
    version, count = reader.unpack("<BH")
    if version != VERSION:
        raise WireError("bad-version")
    if count > len(schema.fields):
        raise WireError("unknown-field")
    body: Body = {}
    previous = b""
    for _ in range(count):
        raw = bytes(reader.take(reader.unpack("<B")[0]))
        if raw == previous:
            raise WireError("duplicate-field")
        if raw < previous:
            raise WireError("field-order")
        previous = raw
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise WireError("bad-text", "field name") from None
        kind = schema.fields.get(name)
        if kind is None:
            raise WireError("unknown-field")
        value = _decode_value(name, kind, reader)
        _check_value(name, kind, value)
        body[name] = value
    if reader.left():
        raise WireError("trailing-bytes")
    schema._check_missing(body)
    return body


class _Reader:
    """A cursor that never reads past the end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self.position = data, 0

    def left(self) -> int:
        return len(self._data) - self.position

    def take(self, count: int, where: str = "") -> memoryview:
        if count > self.left():
            raise WireError("truncated", where)
        start, self.position = self.position, self.position + count
        return self._data[start : self.position]

    def unpack(self, layout: str, where: str = "") -> tuple[Any, ...]:
        start, size = self.position, struct.calcsize(layout)
        if size > len(self._data) - start:
            raise WireError("truncated", where)
        self.position = start + size
        return struct.unpack_from(layout, self._data, start)

    def skip_padding(self, where: str) -> None:
        if any(self.take(-self.position % ALIGNMENT, where)):
            raise WireError("bad-padding", where)


def _room(kind: Kind) -> int:
    """Bytes that a value of this kind takes at most, after its type tag."""
    match kind:
        case Flag():
            return 1
        case Whole() | Real():
            return 8
        case Text() | Blob():
            return 8 + kind.max_bytes
        case Array():
            return 2 + 8 * len(kind.shape) + ALIGNMENT + kind.max_bytes()


def _encode_value(value: Scalar | bytes | NDArray[Any], position: int) -> list[bytes | memoryview]:
    """A tag and the value, in pieces; ``position`` is where the tag will stand in the message."""
    match value:
        case bool():
            return [struct.pack("<BB", _FLAG, value)]
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise WireError("out-of-range")
            return [struct.pack("<Bq", _WHOLE, value)]
        case float():
            return [struct.pack("<Bd", _REAL, value)]
        case str():
            try:
                raw = value.encode()
            except UnicodeEncodeError:
                raise WireError("bad-text") from None
            return [struct.pack("<BQ", _TEXT, len(raw)), raw]
        case bytes():
            return [struct.pack("<BQ", _BLOB, len(value)), value]
        case np.ndarray():
            return _encode_array(value, position)
    raise WireError("wrong-type")


def _encode_array(value: NDArray[Any], position: int) -> list[bytes | memoryview]:
    code = _DTYPE_CODES.get(_NATIVE.get(value.dtype) or value.dtype.name)
    if code is None or value.ndim > MAX_DIMENSIONS:
        raise WireError("wrong-dtype")
    array = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    head = struct.pack(f"<BBB{array.ndim}Q", _ARRAY, code, array.ndim, *array.shape)
    padding = bytes(-(position + len(head)) % ALIGNMENT)
    return [head, padding, array.reshape(-1).view(np.uint8).data]


def _decode_value(name: str, kind: Kind, reader: _Reader) -> Scalar | bytes | NDArray[Any]:
    (tag,) = reader.unpack("<B", name)
    if tag != _TAGS[type(kind)]:
        raise WireError("wrong-type", name)
    match kind:
        case Flag():
            (flag,) = reader.unpack("<B", name)
            if flag > 1:
                raise WireError("out-of-range", name)
            return bool(flag)
        case Whole():
            return int(reader.unpack("<q", name)[0])
        case Real():
            return float(reader.unpack("<d", name)[0])
        case Text() | Blob():
            (size,) = reader.unpack("<Q", name)
            if size > kind.max_bytes:
                raise WireError("too-large", name)
            raw = bytes(reader.take(size, name))
            if isinstance(kind, Blob):
                return raw
            try:
                return raw.decode()
            except UnicodeDecodeError:
                raise WireError("bad-text", name) from None
        case Array():
            return _decode_array(name, kind, reader)


def _decode_array(name: str, kind: Array, reader: _Reader) -> NDArray[Any]:
    code, ndim = reader.unpack("<BB", name)
    if code != _DTYPE_CODES[kind.dtype]:
        raise WireError("wrong-dtype", name)
    if ndim != len(kind.shape):
        raise WireError("wrong-shape", name)
    shape = reader.unpack(f"<{ndim}Q", name)
    if not kind.fits(shape):
        raise WireError("wrong-shape", name)
    reader.skip_padding(name)
    dtype = np.dtype(kind.dtype)
    raw = reader.take(math.prod(shape) * dtype.itemsize, name)
    if kind.dtype == "bool" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise WireError("out-of-range", name)
    array = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    if not array.flags.aligned or not array.dtype.isnative:
        array = array.astype(dtype)
    array.flags.writeable = False
    return array


def _check_value(name: str, kind: Kind, value: object) -> None:
    """Refuse a value that its kind does not allow."""
    match kind, value:
        case (Flag(), bool()):
            return
        case (Whole(), int()) if not isinstance(value, bool):
            if not kind.low <= value <= kind.high:
                raise WireError("out-of-range", name)
        case (Real(), float()):
            if kind.finite and not math.isfinite(value):
                raise WireError("out-of-range", name)
        case (Text(), str()):
            if len(value.encode("utf-8", "surrogatepass")) > kind.max_bytes:
                raise WireError("too-large", name)
        case (Blob(), bytes()):
            if not kind.min_bytes <= len(value) <= kind.max_bytes:
                raise WireError("too-large" if len(value) > kind.max_bytes else "too-small", name)
        case (Array(), np.ndarray()):
            if (_NATIVE.get(value.dtype) or value.dtype.name) != kind.dtype:
                raise WireError("wrong-dtype", name)
            if not kind.fits(value.shape):
                raise WireError("wrong-shape", name)
        case _:
            raise WireError("wrong-type", name)
