"""The level ``ckks``: TenSEAL CKKS with FedShield-LLM's parameters, for comparison only.

Degree 8192, coefficient primes of 60, 40, 40 and 60 bits, scale 2^40 (arXiv 2506.05640, section on
encryption). Vectors are cut into pieces of 4,096 slots. Here the secret context stays with the clients; as
published, clients and aggregator share it.

CKKS decrypts to an approximation whose error depends on the key: whoever is given a few decryptions as they
come out can solve for the key (Li and Micciancio, IACR ePrint 2020/1533). So opened values are rounded to the
public grid at once, before anybody but the holder of the key sees them; what is exchanged are integers. That
removes the error only while it stays far below half a step. BFV (`encrypted`) has no such error and takes a
thirtieth of the bytes: it is what should be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from privet.sealing.additive import CiphertextRefused, refused_sum
from privet.sealing.agreement import BLOB_OVERHEAD, AgreementError, open_blob, seal_blob
from privet.sealing.base import SealingPlan, SealingRefused, Store
from privet.sealing.encrypted_messages import traffic
from privet.sealing.encrypted_round import EncryptedClient, EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.roster import Roster
from privet.sealing.run_key import RunKey
from privet.sealing.run_key_server import run_key_traffic

LEVEL = "ckks"
DEGREE = 8192
PRIME_BITS = (60, 40, 40, 60)
SCALE_BITS = 40
SLOTS = DEGREE // 2
LARGEST = 1 << 52
"""Sums beyond this would not even fit the floats that CKKS packs."""

_CONTEXT = "ckks.context"
_DATA_PRIMES = len(PRIME_BITS) - 1
_MOST_CONTEXT_BYTES = 1 << 20


def new_context() -> Any:
    """A context with fresh secret and public keys, one thread; sums need no further keys."""
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(PRIME_BITS), n_threads=1
    )
    context.global_scale = 2**SCALE_BITS
    return context


def ckks_client(
    *,
    run: str,
    roster: Roster,
    identity: Identity,
    store: Store,
    least: int,
) -> EncryptedClient:
    """One party's half of the level; see `EncryptedClient`."""
    return EncryptedClient(
        level=LEVEL,
        run=run,
        roster=roster,
        identity=identity,
        store=store,
        scheme=CkksScheme(roster.size),
        least=least,
    )


def ckks_server(
    *, run: str, roster: Roster, floor: int, store: Store, fresh_noise: bool = False
) -> EncryptedServer:
    """The server's half of the level; see `EncryptedServer`."""
    return EncryptedServer(
        level=LEVEL,
        run=run,
        roster=roster,
        scheme=CkksScheme(roster.size),
        floor=floor,
        store=store,
        fresh_noise=fresh_noise,
    )


class CkksScheme:
    """The public half: parameters without any key, which is enough to check and to add.

    Args:
        parties: How many ciphertexts may be added.
    """

    def __init__(self, parties: int) -> None:
        import tenseal

        self._tenseal: Any = tenseal
        self._parties = parties
        parameters = new_context().serialize(
            save_public_key=False,
            save_secret_key=False,
            save_galois_keys=False,
            save_relin_keys=False,
        )
        self.context = tenseal.context_from(parameters, n_threads=1)
        # public-key encryption gives full ciphertexts: an upload is as large as a sum
        self.most_fresh_bytes = self.most_sum_bytes = 2 * 8 * DEGREE * _DATA_PRIMES + 4096
        self.attachment_bytes = _MOST_CONTEXT_BYTES + BLOB_OVERHEAD
        self._id = self.context.seal_context().data.first_parms_id()

    def label(self) -> str:
        """All public parameters."""
        return f"ckks/{DEGREE}/{','.join(map(str, PRIME_BITS))}/{SCALE_BITS}/{self._parties}"

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts that ``count`` values take."""
        return -(-count // SLOTS)

    def load(self, data: bytes | memoryview, *, fresh: bool) -> Any:
        """One vector of 4,096 slots out of bytes.

        Raises:
            CiphertextRefused: with the reason.
        """
        if not 0 < len(data) <= self.most_fresh_bytes:
            raise CiphertextRefused("wrong size")
        try:
            vector = self._tenseal.ckks_vector_from(self.context, bytes(data))
            (ciphertext,) = vector.ciphertext()
        except (ValueError, RuntimeError, IndexError, MemoryError):
            raise CiphertextRefused("TenSEAL refuses it") from None
        if vector.size() != SLOTS or ciphertext.size() != 2 or ciphertext.scale != 2.0**SCALE_BITS:
            raise CiphertextRefused("not one vector of 4,096 slots at the level's scale")
        if ciphertext.parms_id() != self._id or not ciphertext.is_ntt_form():
            raise CiphertextRefused("encrypted under other parameters")
        if ciphertext.is_transparent():
            raise CiphertextRefused("a plaintext in a ciphertext's clothes")
        return vector

    def add(self, column: Sequence[bytes | memoryview]) -> Any:
        """The sum of one ciphertext of each party.

        Raises:
            CiphertextRefused: if one is refused, or they are more than the parties.
            SumRefused: if TenSEAL does not add them up.
        """
        if not 1 <= len(column) <= self._parties:
            raise CiphertextRefused("more ciphertexts than the parameters were made for")
        total = self.load(column[0], fresh=True)
        for terms, data in enumerate(column[1:], start=2):
            term = self.load(data, fresh=True)
            try:
                total.add_(term)
            except (RuntimeError, ValueError) as error:
                raise refused_sum(error, terms) from None
        return total

    def save(self, ciphertext: Any) -> bytes:
        """The bytes of a sum."""
        return bytes(ciphertext.serialize())

    def attachment(self, store: Store) -> ContextCourier:
        """The secret context, sealed under the run's key."""
        return ContextCourier(store)

    def holder(self, key: RunKey, store: Store) -> CkksHolder:
        """The secret half, from the context that came with the run's key.

        Raises:
            SealingRefused: if none came.
        """
        data = store.get(_CONTEXT)
        if not data:
            raise SealingRefused("no-run-key", "this client was not given the run's context")
        return CkksHolder(self, _open_context(key, data))

    def __reduce__(self) -> NoReturn:
        raise TypeError("SEAL's objects belong to one process; keep the parameters")


class CkksHolder:
    """The secret half at one client.

    Args:
        scheme: The public half.
        context: TenSEAL's context with secret and public key.
    """

    def __init__(self, scheme: CkksScheme, context: Any) -> None:
        self._scheme, self._context = scheme, context

    def seal(self, values: NDArray[np.int64]) -> Iterator[bytes]:
        """Ciphertexts of values, int64 ``[count]``; the tail is filled with zeros."""
        import tenseal

        for start in range(0, len(values), SLOTS):
            piece = np.zeros(SLOTS, np.float64)
            piece[: len(values) - start] = values[start : start + SLOTS]
            yield tenseal.ckks_vector(self._context, piece).serialize()

    def open(self, ciphertexts: Iterable[bytes | memoryview], count: int) -> NDArray[np.int64]:
        """Summed values, rounded to integers, int64 ``[count]``.

        Raises:
            CiphertextRefused: if they are malformed, or what they decrypt to is no sum of grid values.
        """
        pieces = []
        for data in ciphertexts:
            vector = self._scheme.load(data, fresh=False)
            vector.link_context(self._context)
            pieces.append(np.array(vector.decrypt(), dtype=np.float64))
        opened = np.concatenate([*pieces, np.empty(0)])
        if len(opened) < count or not np.all(np.abs(opened) < LARGEST):
            raise CiphertextRefused("does not open to integers: another key, or a changed ciphertext")
        total: NDArray[np.int64] = np.rint(opened[:count]).astype(np.int64)
        return total

    def __reduce__(self) -> NoReturn:
        raise TypeError("CkksHolder holds secrets and cannot be pickled")

    def __repr__(self) -> str:
        return "<CkksHolder: hidden>"


class ContextCourier:
    """Carries the secret context between clients, sealed under the run's key, and keeps it sealed.

    Args:
        store: The client's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def make(self, key: RunKey) -> bytes:
        """The sealed context; the first to be asked generates it."""
        kept = self._store.get(_CONTEXT)
        if kept:
            try:
                _open_context(key, kept)
                return kept
            except SealingRefused:
                # of an earlier run's key: this run gets a context of its own
                pass
        secret = new_context().serialize(
            save_public_key=True, save_secret_key=True, save_galois_keys=False, save_relin_keys=False
        )
        sealed = seal_blob(key.derive(_CONTEXT), secret, b"ckks")
        self._store.put(_CONTEXT, sealed)
        return sealed

    def accept(self, key: RunKey, data: bytes) -> None:
        """Open and keep it.

        Raises:
            SealingRefused: if it is not sealed under the run's key or holds no secret key.
        """
        context = _open_context(key, data)
        if not context.has_secret_key():
            raise SealingRefused("bad-context", "the context that came holds no secret key")
        try:
            # both keys have to be of the level's parameters, and belong to each other
            scheme = CkksScheme(2)
            holder, known = CkksHolder(scheme, context), np.arange(SLOTS, dtype=np.int64)
            total = scheme.save(scheme.add(list(holder.seal(known)) * 2))
            same = np.array_equal(holder.open([total], SLOTS), 2 * known)
        except (CiphertextRefused, ValueError, RuntimeError, IndexError, MemoryError):
            same = False
        if not same:
            raise SealingRefused("bad-context", "the context that came does not open what it encrypts")
        self._store.put(_CONTEXT, data)


def _open_context(key: RunKey, sealed: bytes) -> Any:
    import tenseal

    try:
        return tenseal.context_from(open_blob(key.derive(_CONTEXT), sealed, b"ckks"), n_threads=1)
    except (AgreementError, ValueError, RuntimeError, IndexError, MemoryError):
        raise SealingRefused("bad-context", "the context does not open under the run's key") from None


SECONDS_PER_CIPHERTEXT = {"seal": 0.005, "add": 0.0006, "open": 0.003}
"""CPU seconds a ciphertext of 4,096 slots: at a client, at the server for each party, to open the sum."""
UPLOAD_BYTES_PER_CIPHERTEXT = 331_100
CONTEXT_BYTES = 697_400
"""Secret context, sealed: what travels along with the run's key."""


def plan(*, count: int, parties: int, rounds: int = 8) -> SealingPlan:
    """What this level promises and costs for ``count`` values in each of ``rounds`` rounds; needs no TenSEAL."""
    ciphertexts, size = -(-count // SLOTS), UPLOAD_BYTES_PER_CIPHERTEXT
    bytes_ = traffic(ciphertexts, size, size, parties) + run_key_traffic(parties, CONTEXT_BYTES) * (
        1 / rounds
    )
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
            "for comparison only: CKKS is approximate, and decryptions that are shared as they come out "
            "reveal the key (Li and Micciancio 2020); here they are rounded to the grid first",
        ),
    )
