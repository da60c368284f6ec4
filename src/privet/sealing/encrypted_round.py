"""A round under encryption, for any additive scheme: clients seal and sign, the server adds, one opens.

The server half holds public parameters and ciphertexts. What a client seals for an attempt is written down
before it leaves, and so is what the designated client opens: another decision for that attempt is refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from privet import wire
from privet.protocol import RoundAborted, RoundId, Steps
from privet.sealing.additive import CiphertextRefused, KeyHolder, Scheme, SumRefused
from privet.sealing.agreement import NONCE_BYTES
from privet.sealing.base import (
    Opened,
    SealingRefused,
    Store,
    check_cohort,
    checked,
    missing_survivors,
    named,
    reasons,
)
from privet.sealing.encrypted_messages import Upload, split, sum_schema, upload_schema
from privet.sealing.identity import Identity, verify
from privet.sealing.masking_messages import Context
from privet.sealing.roster import LARGEST_ROSTER, Roster
from privet.sealing.run_key import OPERATIONS, RunKeyClient
from privet.sealing.run_key_server import RunKeyServer
from privet.sealing.state_seal import StateSeal
from privet.wire import Array, Blob, Body, Message, Schema, UpTo, Whole

_SEALED, _OPENED = "encrypted.sealed", "encrypted.opened"
_DECIDED = Schema({"number": Whole(0), "attempt": Whole(0), "tag": Blob(16, 16)})
_SETTLED = "encrypted.server.survivors"
_SURVIVORS = Schema(
    {"number": Whole(0), "attempt": Whole(0), "survivors": Array("int64", (UpTo(LARGEST_ROSTER),))}
)


class EncryptedClient:
    """One party's half.

    Args:
        level: Name of the level, which keys are bound to.
        run: Name of the run; enters every signature and key.
        roster: The members; accepted here, so it must be signed.
        identity: This site's key; its place in the roster is the party's number.
        store: Where keys and decisions are kept.
        scheme: Public half of the scheme, with the same parameters at every party.
        least: Fewest contributions in a sum that this client opens.

    Attributes:
        party: Own number.
        scheme: The scheme.
        keys: Holder of the run's key.
        states: Seals and opens the state that the designated client hands to the others.

    Raises:
        PrivetError: if the roster is not signed or lacks this identity, or the cohort is too small.
    """

    def __init__(
        self,
        *,
        level: str,
        run: str,
        roster: Roster,
        identity: Identity,
        store: Store,
        scheme: Scheme,
        least: int,
    ) -> None:
        self.party = roster.accept(identity.public_key)
        self._context, self._identity, self._store = Context(run, roster), identity, store
        self.scheme, self._least = scheme, check_cohort(level, roster.size, least)
        purpose = f"{level}/{scheme.label()}"
        self.keys = RunKeyClient(
            self._context,
            purpose,
            party=self.party,
            identity=identity,
            store=store,
            attachment=scheme.attachment(store),
        )
        self._operations = RunKeyServer(self._context, purpose, scheme.attachment_bytes).messages()
        self.states = StateSeal(
            self._context, party=self.party, identity=identity, keys=self.keys, store=store
        )
        self._held: tuple[bytes, KeyHolder] | None = None

    def handle(self, op: str, body: Body) -> Body:
        """Answer ``keys.run.*``.

        Raises:
            SealingRefused: with the reason; nothing was revealed.
        """
        if op not in OPERATIONS:
            raise SealingRefused("unknown-operation")
        return self.keys.handle(op, checked(self._operations[op].request, body))

    def seal(self, round: RoundId, values: NDArray[np.int64], question: bytes = b"") -> Body:
        """Values, int64 ``[count]``, encrypted and signed for one attempt at one round.

        Raises:
            SealingRefused: if this attempt sealed other values, a later one was sealed, or there is no key.
        """
        values = np.ascontiguousarray(values, np.int64)
        self._decide(_SEALED, round, values.view(np.uint8).data)
        return self._send(round, self._holder().seal(values))

    def unseal(self, round: RoundId, ciphertext: Body, count: int) -> NDArray[np.int64]:
        """Open the summed ciphertexts of a round at the designated client, int64 ``[count]``.

        Raises:
            SealingRefused: if they are malformed, of another round or key, sum up too few contributions or not
                this client's, or another sum of the same attempt was opened before.
        """
        parties = range(self._context.roster.size)
        summed: Mapping[str, Any] = checked(sum_schema(self.scheme, count, len(parties)), ciphertext)
        if RoundId(summed["number"], summed["attempt"]) != round:
            raise SealingRefused("wrong-round", "the sum is of another round than the question")
        if summed["key"] != self.keys.key.name:
            raise SealingRefused("other-run-key", "the sum is under another key than this client's")
        survivors = [int(party) for party in summed["survivors"]]
        if survivors != sorted(set(survivors)) or not set(survivors) <= set(parties):
            raise SealingRefused("malformed", "survivors are an ascending list of parties")
        if len(survivors) < self._least:
            raise SealingRefused("too-few-parties", f"{len(survivors)} of {self._least}")
        if self.party not in survivors:
            raise SealingRefused("no-contribution", "this client's contribution is not in the sum")
        self._decide(_OPENED, round, summed["ciphertexts"])
        try:
            return self._holder().open(split(summed["ciphertexts"], summed["sizes"]), count)
        except CiphertextRefused as reason:
            raise SealingRefused("bad-sum", str(reason)) from None

    def _send(self, round: RoundId, pieces: Iterable[bytes], epoch: int = 0) -> Body:
        """Ciphertexts with their round, key and signature."""
        self.keys.mark_used()
        upload = Upload.of(round, self.keys.key.name, pieces, epoch)
        content = upload.content(self._context, self.party)
        return {
            **upload.body(),
            "signature": self._identity.sign("ciphertexts", self._context.roster.hash, content),
        }

    def _holder(self) -> KeyHolder:
        key = self.keys.key
        if self._held is None or self._held[0] != key.name:
            self._held = (key.name, self.scheme.holder(key, self._store))
        return self._held[1]

    def _decide(self, name: str, round: RoundId, decided_upon: bytes | memoryview) -> None:
        """Write down what this attempt seals or opens; a different second decision is refused."""
        # AES-GCM of nothing but associated data is a MAC (GMAC), 15 times as fast as SHA-256; its key and nonce
        # serve one attempt, and the tag stays in the client's own store
        key = self.keys.key.derive(name, round.number, round.attempt)
        tag = AESGCM(key).encrypt(bytes(NONCE_BYTES), b"", decided_upon)
        data = self._store.get(name)
        if data:
            last: Mapping[str, Any] = wire.decode(data, _DECIDED)
            decided = RoundId(last["number"], last["attempt"])
            if round == decided and hmac.compare_digest(last["tag"], tag):
                return
            if round == decided:
                raise SealingRefused("slot-used", "this attempt has sealed or opened something else")
            if round < decided:
                raise SealingRefused("replayed-round", "a later attempt was already sealed or opened")
        decision: Body = {"number": round.number, "attempt": round.attempt, "tag": tag}
        self._store.put(name, wire.encode(decision, _DECIDED))


class EncryptedServer:
    """The server's half: ciphertexts and public parameters, and no key.

    Args:
        level: Name of the level.
        run: Name of the run.
        roster: The members.
        scheme: Public half of the scheme.
        floor: Survivors that the run demands.
        store: Where it is kept whose contributions are in the sum that was handed out last.
        fresh_noise: Each attempt's contributions hold noise of their own. Else those of two attempts at a round are
            nearly the same, and are not summed over two sets of survivors either.

    Attributes:
        scheme: The scheme.
        keys: Relays the run's key.

    Raises:
        PrivetError: if the cohort is too small to hide anything.
    """

    reveals_contributions = False

    def __init__(
        self,
        *,
        level: str,
        run: str,
        roster: Roster,
        scheme: Scheme,
        floor: int,
        store: Store,
        fresh_noise: bool = False,
    ) -> None:
        self._store, self._fresh_noise = store, fresh_noise
        self.scheme, self._floor = scheme, check_cohort(level, roster.size, floor)
        self._context = Context(run, roster)
        self.keys = RunKeyServer(self._context, f"{level}/{scheme.label()}", scheme.attachment_bytes)

    def messages(self) -> Mapping[str, Message]:
        """Schemas of the key phases."""
        return self.keys.messages()

    def sealed(self, count: int) -> Schema:
        """Schema of a client's contribution of ``count`` values."""
        return upload_schema(self.scheme, count)

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Hand the run's key on where that is due; returns the parties that hold it.

        Raises:
            RoundAborted: if they are too few.
        """
        holders = yield from self.keys.prepare()
        if len(holders) < self._floor:
            who = named("held by", holders)
            raise RoundAborted(
                f"{len(holders)} of {self._floor} demanded clients hold the run's key{who}{reasons(self.keys.failed)}"
            )
        return holders

    def open(
        self, round: RoundId, count: int, replies: Mapping[int, Body], question: bytes = b""
    ) -> Steps[Opened]:
        """Add the ciphertexts of all replies that are signed and well-formed, for the designated client.

        Whose they are is on the disk before the sum is handed out: after a restart, another client than the one that
        opened it may be asked, and a sum with one contribution more would tell the two of them that one.

        Raises:
            RoundAborted: if too few are, or not those that a sum was handed out of before.
        """
        yield from ()
        uploads, refused = self._accept(round, count, replies)
        settled = self._settled(round)
        if settled is not None:
            late = sorted(set(uploads) - set(settled))
            refused |= dict.fromkeys(late, "came after the sum was handed out")
            uploads = {party: uploads[party] for party in settled if party in uploads}
        total = self._add(uploads, refused)
        survivors = tuple(sorted(uploads))
        if settled is not None and survivors != settled:
            raise RoundAborted(f"{missing_survivors(settled, survivors)}{reasons(refused)}")
        self._settle(round, survivors)
        return self._opened(round, survivors, total, refused)

    def _settled(self, round: RoundId) -> tuple[int, ...] | None:
        """The survivors of a sum of the same contributions that was handed out before."""
        data = self._store.get(_SETTLED)
        if not data:
            return None
        last: Mapping[str, Any] = wire.decode(data, _SURVIVORS)
        same = RoundId(last["number"], last["attempt"]) == round
        alike = last["number"] == round.number and not self._fresh_noise
        return tuple(int(party) for party in last["survivors"]) if same or alike else None

    def _settle(self, round: RoundId, survivors: tuple[int, ...]) -> None:
        body: Body = {"number": round.number, "attempt": round.attempt}
        self._store.put(
            _SETTLED, wire.encode({**body, "survivors": np.array(survivors, np.int64)}, _SURVIVORS)
        )

    def _accept(
        self, round: RoundId, count: int, replies: Mapping[int, Body], epoch: int = 0
    ) -> tuple[dict[int, Upload], dict[int, str]]:
        """Replies that are signed and of this round, by party, and why the others were refused."""
        self.keys.forget([party for party in range(self._context.roster.size) if party not in replies])
        uploads: dict[int, Upload] = {}
        refused: dict[int, str] = {}
        for party, reply in sorted(replies.items()):
            try:
                upload = self._read(party, count, reply)
                if upload.round != round or upload.epoch != epoch:
                    raise SealingRefused("wrong-round", "made for another round, attempt or epoch")
                if upload.key != self.keys.name:
                    raise SealingRefused("other-run-key", "encrypted under another key than the run's")
                uploads[party] = upload
            except SealingRefused as refusal:
                refused[party] = str(refusal)
        return uploads, refused

    def _read(self, party: int, count: int, reply: Body) -> Upload:
        fields: Mapping[str, Any] = checked(self.sealed(count), reply)
        upload = Upload.read(fields)
        roster, content = self._context.roster, upload.content(self._context, party)
        if not 0 <= party < roster.size or not verify(
            roster.public_key(party), fields["signature"], "ciphertexts", roster.hash, content
        ):
            raise SealingRefused("bad-signature", "not signed by this party for this run, as it arrived")
        return upload

    def _add(self, uploads: dict[int, Upload], refused: dict[int, str]) -> list[Any]:
        """The scheme's sums; whoever sent a bad ciphertext moves from ``uploads`` to ``refused``."""
        while len(uploads) >= self._floor:
            try:
                columns = zip(*(upload.pieces() for upload in uploads.values()), strict=True)
                return [self.scheme.add(column) for column in columns]
            except CiphertextRefused as refusal:
                # the common case costs one pass; only when a ciphertext is refused, find whose it was
                bad = self._faults(uploads, refusal)
                refused |= bad
                for party in bad:
                    del uploads[party]
        raise RoundAborted(f"{len(uploads)} of {self._floor} demanded contributions came{reasons(refused)}")

    def _faults(self, uploads: Mapping[int, Upload], refusal: CiphertextRefused) -> dict[int, str]:
        """Whose ciphertexts are to blame for a sum that was refused, and why.

        Raises:
            RoundAborted: if each is well-formed by itself and it is not known which of them do not go together.
        """
        if isinstance(refusal, SumRefused):
            together = list(uploads)[: refusal.terms]
            listed = ", ".join(map(str, together))
            return dict.fromkeys(together, f"bad-ciphertext: those of parties {listed} add up to none")
        bad = {party: reason for party, upload in uploads.items() if (reason := self._fault(upload))}
        if not bad:
            listed = ", ".join(map(str, uploads))
            raise RoundAborted(f"the ciphertexts of parties {listed} are refused together: {refusal}")
        return bad

    def _fault(self, upload: Upload) -> str | None:
        try:
            for piece in upload.pieces():
                self.scheme.load(piece, fresh=True)
        except CiphertextRefused as reason:
            return f"bad-ciphertext: {reason}"
        return None

    def _opened(
        self, round: RoundId, survivors: Iterable[int], total: Iterable[Any], refused: Mapping[int, str]
    ) -> Opened:
        """The message to the designated client."""
        parties = tuple(sorted(survivors))
        summed = Upload.of(round, self.keys.name, map(self.scheme.save, total))
        body: Body = {**summed.body(), "survivors": np.array(parties, np.int64)}
        return Opened(parties, None, body, refused)
