"""How a site joins a run: what it is told of it, and what it says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from privet import wire
from privet.aggregate import codec_fields
from privet.codecs import Codec, pack, unpack
from privet.config import Config, to_yaml
from privet.protocol import as_array
from privet.run_folder import config_hash
from privet.tokenise import Example
from privet.wire import Array, Body, Kind, Message, Schema, Text, UpTo, Whole, WireError

JOIN = "join"
REPLAYED = "replayed"
"""Why a site answers no question of a round before the latest one that it was asked about."""
PACKAGES = ("privet", "torch", "transformers", "numpy", "scipy", "cryptography", "tenseal", "nvflare")
"""Packages whose versions must be the server's: other versions may round, seal or answer otherwise."""

_MAX_CONFIG = 1 << 20
_TOKENS, _LENGTHS, _SUPERVISED = "public_tokens", "public_lengths", "public_supervised"
_MOST_TOKENS, _MOST_RECORDS = 1 << 24, 1 << 16


def joining() -> Message:
    """Schemas of the invitation and of its acceptance."""
    invitation: dict[str, Kind] = {
        "config": Text(_MAX_CONFIG),
        "dimension": Whole(low=1),
        "model": Text(128),
        "versions": Text(4096),
    }
    tokens = (UpTo(_MOST_TOKENS),)
    public: dict[str, Kind] = {
        _TOKENS: Array("int32", tokens),
        _LENGTHS: Array("int32", (UpTo(_MOST_RECORDS),)),
        _SUPERVISED: Array("bool", tokens),
        **codec_fields(),
    }
    return Message(Schema(invitation | public, optional=frozenset(public)), Schema({"version": Text(32)}))


def invitation(
    config: Config, *, dimension: int, model: str, public: Sequence[Example] = (), codec: Codec | None = None
) -> Body:
    """What a site is told.

    Args:
        config: The configuration with everything resolved.
        dimension: Trained values D.
        model: Fingerprint of the base model.
        public: Tokenised public records, if sites make codecs out of them: where only sites know the adapter.
        codec: The first of these codecs; processors round differently, and all have to begin with the same.
    """
    versions = json.dumps(installed(), sort_keys=True)
    body: Body = {"config": to_yaml(config), "dimension": dimension, "model": model, "versions": versions}
    if codec is None:
        return body
    return {
        **body,
        _TOKENS: np.concatenate([np.zeros(0, np.int32), *(each.input_ids for each in public)]),
        _LENGTHS: np.array([len(each) for each in public], np.int32),
        _SUPERVISED: np.concatenate([np.zeros(0, np.bool_), *(each.supervised for each in public)]),
        **pack(codec),
    }


def agreement(config: Config, body: Body) -> str:
    """Names all that an invitation says of a run, hexadecimal: whoever was told something else has another.

    Only what makes no difference to what is computed is left out: how fast an engine goes and how long it waits.

    Args:
        config: The invitation's configuration.
        body: The invitation.
    """
    rest = {name: value for name, value in body.items() if name not in ("config", "versions")}
    bare: Body = {**rest, "config": config_hash(config), "versions": ""}
    return hashlib.sha256(wire.encode(bare, joining().request)).hexdigest()


def made_from_public(body: Body, longest: int) -> tuple[list[Example], Codec | None]:
    """Public records and first codec of an invitation; nothing where it brings none.

    Args:
        body: The invitation.
        longest: Tokens that a record may have, the server's too (`privet.material.check_length`).

    Raises:
        WireError: if its parts do not fit each other, or a record is longer.
        RoundAborted: if the codec is malformed.
    """
    if _TOKENS not in body:
        return [], None
    tokens, lengths, supervised = (as_array(body, name) for name in (_TOKENS, _LENGTHS, _SUPERVISED))
    unfit = (lengths < 1).any() or (lengths > longest).any()
    if unfit or int(lengths.sum()) != len(tokens) or len(supervised) != len(tokens):
        raise WireError("wrong-shape", _LENGTHS)
    cuts = np.cumsum(lengths)[:-1]
    rows = zip(np.split(tokens, cuts), np.split(supervised, cuts), strict=True)
    examples = [Example(f"public/{n}", ids.copy(), which) for n, (ids, which) in enumerate(rows)]
    return examples, unpack(body, int(str(body["dimension"])))


def installed() -> dict[str, str]:
    """Versions of `PACKAGES` here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found
