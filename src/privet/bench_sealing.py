"""What sealing costs: every level beside FedShield-LLM's path re-made with TenSEAL, in one run and one thread.

One measurement is a whole sum: float32 vectors of all clients in, their mean as float32 out. Stochastic
rounding to the public grid, packing, signing, the wire format and, where it is due, the exchange of keys are
inside every one of our paths. Vectors longer than `PIECE` are sealed piece by piece, so memory stays bounded.

FedShield's path (arXiv 2506.05640, algorithm 1, and its parameters) was written from the paper: pieces of 4,096
values, `CKKSVector`, serialised, added, decrypted; one context with the secret key for all, zeros encrypted too.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.engines.local import LocalEngine
from privet.fixed_point import Grid, project_range, round_units
from privet.keys import derive
from privet.protocol import RoundId
from privet.sealing import ckks, encrypted
from privet.sealing.base import SealingClient, SealingServer
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_masked import EncryptedMaskedClient, EncryptedMaskedServer
from privet.sealing.encrypted_messages import sum_schema
from privet.sealing.encrypted_round import EncryptedServer
from privet.sealing.identity import Identity
from privet.sealing.masked import MaskedClient, MaskedServer
from privet.sealing.masking import MaskingClient
from privet.sealing.masks import Group
from privet.sealing.roster import Roster
from privet.sealing.unmasking import MaskingServer
from privet.store import MemoryStore
from privet.wire import Body

Floats = NDArray[np.float32]

PIECE = 1 << 20
VALUE_BITS = 16
LIMIT = (1 << VALUE_BITS - 1) - 1
GRID = Grid(step=2.0**-13, bound=2**31 - 1)
"""Standard normal values take 16 bits with room for four standard deviations."""
_BLOCK = 1 << 16
"""Values that are rounded at once: nothing bounds the norm of a whole vector here, and a block fits the cache."""


@dataclass
class Cost:
    """CPU seconds and bytes of one sum.

    Attributes:
        seal: Seconds of one client, the mean of all.
        total: Seconds of all clients, the server and whoever opens, together.
        upload: Bytes that one client sends, the largest of all.
    """

    seal: float = 0.0
    total: float = 0.0
    upload: int = 0

    def __iadd__(self, other: Cost) -> Cost:
        self.seal, self.total = self.seal + other.seal, self.total + other.total
        self.upload += other.upload
        return self


class Path(Protocol):
    """One way to sum vectors."""

    name: str

    def sum_piece(self, vectors: Sequence[Floats]) -> tuple[Cost, Floats]:
        """What it cost to get the mean, float32 ``[count]``, of one vector of each client."""


class FedShieldPath:
    """CKKS as published: floats in, floats out, and the secret key with everybody.

    Args:
        clients: Number of vectors.
    """

    name = "fedshield_ckks"

    def __init__(self, clients: int) -> None:
        import tenseal

        self._tenseal: Any = tenseal
        self._clients = clients
        self._context = ckks.new_context()

    def sum_piece(self, vectors: Sequence[Floats]) -> tuple[Cost, Floats]:
        """Encrypt and serialise at each client, add and decrypt at the aggregator."""
        cost, start = Cost(), time.process_time()
        uploads = []
        for vector in vectors:
            pieces = range(0, len(vector), ckks.SLOTS)
            encrypted_pieces = [
                self._tenseal.ckks_vector(self._context, vector[at : at + ckks.SLOTS]) for at in pieces
            ]
            uploads.append([piece.serialize() for piece in encrypted_pieces])
        cost.seal = (time.process_time() - start) / self._clients
        opened = []
        for column in zip(*uploads, strict=True):
            total = self._tenseal.ckks_vector_from(self._context, column[0])
            for data in column[1:]:
                total += self._tenseal.ckks_vector_from(self._context, data)
            opened.append(np.array(total.decrypt(), np.float32))
        mean = np.concatenate(opened) / np.float32(self._clients)
        cost.total = time.process_time() - start
        cost.upload = max(sum(map(len, upload)) for upload in uploads)
        return cost, mean


class LevelPath:
    """One of our levels, with real clients, server and messages; each piece is a round of its own.

    Args:
        name: Name of the level.
        clients: Number of clients.
    """

    def __init__(self, name: str, clients: int) -> None:
        self.name = name
        identities = [Identity.generate() for _ in range(clients)]
        roster = Roster.in_memory([f"site {party}" for party in range(clients)], identities)
        self._clients, self._server = _halves(name, roster, identities)
        self._engine = LocalEngine(
            dict(enumerate(self._clients)),
            self._server.messages(),
        )
        self._number = 0

    def sum_piece(self, vectors: Sequence[Floats]) -> tuple[Cost, Floats]:
        """One round: keys where due, round and seal at each client, add at the server, open, and rescale."""
        round, count, cost = RoundId(self._number), len(vectors[0]), Cost()
        self._number += 1
        schema = self._server.sealed(count)
        start = time.process_time()
        self._engine.run(self._server.prepare(round))
        prepared = time.process_time()
        uploads = [self._upload(party, round, vector, schema) for party, vector in enumerate(vectors)]
        cost.seal = (time.process_time() - prepared) / len(vectors)
        replies = {party: wire.decode(upload, schema) for party, upload in enumerate(uploads)}
        opened = self._engine.run(self._server.open(round, count, replies))
        total = opened.total
        if opened.ciphertext is not None:
            total = self._clients[0].unseal(round, self._delivered(opened.ciphertext, count), count)
        assert total is not None
        mean: Floats = (total * (GRID.step / len(vectors))).astype(np.float32)
        cost.total = time.process_time() - start
        cost.upload = max(map(len, uploads))
        return cost, mean

    def _upload(self, party: int, round: RoundId, vector: Floats, schema: wire.Schema) -> bytes:
        key = derive(bytes(32), "rounding", party, round.number)
        values = np.empty(len(vector), np.int64)
        for start in range(0, len(vector), _BLOCK):
            block = slice(start, start + _BLOCK)
            rounded = round_units(vector[None, block], GRID, [derive(key, start)])[0]
            values[block] = project_range(rounded, LIMIT)
        return wire.encode(self._clients[party].seal(round, values), schema)

    def _delivered(self, ciphertext: Body, count: int) -> Body:
        """The sum as the designated client gets it."""
        assert isinstance(self._server, EncryptedServer)
        schema = sum_schema(self._server.scheme, count, len(self._clients))
        return wire.decode(wire.encode(ciphertext, schema), schema)


def _halves(
    name: str, roster: Roster, identities: Sequence[Identity]
) -> tuple[list[SealingClient], SealingServer]:
    run, floor = "bench", roster.size
    parameters = BfvParameters.for_values(VALUE_BITS, roster.size)
    group = Group.of_bits((roster.size * LIMIT).bit_length() + 1)
    roots = [derive(identity.public_key, "bench") for identity in identities]
    if name == encrypted.LEVEL:
        return [
            encrypted.encrypted_client(
                run=run,
                roster=roster,
                identity=identity,
                store=MemoryStore(),
                parameters=parameters,
                least=floor,
            )
            for identity in identities
        ], encrypted.encrypted_server(
            run=run, roster=roster, parameters=parameters, floor=floor, store=MemoryStore()
        )
    if name == ckks.LEVEL:
        return [
            ckks.ckks_client(run=run, roster=roster, identity=identity, store=MemoryStore(), least=floor)
            for identity in identities
        ], ckks.ckks_server(run=run, roster=roster, floor=floor, store=MemoryStore())
    if name == "masked":
        return [
            MaskedClient(
                MaskingClient(
                    run=run,
                    roster=roster,
                    identity=identity,
                    root=root,
                    group=group,
                    least=floor,
                    store=MemoryStore(),
                )
            )
            for identity, root in zip(identities, roots, strict=True)
        ], MaskedServer(MaskingServer(run=run, roster=roster, group=group, least=floor, store=MemoryStore()))
    return [
        EncryptedMaskedClient(
            run=run,
            roster=roster,
            identity=identity,
            root=root,
            store=MemoryStore(),
            parameters=parameters,
            least=floor,
        )
        for identity, root in zip(identities, roots, strict=True)
    ], EncryptedMaskedServer(run=run, roster=roster, parameters=parameters, floor=floor, store=MemoryStore())


PATHS: tuple[str, ...] = ("fedshield_ckks", "ckks", "encrypted", "masked", "encrypted+masked")


def make_path(name: str, clients: int) -> Path:
    """The path of that name."""
    return FedShieldPath(clients) if name == FedShieldPath.name else LevelPath(name, clients)


def measure(path: Path, values: int, clients: int, keep: Callable[[Floats], Floats] = lambda x: x) -> Cost:
    """The cost of one sum of ``values`` values, piece by piece; what comes out is compared with the true mean.

    Args:
        path: The path.
        values: Length of the vectors.
        clients: Number of vectors.
        keep: Public selection of coordinates, as by a shared pruning mask, before anything is sealed.

    Raises:
        ArithmeticError: if the mean is off by more than a step of the grid.
    """
    cost = Cost()
    for start in range(0, values, PIECE):
        size = min(PIECE, values - start)
        rng = np.random.Generator(np.random.PCG64(start))
        whole = [rng.standard_normal(size, np.float32).clip(-3.9, 3.9) for _ in range(clients)]
        vectors = [keep(vector) for vector in whole]
        gc.collect()
        spent, mean = path.sum_piece(vectors)
        cost += spent
        if np.abs(mean - np.mean(vectors, axis=0)).max() > GRID.step:
            raise ArithmeticError(f"{path.name} does not give the mean")
    return cost


def bench_sealing(values: int = 1 << 20, clients: int = 3, repeats: int = 5) -> list[dict[str, Any]]:
    """Cost of each path; repetitions are interleaved and medians are reported.

    Args:
        values: Length of each client's vector.
        clients: Number of clients, at least 3.
        repeats: Repetitions after one that warms up.

    Returns:
        One row a path: CPU seconds of one client's rounding, sealing and serialising (``encrypt_s``), of the
        whole sum (``total_s``), one client's bytes (``upload_bytes``), these over float32 (``expansion``), and how
        many times faster than FedShield's path the whole sum is (``speedup``).
    """
    paths = [make_path(name, clients) for name in PATHS]
    costs: dict[str, list[Cost]] = {name: [] for name in PATHS}
    for path in paths:
        measure(path, min(values, PIECE // 16), clients)
    for _ in range(repeats):
        for path in paths:
            costs[path.name].append(measure(path, values, clients))
    slowest = median(cost.total for cost in costs[FedShieldPath.name])
    return [row(name, values, clients, costs[name], slowest) for name in PATHS]


def row(path: str, values: int, clients: int, costs: Sequence[Cost], reference_s: float) -> dict[str, Any]:
    """One row of the table."""
    total, upload = median(cost.total for cost in costs), max(cost.upload for cost in costs)
    return {
        "path": path,
        "values": values,
        "clients": clients,
        "encrypt_s": round(median(cost.seal for cost in costs), 5),
        "total_s": round(total, 5),
        "upload_bytes": upload,
        "expansion": round(upload / (4 * values), 4),
        "speedup": round(reference_s / total, 2),
    }
