"""The level ``encrypted+masked``: BFV over masked words, so that no single client and no server opens one.

Each packed word is masked in ``Z_t``, t the plaintext prime, before it is encrypted (`masking`: pairwise and
self masks, Bonawitz et al. 2017). The server adds ciphertexts, rebuilds what is left of the masks once the
survivors are signed, and takes them off the encrypted sum without a key. So the server cannot see the sum,
and a client that is shown another's ciphertext finds uniform words under the encryption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.protocol import RoundAborted, RoundId, Steps
from privet.sealing import encrypted, masked
from privet.sealing.base import Opened, SealingPlan, Store, missing_survivors, named, reasons
from privet.sealing.bfv import Words
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted import BfvHolder, BfvScheme
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.masking import MaskingClient
from privet.sealing.masks import Group
from privet.sealing.roster import Roster
from privet.sealing.run_key import OPERATIONS
from privet.sealing.unmasking import MaskingServer
from privet.wire import Body, Message

LEVEL = "encrypted+masked"


class EncryptedMaskedClient(EncryptedClient):
    """One party's half.

    Args:
        run: Name of the run; enters every signature and key.
        roster: The members; accepted here, so it must be signed.
        identity: This site's key; its place in the roster is the party's number.
        root: 32 secret bytes of this client for this run, for its masks.
        store: Where keys and decisions are kept.
        parameters: Public parameters of BFV, the same at every party.
        least: Fewest contributions in a sum that this client helps to open.
        fresh_noise: Each attempt's values hold noise of their own; see `MaskingClient`.
        insecure_test_seed: Masks follow from ``root``.

    Raises:
        PrivetError: if the roster is not signed or lacks this identity, or the cohort is too small.
    """

    def __init__(
        self,
        *,
        run: str,
        roster: Roster,
        identity: Identity,
        root: bytes,
        store: Store,
        parameters: BfvParameters,
        least: int,
        fresh_noise: bool = False,
        insecure_test_seed: bool = False,
    ) -> None:
        scheme = BfvScheme(parameters)
        self._bfv = scheme.bfv
        super().__init__(
            level=LEVEL,
            run=run,
            roster=roster,
            identity=identity,
            store=store,
            scheme=scheme,
            least=least,
        )
        self.masking = MaskingClient(
            run=run,
            roster=roster,
            identity=identity,
            root=root,
            group=Group(parameters.plain_modulus),
            least=self._least,
            store=store,
            fresh_noise=fresh_noise,
            insecure_test_seed=insecure_test_seed,
        )

    def handle(self, op: str, body: Body) -> Body:
        """Answer ``keys.*`` and ``recover.*``.

        Raises:
            SealingRefused: with the reason; nothing was revealed.
        """
        return super().handle(op, body) if op in OPERATIONS else self.masking.handle(op, body)

    def seal(self, round: RoundId, values: NDArray[np.int64], question: bytes = b"") -> Body:
        """Values, int64 ``[count]``, packed, masked, encrypted and signed.

        Raises:
            SealingRefused: if this attempt masked other values, there are no keys for it, or no run's key.
        """
        holder = self._holder()
        assert isinstance(holder, BfvHolder)
        packed = list(self._bfv.pack(values))
        epoch, words = self.masking.mask(round, np.concatenate(packed or [np.empty(0, np.uint64)]), question)
        rows = _rows(words, self._bfv.parameters.degree)
        return self._send(round, holder.secret.encrypt(rows), epoch)


class EncryptedMaskedServer(EncryptedServer):
    """The server's half: ciphertexts, and after the survivors are signed the masks in their sum; no key.

    Args:
        run: Name of the run.
        roster: The members.
        parameters: Public parameters of BFV.
        floor: Survivors that the run demands.
        store: Where the state of masking is kept.
        rounds_per_epoch: Rounds that one exchange of mask keys serves.

    Raises:
        PrivetError: if the cohort is too small to hide anything.
    """

    def __init__(
        self,
        *,
        run: str,
        roster: Roster,
        parameters: BfvParameters,
        floor: int,
        store: Store,
        rounds_per_epoch: int = 8,
    ) -> None:
        scheme = BfvScheme(parameters)
        self._bfv = scheme.bfv
        super().__init__(level=LEVEL, run=run, roster=roster, scheme=scheme, floor=floor, store=store)
        self.masking = MaskingServer(
            run=run,
            roster=roster,
            group=Group(parameters.plain_modulus),
            least=self._floor,
            store=store,
            rounds_per_epoch=rounds_per_epoch,
        )

    def messages(self) -> Mapping[str, Message]:
        """Schemas of the key phases and of recovery."""
        return {**super().messages(), **self.masking.messages()}

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Hand the run's key on and exchange mask keys where due; returns the parties that have both.

        Raises:
            RoundAborted: if they are too few.
        """
        holders = yield from super().prepare(round)
        masked = yield from self.masking.prepare(round)
        ready = tuple(sorted(set(holders) & set(masked)))
        if len(ready) < self._floor:
            raise RoundAborted(f"{len(ready)} of {self._floor} demanded clients have all keys")
        return ready

    def open(
        self, round: RoundId, count: int, replies: Mapping[int, Body], question: bytes = b""
    ) -> Steps[Opened]:
        """Add ciphertexts, settle the survivors with them, and take their masks off the encrypted sum.

        Raises:
            RoundAborted: with nothing revealed, if too few contributions, signatures or shares came.
        """
        uploads, refused = self._accept(round, count, replies, self.masking.epoch_of(round))
        total = self._add(uploads, refused)
        try:
            masks = yield from self.masking.recover(round, tuple(uploads), question)
        except RoundAborted as reason:
            # whoever is missing may be whom the others insist on
            missing = named("no words of", self.masking.absent(uploads))
            raise RoundAborted(f"{reason}{missing}{reasons(refused)}") from None
        if masks.survivors != tuple(uploads):
            # settled before a restart, while one contribution more or less was there
            uploads = {party: uploads[party] for party in masks.survivors}
            total = self._add(uploads, refused)
            if masks.survivors != tuple(uploads):
                raise RoundAborted(f"{missing_survivors(masks.survivors, uploads)}{reasons(refused)}")
        p = self._bfv.parameters
        words = masks.total(p.degree * p.ciphertexts(count))
        for ciphertext, row in zip(total, _rows(words, p.degree), strict=True):
            self._bfv.subtract_words(ciphertext, row)
        return self._opened(round, uploads, total, {**masks.misfits, **refused})


def _rows(words: NDArray[Any], degree: int) -> Iterator[Words]:
    return iter(words.astype(np.uint64, copy=False).reshape(-1, degree))


def plan(
    *, count: int, parameters: BfvParameters, parties: int, rounds_per_epoch: int = 8, rounds: int = 8
) -> SealingPlan:
    """What this level promises and costs for ``count`` values in each of ``rounds`` rounds; needs no SEAL."""
    words = parameters.degree * parameters.ciphertexts(count)
    bits = parameters.plain_modulus.bit_length()
    masks = masked.plan(count=words, bits=bits, parties=parties, rounds_per_epoch=rounds_per_epoch)
    sealed = encrypted.plan(count=count, parameters=parameters, parties=parties, rounds=rounds)
    keys = masked.key_traffic(parties, rounds_per_epoch, rounds)
    return replace(
        masks,
        level=LEVEL,
        who_sees_sum=sealed.who_sees_sum,
        upload_bytes=round(sealed.upload_bytes + keys.up),
        download_bytes=round(sealed.download_bytes + keys.down),
        seconds=sealed.seconds + masks.seconds,
        phases=(sealed.phases[0], *masks.phases, "open"),
    )
