"""One key that all clients of a run hold and the server does not: how it is made, handed on and checked.

1. ``keys.run.advertise``: each client without the key signs a fresh X25519 key; a client that has it says so.
2. ``keys.run.wrap``: one holder (at first the lowest number that answers, which makes the key) wraps it for
   each of them: X25519, HKDF-SHA256, AES-256-GCM, signed under the roster's identities.
3. ``keys.run.accept``: each of them opens its own, checks it, and keeps it.

The server relays and learns neither the key nor anything derived from it but a one-way name. A client that
comes late, or comes back with an empty folder, gets the key the same way from any holder. The key belongs to
one run, one roster and one set of parameters: if any of them changes, no old key is used again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np

from privet import wire
from privet.keys import derive
from privet.sealing.agreement import BLOB_OVERHEAD, AgreementError, EphemeralKey, open_blob, seal_blob
from privet.sealing.base import SealingRefused, Store
from privet.sealing.identity import SIGNATURE_BYTES, Identity, verify
from privet.sealing.masking_messages import Context
from privet.wire import Blob, Body, Flag, Schema

ADVERTISE, WRAP, ACCEPT = "keys.run.advertise", "keys.run.wrap", "keys.run.accept"
OPERATIONS = frozenset({ADVERTISE, WRAP, ACCEPT})
ROOT_BYTES = 32
NAME_BYTES = 16
WRAPPED_BYTES = ROOT_BYTES + BLOB_OVERHEAD
_KEY, _AGREEMENT = "run-key", "run-key.agreement"
SCOPE_BYTES = 32
_KEPT = Schema({"scope": Blob(32, 32), "root": Blob(32, 32), "used": Flag()})


class RunKey:
    """The key itself; everything else is derived from it, each for one purpose."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self.name = self.derive("name", length=NAME_BYTES)

    def derive(self, *purpose: str | int | bytes, length: int = 32) -> bytes:
        """A key for one purpose."""
        return derive(self._root, "run key", *purpose, length=length)

    def wrap(self, key: bytes, associated: bytes) -> bytes:
        """The run's key, sealed under another key."""
        return seal_blob(key, self._root, associated)

    def keep(self, scope: bytes, used: bool) -> bytes:
        """What its owner writes into its own secret store."""
        return wire.encode({"scope": scope, "root": self._root, "used": used}, _KEPT)

    def __repr__(self) -> str:
        return f"<RunKey {self.name.hex()}: hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("RunKey is a secret and cannot be pickled")


class Attachment(Protocol):
    """What a level sends along with the key: bytes that the server relays and that receivers check."""

    def make(self, key: RunKey) -> bytes:
        """The attachment; it must tell the server nothing."""

    def accept(self, key: RunKey, data: bytes) -> None:
        """Check, and keep, what came with a key.

        Raises:
            SealingRefused: if this installation cannot work with it.
        """


class RunKeyClient:
    """A client's half.

    Args:
        context: The run and its roster, which everything is bound to.
        purpose: Level and parameters; a key made for others is not used.
        party: Own number.
        identity: Own identity, a member's of the roster.
        store: Where the key is kept.
        attachment: What travels with the key.

    Attributes:
        scope: What the key belongs to: run, roster, level and parameters; 32 bytes.
    """

    def __init__(
        self,
        context: Context,
        purpose: str,
        *,
        party: int,
        identity: Identity,
        store: Store,
        attachment: Attachment,
    ) -> None:
        self._context, self._party, self._identity, self._store = context, party, identity, store
        self._attachment = attachment
        self.scope = scope_of(context, purpose)
        self._key, self._used = self._read()

    @property
    def key(self) -> RunKey:
        """The run's key.

        Raises:
            SealingRefused: if this client has none yet.
        """
        if self._key is None:
            raise SealingRefused("no-run-key", "this client was not given the run's key")
        return self._key

    def mark_used(self) -> None:
        """Remember that something was sealed under the key: from now on no other key takes its place."""
        if not self._used:
            self._used = True
            self._store.put(_KEY, self.key.keep(self.scope, True))

    def handle(self, op: str, body: Body) -> Body:
        """Answer one of the three operations.

        Raises:
            SealingRefused: with the reason.
        """
        fields: Mapping[str, Any] = body
        if op == ADVERTISE:
            return self._advertise(fields)
        if op == WRAP:
            return self._wrap(fields)
        if op == ACCEPT:
            return self._accept(fields)
        raise SealingRefused("unknown-operation")

    def _advertise(self, fields: Mapping[str, Any]) -> Body:
        if fields["scope"] != self.scope:
            raise SealingRefused("other-run", "another run, roster or set of parameters")
        secret = os.urandom(ROOT_BYTES)
        self._store.put(_AGREEMENT, secret)
        public = EphemeralKey(secret).public
        signature = self._identity.sign(
            "run key advert", self._context.roster.hash, _advert(self.scope, self._party, public)
        )
        return {"public": public, "signature": signature, "key": self._key.name if self._key else b""}

    def _wrap(self, fields: Mapping[str, Any]) -> Body:
        parties = [int(party) for party in fields["parties"]]
        publics = [row.tobytes() for row in fields["publics"]]
        adverts = list(zip(parties, publics, fields["signatures"], strict=True))
        if len(set(parties)) != len(parties) or self._party in parties:
            raise SealingRefused("bad-receivers", "a key is wrapped once for each other party")
        for party, public, signature in adverts:
            if not verify_advert(self._context, self.scope, party, public, signature.tobytes()):
                raise SealingRefused("bad-advert", "an advert is not signed by its party")
        if self._key is None:
            self._keep(RunKey(os.urandom(ROOT_BYTES)))
        attachment = self._attachment.make(self.key)
        ephemeral = EphemeralKey(os.urandom(ROOT_BYTES))
        wrapped, signatures = [], []
        for party, public, _ in adverts:
            purpose = ("run key", self.scope, self._party, party)
            try:
                wrapping = ephemeral.agree(public, *purpose)
            except AgreementError:
                raise SealingRefused("bad-advert", "an advertised key is unusable") from None
            wrapped.append(self.key.wrap(wrapping, self.scope))
            handed = _handed(
                self.scope,
                self._party,
                party,
                public=public,
                ephemeral=ephemeral.public,
                wrapped=wrapped[-1],
                attachment=attachment,
            )
            signatures.append(self._identity.sign("run key", self._context.roster.hash, handed))
        return {
            "key": self.key.name,
            "ephemeral": ephemeral.public,
            "wrapped": byte_rows(wrapped, WRAPPED_BYTES),
            "signatures": byte_rows(signatures, SIGNATURE_BYTES),
            "attachment": attachment,
        }

    def _accept(self, fields: Mapping[str, Any]) -> Body:
        secret = self._store.get(_AGREEMENT)
        maker, roster = fields["maker"], self._context.roster
        if not secret:
            raise SealingRefused("no-advert", "no key was advertised that this could be wrapped for")
        if maker == self._party or maker >= roster.size:
            raise SealingRefused("bad-sender", "the key comes from no other member")
        own = EphemeralKey(secret)
        ephemeral, wrapped, attachment = fields["ephemeral"], fields["wrapped"], fields["attachment"]
        handed = _handed(
            self.scope,
            maker,
            self._party,
            public=own.public,
            ephemeral=ephemeral,
            wrapped=wrapped,
            attachment=attachment,
        )
        if not verify(roster.public_key(maker), fields["signature"], "run key", roster.hash, handed):
            raise SealingRefused("bad-signature", "the key is not signed by the member that it claims")
        try:
            wrapping = own.agree(ephemeral, "run key", self.scope, maker, self._party)
            key = RunKey(open_blob(wrapping, wrapped, self.scope))
        except (AgreementError, ValueError):
            raise SealingRefused("bad-key", "the wrapped key does not open") from None
        if self._used and self._key is not None and key.name != self._key.name:
            raise SealingRefused("other-run-key", "this client has sealed under another key of the same run")
        self._attachment.accept(key, attachment)
        self._keep(key)
        self._store.put(_AGREEMENT, b"")
        return {}

    def _keep(self, key: RunKey) -> None:
        self._store.put(_KEY, key.keep(self.scope, self._used))
        self._key = key

    def _read(self) -> tuple[RunKey | None, bool]:
        data = self._store.get(_KEY)
        if not data:
            return None, False
        kept: Mapping[str, Any] = wire.decode(data, _KEPT)
        if kept["scope"] != self.scope:
            return None, False
        return RunKey(kept["root"]), kept["used"]


def scope_of(context: Context, purpose: str) -> bytes:
    """What a run's key belongs to: the run, the roster, the level and its parameters; 32 bytes."""
    parts: Body = {"run": context.run, "roster": context.roster.hash, "purpose": purpose}
    return hashlib.sha256(b"privet/run-key/1\0" + wire.encode(parts)).digest()


def verify_advert(context: Context, scope: bytes, party: int, public: bytes, signature: bytes) -> bool:
    """Whether a party of the roster advertised this X25519 key for this scope."""
    roster = context.roster
    return 0 <= party < roster.size and verify(
        roster.public_key(party), signature, "run key advert", roster.hash, _advert(scope, party, public)
    )


def _advert(scope: bytes, party: int, public: bytes) -> Body:
    return {"scope": scope, "party": party, "public": public}


def _handed(
    scope: bytes,
    maker: int,
    party: int,
    *,
    public: bytes,
    ephemeral: bytes,
    wrapped: bytes,
    attachment: bytes,
) -> Body:
    """What the maker of a wrapped key signs."""
    return {
        "scope": scope,
        "maker": maker,
        "party": party,
        "public": public,
        "ephemeral": ephemeral,
        "wrapped": wrapped,
        "attachment": hashlib.sha256(attachment).digest(),
    }


def byte_rows(pieces: Sequence[bytes], width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pieces of one length as uint8 ``[pieces, width]``."""
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(len(pieces), width)
