"""A codec as a message of four fields: a header, and one array for each type of number.

A codec may hold a hundred arrays, and a wire schema names each field with its type in advance. So the arrays
are laid end to end, and a header of canonical JSON says which is which. Nothing is pickled; the same codec
gives the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.codecs import top_k
from privet.codecs.allocation import PerTensor, parts_of_body
from privet.codecs.autoencoder import Autoencoder
from privet.codecs.base import Codec, body_int, body_provenance, body_str
from privet.codecs.count_sketch import CountSketch
from privet.codecs.identity import Identity
from privet.codecs.prune import Prune
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.codecs.row_pca import RowPca
from privet.errors import PrivetError
from privet.protocol import RoundAborted, as_array
from privet.wire import Array, Blob, Body, Kind, UpTo

HEADER = "codec"
POOLS = {"float32": "codec_float32", "int32": "codec_int32", "uint8": "codec_uint8"}
"""Fields by type of number. Positions travel as int32: an adapter has fewer than 2^31 trained values."""
MAX_HEADER_BYTES = 1 << 20

_READERS: dict[str, Callable[[Mapping[str, Any]], Codec]] = {
    "identity": Identity.from_body,
    "prune": Prune.from_body,
    "random_projection": RandomProjection.from_body,
    "count_sketch": CountSketch.from_body,
    "top_k": top_k.from_body,
    "row_pca": RowPca.from_body,
    "public_subspace": PublicSubspace.from_body,
    "autoencoder": Autoencoder.from_body,
}


def from_body(body: Mapping[str, Any]) -> Codec:
    """The codec that :meth:`privet.codecs.base.Codec.to_body` described.

    Raises:
        RoundAborted: if it is of an unknown kind, or its parts do not fit each other.
    """
    kind = body_str(body, "kind")
    if kind == "per_tensor":
        return _per_tensor(body)
    reader = _READERS.get(kind)
    if reader is None:
        raise RoundAborted("codec message names an unknown kind")
    return reader(body)


def _per_tensor(body: Mapping[str, Any]) -> PerTensor:
    dimension, parts = body_int(body, "dimension"), []
    if not 0 < dimension < 1 << 31:
        raise RoundAborted("codec message: no adapter has so many values")
    taken = np.zeros(dimension, np.bool_)
    for index in range(body_int(body, "parts")):
        part = parts_of_body(body, index)
        spans = as_array(part, "spans")
        if body_str(part, "kind") == "per_tensor":
            raise RoundAborted("codec message: parts have no parts")
        codec = from_body(part)
        if spans.dtype != np.int64 or spans.ndim != 2 or spans.shape[1] != 2:
            raise RoundAborted("codec message: spans are no list of starts and stops")
        for start, stop in spans:
            if not 0 <= start <= stop <= dimension or taken[start:stop].any():
                raise RoundAborted("codec message: parts overlap or lie outside the update")
            taken[start:stop] = True
        if codec.dimension != int((spans[:, 1] - spans[:, 0]).sum()):
            raise RoundAborted("codec message: a part does not fit its spans")
        parts.append((codec, spans))
    return PerTensor(dimension, tuple(parts), body_provenance(body))


def pack(codec: Codec) -> Body:
    """The codec as a body with the fields of :func:`fields`."""
    header: dict[str, Any] = {}
    pools: dict[str, list[NDArray[Any]]] = {name: [] for name in POOLS}
    for name, value in sorted(codec.to_body().items()):
        if not isinstance(value, np.ndarray):
            header[name] = value
            continue
        dtype = "int32" if value.dtype == np.int64 else value.dtype.name
        pools[dtype].append(value.astype(dtype).reshape(-1))
        header[name] = {"dtype": value.dtype.name, "shape": list(value.shape)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    body: Body = {HEADER: text.encode()}
    for dtype, field in POOLS.items():
        body[field] = np.concatenate([np.zeros(0, dtype), *pools[dtype]])
    return body


def unpack(body: Mapping[str, Any], dimension: int) -> Codec:
    """The codec in a body of :func:`pack`.

    Args:
        body: What came from the server.
        dimension: Trained values of the run; a codec for another number is not even made.

    Raises:
        RoundAborted: if the header and the arrays do not fit each other, or make no codec.
        PrivetError: if they make one that cannot be.
    """
    try:
        return _unpack(body, dimension)
    except (RoundAborted, PrivetError):
        raise
    except (
        Exception
    ):  # of shapes, sizes and nesting that another party chose, numpy and json raise what they like
        raise RoundAborted("codec message: its parts make no codec") from None


def _unpack(body: Mapping[str, Any], dimension: int) -> Codec:
    raw = body.get(HEADER)
    try:
        header = json.loads(raw if isinstance(raw, bytes) else b"")
    except ValueError:
        raise RoundAborted("codec message: the header is no JSON") from None
    if not isinstance(header, dict):
        raise RoundAborted("codec message: the header is no mapping")
    pools = {dtype: as_array(body, field) for dtype, field in POOLS.items()}
    at, found = dict.fromkeys(POOLS, 0), {}
    for name, entry in sorted(header.items()):
        if not isinstance(entry, dict):
            found[name] = entry
            continue
        dtype, shape = entry.get("dtype"), entry.get("shape")
        pool = "int32" if dtype == "int64" else dtype
        if pool not in pools or not isinstance(shape, list) or not all(_is_length(n) for n in shape):
            raise RoundAborted("codec message: the header describes no array")
        count = math.prod(shape)
        values = pools[pool][at[pool] : at[pool] + count]
        if len(values) != count:
            raise RoundAborted("codec message: an array is cut off")
        found[name] = values.astype(dtype).reshape(shape)
        at[pool] += count
    if any(at[dtype] != len(pools[dtype]) for dtype in POOLS):
        raise RoundAborted("codec message: numbers are left over")
    if found.get("dimension", dimension) != dimension:
        raise RoundAborted("codec message: it is for another number of values")
    return from_body(found)


def fields(max_numbers: int) -> dict[str, Kind]:
    """Fields of a wire schema for codecs with at most ``max_numbers`` numbers of each type."""
    arrays: dict[str, Kind] = {field: Array(dtype, (UpTo(max_numbers),)) for dtype, field in POOLS.items()}
    return {HEADER: Blob(MAX_HEADER_BYTES), **arrays}


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
