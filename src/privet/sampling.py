"""Poisson sampling: each unit enters a batch by its own coin, and a batch is whatever size the coins make
it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.keys import ClientKeys, Stream
from privet.protocol import RoundId

_CHUNK = 1 << 20


def _threshold(rate: float) -> int:
    if not 0.0 <= rate <= 1.0:
        raise PrivetError("no such sampling rate", field="sampling.rate", given=rate, allowed="from 0 to 1")
    return int(Fraction(rate) * 2**64)


def _below(words: NDArray[np.uint64], threshold: int) -> NDArray[np.bool_]:
    if threshold == 2**64:
        return np.ones(words.shape, dtype=np.bool_)
    return np.asarray(words < np.uint64(threshold), dtype=np.bool_)


def poisson_sample(n: int, rate: float, key: bytes) -> NDArray[np.int64]:
    """Indices of the units whose independent coin of bias ``rate`` fell on heads.

    The bias is ``floor(rate * 2**64) / 2**64``: exactly ``rate`` for any double from 2**-12 to 1, and never
    above it. Batches are not truncated and not padded; an empty batch is an answer, and its round still
    releases noise.

    Args:
        n: Number of units.
        rate: The public sampling rate q.
        key: 32 bytes, used for this draw only.

    Returns:
        int64 indices in ascending order; binomially many.

    Raises:
        PrivetError: if ``rate`` is not a probability.
    """
    threshold = _threshold(rate)
    stream = Stream(key)
    parts = [
        start + np.flatnonzero(_below(stream.uint64(min(_CHUNK, n - start)), threshold))
        for start in range(0, n, _CHUNK)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts]).astype(np.int64)


def sample_units(
    unit_ids: Sequence[str],
    rate: float,
    keys: ClientKeys,
    round_id: RoundId,
    scope: str = "",
    key: bytes | None = None,
) -> NDArray[np.int64]:
    """The batch of one round at one client.

    Each call draws anew, so a client keeps the batch for as long as the round needs it. Under a test seed a
    unit's coin depends on seed, unit, round and scope only: any split of the records over silos samples the
    same records.

    Args:
        unit_ids: Names of the privacy units, without repetition.
        rate: The public sampling rate q, the same for all clients.
        keys: The client's keys.
        round_id: Round and attempt.
        scope: Which sample of the round, where there are several (local steps).
        key: 32 bytes for this draw, from whoever keeps them; by default they are drawn here. Test seeds take no notice.

    Returns:
        int64 indices into ``unit_ids`` in ascending order.

    Raises:
        PrivetError: if ``rate`` is not a probability, or a unit is named twice (it would be two units for the
            accountant and one for the sampler).
    """
    if len(set(unit_ids)) != len(unit_ids):
        raise PrivetError("two privacy units have the same name", field="data", allowed="unique identifiers")
    if not keys.insecure:
        return poisson_sample(len(unit_ids), rate, key or keys.draw(f"sampling/{scope}", round_id))
    coins = b"".join(key[:8] for key in keys.unit_keys(f"sampling/{scope}", round_id, unit_ids))
    words = np.frombuffer(coins, dtype="<u8").astype(np.uint64)
    return np.flatnonzero(_below(words, _threshold(rate))).astype(np.int64)
