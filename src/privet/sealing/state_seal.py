"""How the designated client hands the new state to the others through a server that must not read it.

The state is sealed (AES-256-GCM) under a key derived from the run's key, bound to the number of rounds that
are in it, and signed by its sender, so a server can neither read, change nor backdate it. All parties then
give a keyed hash, by which the server sees whether they hold the same after one question, and nothing of two.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from privet import wire
from privet.sealing.agreement import BLOB_OVERHEAD, AgreementError, open_blob, seal_blob
from privet.sealing.base import SealingRefused, Store
from privet.sealing.identity import SIGNATURE_BYTES, Identity, verify
from privet.sealing.masking_messages import Context
from privet.sealing.run_key import RunKeyClient
from privet.traffic import message_bytes
from privet.wire import Blob, Body, Schema, Whole

HASH_BYTES = 32
_NEWEST = "state.newest"
OVERHEAD_BYTES = 512
"""More than what sealing and signing add to a state."""


class StateSeal:
    """Seals, opens and compares states at one client.

    Args:
        context: The run and its roster.
        party: Own number.
        identity: Own identity.
        keys: Holder of the run's key.
        store: Where the newest round seen is kept.
    """

    def __init__(
        self, context: Context, *, party: int, identity: Identity, keys: RunKeyClient, store: Store
    ) -> None:
        self._context, self._party, self._identity, self._keys = context, party, identity, keys
        self._store = store
        kept = store.get(_NEWEST)
        self._newest = int.from_bytes(kept, "big") if kept else 0

    def seal(self, state: bytes, rounds: int) -> bytes:
        """The state after ``rounds`` rounds, for the other clients: sealed and signed."""
        blob = seal_blob(self._keys.key.derive("state"), state, _bound(rounds, self._party))
        content = _content(self._context, rounds, self._party, blob)
        body: Body = {
            "rounds": rounds,
            "party": self._party,
            "sealed": blob,
            "signature": self._identity.sign("state", self._context.roster.hash, content),
        }
        self._saw(rounds)
        return wire.encode(body)

    def open(self, data: bytes, rounds: int) -> bytes:
        """The state after ``rounds`` rounds, from whichever member sealed it.

        Raises:
            SealingRefused: if it is damaged, not signed by a member, sealed under another key, of another
                round, or older than one that this client has seen.
        """
        try:
            fields: Mapping[str, Any] = wire.decode(data, _schema(len(data)))
        except wire.WireError as error:
            raise SealingRefused("malformed", str(error)) from None
        party, blob, roster = fields["party"], fields["sealed"], self._context.roster
        if fields["rounds"] != rounds:
            raise SealingRefused("wrong-round", "the state is of another round than the question")
        if rounds < self._newest:
            raise SealingRefused("older-state", "this client has seen a newer state")
        content = _content(self._context, rounds, party, blob)
        if party >= roster.size or not verify(
            roster.public_key(party), fields["signature"], "state", roster.hash, content
        ):
            raise SealingRefused("bad-signature", "the state is not signed by the member that it claims")
        try:
            state = open_blob(self._keys.key.derive("state"), blob, _bound(rounds, party))
        except AgreementError:
            raise SealingRefused("bad-state", "the state does not open under the run's key") from None
        self._saw(rounds)
        return state

    def _saw(self, rounds: int) -> None:
        if rounds > self._newest:
            self._newest = rounds
            self._store.put(_NEWEST, rounds.to_bytes(8, "big"))

    def fingerprint(self, state: bytes, question: bytes) -> bytes:
        """Keyed hash of a state in answer to a question, 32 bytes: equal for two clients if state and question are.

        The question holds the sealed state that it is about, if there is one. So of two sealed states of its choice a
        server does not learn whether what is in them is equal, which would tell it how two ciphertexts opened.
        """
        digest = hashlib.sha256(state).digest()
        return hmac.digest(self._keys.key.derive("compare", question), digest, "sha256")


def most_sealed_bytes(state_bytes: int) -> int:
    """Upper bound of a sealed state's length."""
    return state_bytes + OVERHEAD_BYTES


def sealed_bytes(state_bytes: int) -> int:
    """A sealed state's length."""
    sealed = state_bytes + BLOB_OVERHEAD
    return message_bytes(_schema(sealed), sealed=sealed)


def _schema(size: int) -> Schema:
    return Schema(
        {
            "rounds": Whole(low=0),
            "party": Whole(low=0),
            "sealed": Blob(size, BLOB_OVERHEAD),
            "signature": Blob(SIGNATURE_BYTES, SIGNATURE_BYTES),
        }
    )


def _bound(rounds: int, party: int) -> bytes:
    return f"state/{rounds}/{party}".encode()


def _content(context: Context, rounds: int, party: int, blob: bytes) -> Body:
    digest = hashlib.sha256(blob).digest()
    return {"run": context.run, "rounds": rounds, "party": party, "digest": digest}
