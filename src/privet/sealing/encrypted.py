"""The level ``encrypted``: BFV under a key of the clients; the server adds, one client opens the sum.

The server never holds the key, so it learns neither contributions nor their sum nor the adapter; but a single
client could open what the server shows it, so the level assumes a server that shows one client's ciphertexts
to no other (clients cannot see how many were added). `encrypted+masked` drops that assumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.sealing.additive import CiphertextRefused
from privet.sealing.base import SealingPlan, SealingRefused, Store
from privet.sealing.bfv import SEED_BYTES, Bfv, BfvKey, Words
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_messages import traffic
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.sealing.run_key import RunKey
from privet.sealing.run_key_server import run_key_traffic

LEVEL = "encrypted"


def encrypted_client(
    *,
    run: str,
    roster: Roster,
    identity: Identity,
    store: Store,
    parameters: BfvParameters,
    least: int,
) -> EncryptedClient:
    """One party's half of the level; see `EncryptedClient`."""
    return EncryptedClient(
        level=LEVEL,
        run=run,
        roster=roster,
        identity=identity,
        store=store,
        scheme=BfvScheme(parameters),
        least=least,
    )


def encrypted_server(
    *,
    run: str,
    roster: Roster,
    parameters: BfvParameters,
    floor: int,
    store: Store,
    fresh_noise: bool = False,
) -> EncryptedServer:
    """The server's half of the level; see `EncryptedServer`."""
    return EncryptedServer(
        level=LEVEL,
        run=run,
        roster=roster,
        scheme=BfvScheme(parameters),
        floor=floor,
        store=store,
        fresh_noise=fresh_noise,
    )


class BfvScheme:
    """BFV as the encrypted levels use it: the public half, and the way to the secret one.

    Args:
        parameters: Public parameters, the same at every party.

    Attributes:
        bfv: Packing, checks and sums.

    Raises:
        PrivetError: if SEAL does not find 128-bit security in the parameters.
    """

    def __init__(self, parameters: BfvParameters) -> None:
        self.bfv = Bfv(parameters)
        self.most_fresh_bytes = parameters.most_fresh_bytes
        self.most_sum_bytes = parameters.most_sum_bytes
        self.attachment_bytes = parameters.most_fresh_bytes

    def label(self) -> str:
        """All public parameters."""
        return self.bfv.parameters.label()

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts that ``count`` values take."""
        return self.bfv.parameters.ciphertexts(count)

    def load(self, data: bytes | memoryview, *, fresh: bool) -> Any:
        """See `Bfv.load`."""
        return self.bfv.load(data, fresh=fresh)

    def add(self, column: Sequence[bytes | memoryview]) -> Any:
        """See `Bfv.add`."""
        return self.bfv.add(column)

    def save(self, ciphertext: Any) -> bytes:
        """See `Bfv.save`."""
        return self.bfv.save(ciphertext)

    def attachment(self, store: Store) -> KeyCheck:
        """Proof that all clients compute the same BFV key."""
        return KeyCheck(self.bfv)

    def holder(self, key: RunKey, store: Store) -> BfvHolder:
        """The secret half, once it was seen to open sums of all parties exactly.

        Raises:
            PrivetError: if the installed SEAL does not.
        """
        holder = BfvHolder(self.bfv, key)
        holder.secret.check_budget()
        return holder


class BfvHolder:
    """The secret half of BFV at one client.

    Args:
        bfv: The public half.
        key: The run's key; the BFV key follows from it.
    """

    def __init__(self, bfv: Bfv, key: RunKey) -> None:
        self._bfv = bfv
        self.secret = BfvKey(bfv, key.derive(bfv.parameters.label(), length=SEED_BYTES))

    def seal(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """Seed-compressed ciphertexts of values, int64 ``[count]``."""
        return self.secret.encrypt(self._bfv.pack(values))

    def open(self, ciphertexts: Iterable[bytes | memoryview], count: int) -> NDArray[np.int64]:
        """Summed values, int64 ``[count]``.

        Raises:
            CiphertextRefused: if they do not open under this key.
        """
        return self._bfv.unpack(self.secret.decrypt(ciphertexts), count)


class KeyCheck:
    """What travels with the run's key: a ciphertext of known words, so that all hold the same BFV key.

    The key follows from a seed through SEAL's sampling; an installation whose SEAL samples otherwise would
    compute another key, encrypt under it, and spoil every sum. It finds out here instead.
    """

    def __init__(self, bfv: Bfv) -> None:
        self._bfv = bfv

    def make(self, key: RunKey) -> bytes:
        """An encryption of words that follow from the key."""
        return next(BfvHolder(self._bfv, key).secret.encrypt([self._words(key)]))

    def accept(self, key: RunKey, data: bytes) -> None:
        """Decrypt and compare.

        Raises:
            SealingRefused: if this SEAL does not get the same key.
        """
        try:
            (opened,) = BfvHolder(self._bfv, key).secret.decrypt([data], fresh=True)
            same = np.array_equal(opened, self._words(key))
        except CiphertextRefused:
            same = False
        if not same:
            raise SealingRefused(
                "other-seal", "the installed SEAL computes another key; install the same tenseal"
            )

    def _words(self, key: RunKey) -> Words:
        p = self._bfv.parameters
        words = np.frombuffer(key.derive("check", length=1024), "<u8") % np.uint64(p.plain_modulus)
        return np.resize(words, p.degree).astype(np.uint64)


SECONDS_PER_CIPHERTEXT = {"seal": 0.00065, "add": 0.00014, "open": 0.0006}
"""CPU seconds a ciphertext of 4,096 slots: at a client, at the server for each party, to open the sum."""


def plan(*, count: int, parameters: BfvParameters, parties: int, rounds: int = 8) -> SealingPlan:
    """What this level promises and costs for ``count`` values in each of ``rounds`` rounds; needs no SEAL."""
    ciphertexts, size = parameters.ciphertexts(count), parameters.typical_fresh_bytes
    # a sum is not seed-compressed: two polynomials; the check of the run's key is one fresh ciphertext
    bytes_ = traffic(ciphertexts, size, 2 * size, parties) + run_key_traffic(parties, size) * (1 / rounds)
    seconds = SECONDS_PER_CIPHERTEXT
    return SealingPlan(
        level=LEVEL,
        who_can_open="the server together with any one client",
        who_sees_sum="clients only",
        upload_bytes=round(bytes_.up),
        download_bytes=round(bytes_.down),
        seconds=ciphertexts * (parties * (seconds["seal"] + seconds["add"]) + seconds["open"]),
        phases=("keys.run.advertise, keys.run.wrap, keys.run.accept (once a run)", "round", "open"),
        warnings=(
            "assumes a server that shows one client's ciphertexts to no other client: "
            "a client cannot see how many were added",
        ),
    )
