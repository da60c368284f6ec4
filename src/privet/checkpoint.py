"""The server's checkpoint: progress, adapter, optimiser and ledger in one file that is replaced whole.

It holds no secret: noise and sampling keys, identities and seals stay in the clients' folders. Under an encrypted level
it holds no adapter either, only the state as a client sealed it.

    SHA-256 of the rest (32 bytes) | hash of the configuration (64 characters) | message
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from privet import wire
from privet.aggregate import state_schema
from privet.errors import PrivetError
from privet.privacy.ledger import Ledger
from privet.protocol import RoundId
from privet.run_folder import RunFolder
from privet.sealing.roster import LARGEST_ROSTER
from privet.sealing.state_seal import most_sealed_bytes
from privet.server import Progress, Server
from privet.wire import Body

FILE = "checkpoints/server.bin"
_DIGEST_BYTES, _CONFIG_BYTES = 32, 64
HEADER_BYTES = _DIGEST_BYTES + _CONFIG_BYTES
_MAX_LEDGER_BYTES = 1 << 24


def schema(dimension: int) -> wire.Schema:
    """What follows the header."""
    return _schema(most_sealed_bytes(state_schema(dimension).max_bytes()))


def _schema(most_state_bytes: int) -> wire.Schema:
    whole = wire.Whole(low=0)
    fields: dict[str, Any] = {
        "number": whole,
        "attempt": whole,
        "charged": wire.Flag(),
        "charged_number": whole,
        "charged_attempt": whole,
        "state": wire.Blob(most_state_bytes),
        "ledger": wire.Blob(_MAX_LEDGER_BYTES),
        "size": whole,
        "doubted": wire.Array("int64", (wire.UpTo(LARGEST_ROSTER),)),
        "bytes_up": whole,
        "bytes_down": whole,
        "seconds": wire.Real(),
    }
    return wire.Schema(fields, optional=frozenset({"doubted"}))  # absent in checkpoints of earlier versions


def save(folder: RunFolder, server: Server, *, config: str, totals: dict[str, Any]) -> None:
    """Write the checkpoint; when this returns it has reached the disk.

    Args:
        folder: The run's folder.
        server: Whose state it is.
        config: Hash of the configuration that the state belongs to.
        totals: ``bytes_up``, ``bytes_down`` and ``seconds`` of the whole run so far.
    """
    progress = server.progress
    charged = progress.charged or RoundId(0, 0)
    body: Body = {
        "number": progress.number,
        "attempt": progress.attempt,
        "charged": progress.charged is not None,
        "charged_number": charged.number,
        "charged_attempt": charged.attempt,
        "state": server.aggregator.to_bytes() if server.aggregator else server.sealed_state,
        "ledger": json.dumps(server.ledger.to_json()).encode(),
        "size": server.size,
        "doubted": np.array(server.doubted, np.int64),
        "bytes_up": int(totals["bytes_up"]),
        "bytes_down": int(totals["bytes_down"]),
        "seconds": float(totals["seconds"]),
    }
    content = config.encode() + wire.encode(body, schema(server.dimension))
    folder.write(FILE, hashlib.sha256(content).digest() + content)


def restore(folder: RunFolder, server: Server, *, config: str) -> dict[str, Any] | None:
    """Bring a server back to its checkpoint.

    Returns:
        The totals at the checkpoint; ``None`` if the run had not come so far.

    Raises:
        PrivetError: if the checkpoint is damaged or belongs to another configuration.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = _content(path)
    held = content[:_CONFIG_BYTES].decode()
    if held != config:
        raise other_configuration(path, held, config)
    try:
        body: dict[str, Any] = dict(wire.decode(content[_CONFIG_BYTES:], schema(server.dimension)))
        if server.aggregator is None:
            server.sealed_state = body["state"]
        else:
            server.aggregator.restore(body["state"])
        server.ledger = Ledger.from_json(json.loads(body["ledger"]))
    except (wire.WireError, PrivetError) as error:
        raise _unusable(path, str(error)) from None
    server.size = body["size"]
    server.doubted = [int(party) for party in body.get("doubted", ())]
    charged = RoundId(body["charged_number"], body["charged_attempt"]) if body["charged"] else None
    server.progress = Progress(body["number"], body["attempt"], charged)
    return {name: body[name] for name in ("bytes_up", "bytes_down", "seconds")}


def refuse_older(folder: RunFolder, done: int | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to go on from a checkpoint that was put back, or lost: its ledger lacks what was released since.

    Args:
        folder: The run's folder.
        done: Rounds that the checkpoint has opened; ``None`` if there is none.
        rows: Rows of ``rounds.jsonl``. The row of the round that a checkpoint is about to count may be there already.

    Raises:
        PrivetError: if rounds were opened that it knows nothing of.
    """
    opened = max((int(row["round"]) for row in rows), default=-1)
    if opened > (-1 if done is None else done):
        raise PrivetError(
            "is missing, though rounds were opened"
            if done is None
            else "is older than the rounds that were opened",
            field=str(folder / FILE),
            given=None if done is None else f"{done} rounds; rounds.jsonl has {opened + 1}",
            hint="what was released stays released: count the run as if it had gone to its end, and begin another",
        )


def read_ledger(folder: RunFolder) -> Ledger | None:
    """What a run was charged for up to its checkpoint, which is on disk before anything can be opened.

    Returns:
        The ledger; ``None`` if the run had not come so far.

    Raises:
        PrivetError: if the checkpoint is damaged, of another version, or older than the rounds that were opened.
    """
    path, rows = folder / FILE, folder.rows("rounds.jsonl")
    if not path.exists():
        refuse_older(folder, None, rows)
        return None
    content = _content(path)[_CONFIG_BYTES:]
    try:
        body: dict[str, Any] = dict(wire.decode(content, _schema(len(content))))
        ledger = Ledger.from_json(json.loads(body["ledger"]))
    except (wire.WireError, PrivetError) as error:
        raise _unusable(path, str(error)) from None
    refuse_older(folder, body["number"], rows)
    return ledger


def _content(path: Path) -> bytes:
    """Everything behind the digest, which is checked."""
    raw = path.read_bytes()
    digest, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise _unusable(path, "its SHA-256 does not match")
    return content


def other_configuration(path: Path, held: str, asked: str) -> PrivetError:
    """What a person is told who resumes a run with another configuration than it was started with."""
    return PrivetError(
        "belongs to another configuration",
        field=str(path),
        given=f"configuration {asked[:12]}…",
        allowed=f"configuration {held[:12]}…, with which the run was started",
        hint="give the same file and the same --set as at the start, or start a new run with --out",
    )


def _unusable(path: Path, reason: str) -> PrivetError:
    return PrivetError(
        "is damaged or of another version",
        field=str(path),
        given=reason,
        hint="start the run anew with --fresh or another --out; what was released stays released",
    )
