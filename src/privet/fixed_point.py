"""Fixed point: real vectors become integers of exactly bounded norm, and sums of integers become few bits.

- `Grid`: the public grid, and with it the sensitivity as an integer number of its steps.
- `round_units`: each unit is rounded on its own, and its norm is checked in exact integers.
- `Field`: the integers modulo a power of two that hold the noisy sum of all parties.

How values of a few bits travel is in `privet.packing`, whose functions are offered here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from privet.errors import PrivetError
from privet.keys import Stream
from privet.packing import pack, packed_size, unpack

__all__ = [
    "Field",
    "Grid",
    "norms_within",
    "pack",
    "packed_size",
    "project_range",
    "round_units",
    "unpack",
]

MAX_BOUND = 2**31 - 1
TRIES = 4
_REJECTION = 2.0**-20
_BLOCK = 1 << 16
_OVERFLOW = 2.0**-40
_MAX_BITS = 62


@dataclass(frozen=True)
class Grid:
    """The public grid that vectors are rounded to.

    Attributes:
        step: Distance of neighbouring values, in the units of the vectors.
        bound: The L2 sensitivity Δ in steps: `round_units` lets no unit through with a squared norm above
            ``bound**2``.
    """

    step: float
    bound: int

    def __post_init__(self) -> None:
        if not (self.step > 0 and math.isfinite(self.step)):
            raise PrivetError(
                "no such grid", field="grid.step", given=self.step, allowed="a positive finite number"
            )
        if not 1 <= self.bound <= MAX_BOUND:
            raise PrivetError(
                "no such grid",
                field="grid.bound",
                given=self.bound,
                allowed=f"an integer from 1 to {MAX_BOUND}",
            )

    @property
    def sensitivity(self) -> float:
        """The L2 sensitivity in the units of the vectors, zero-out or add-remove neighbours."""
        return self.bound * self.step

    @classmethod
    def for_clip(cls, clip_norm: float, dimension: int, inflation: float = 0.01, min_bound: int = 1) -> Grid:
        """The coarsest grid on which rounding raises the sensitivity by no more than ``inflation``.

        Rounding y (r = clip_norm / step its largest norm) up or down at random gives v with E|v|² <= r² +
        D/4, and |v|² exceeds that by t (r + √D/2) with probability at most exp(-t²/2), because v_i² takes
        two values no further apart than 2|y_i| + 1 (Hoeffding). The bound leaves room for t = 5.27, so a
        try is rejected with probability at most 2**-20 and a unit is lost, after four, with at most 2**-80
        (Kairouz, Liu and Steinke 2021, arXiv 2102.06387, conditional randomised rounding).

        Args:
            clip_norm: L2 norm C of the longest vector.
            dimension: Number of coordinates D.
            inflation: How much longer, relatively, a rounded vector may be.
            min_bound: Smallest Δ in steps; a finer grid than ``inflation`` asks for lets less noise be many
                steps.

        Raises:
            PrivetError: if an argument is out of range, or the grid would need steps too fine for exact
                integers.
        """
        if not (clip_norm > 0 and math.isfinite(clip_norm)):
            raise PrivetError(
                "no such clip norm", field="clip_norm", given=clip_norm, allowed="a positive finite number"
            )
        if dimension < 1 or not 0 < inflation <= 1:
            raise PrivetError(
                "no such grid",
                field="grid",
                given=f"dimension {dimension}, inflation {inflation}",
                allowed="a dimension of at least 1, an inflation in (0, 1]",
            )
        t = math.sqrt(2 * math.log(1 / _REJECTION))
        # the smallest r with sqrt(r² + D/4 + t (r + √D/2)) + 1 <= (1 + inflation) r; the 1 for rounding Δ up
        a = inflation * (2 + inflation)
        b = 2 * (1 + inflation) + t
        c = dimension / 4 + t * math.sqrt(dimension) / 2
        radius = max((b + math.sqrt(b * b + 4 * a * c)) / (2 * a), float(min_bound))
        bound = math.ceil(math.sqrt(radius**2 + dimension / 4 + t * (radius + math.sqrt(dimension) / 2)))
        if bound > MAX_BOUND:
            raise PrivetError(
                "the noise would need a grid finer than exact integers allow",
                field="grid",
                given=f"a sensitivity of {bound} steps",
                allowed=f"at most {MAX_BOUND}",
                hint="raise the noise multiplier or the inflation",
            )
        return cls(step=clip_norm / radius, bound=bound)


def round_units(
    batch: NDArray[np.float32] | NDArray[np.float64],
    grid: Grid,
    keys: Sequence[bytes],
    zeroed: list[int] | None = None,
) -> NDArray[np.int64]:
    """Rounds each unit's vector to the grid at random, without bias, and holds its norm in exact integers.

    A rounded row with ‖v‖² > Δ² is rounded again with further randomness; after four tries, or if it is not
    finite, it becomes zero. So under zero-out or add-remove neighbours the sum of the rows has L2
    sensitivity ``grid.bound`` *exactly*, whatever the input was. A row depends on its vector and its key
    only: any split of the units over silos gives the same sum.

    Args:
        batch: ``[b, k]``, one row for each privacy unit, of norm at most the grid's clip norm.
        grid: The public grid.
        keys: One 32-byte key for each row, as of `ClientKeys.unit_keys`. Rounding protects nobody: a key
            may be used again for the same unit.
        zeroed: If given, receives the indices of rows that became zero; a diagnostic that must not leave
            the client.

    Returns:
        int64 ``[b, k]``, in grid steps.

    Raises:
        ValueError: if ``batch`` is not a matrix with one row for each key.
    """
    if batch.ndim != 2 or len(keys) != batch.shape[0]:
        raise ValueError(
            f"expected one row for each of {len(keys)} keys, got an array of shape {batch.shape}"
        )
    rows, width = batch.shape
    rounded = np.zeros((rows, width), dtype=np.int64)
    for start in range(0, rows, max(1, _BLOCK // max(width, 1))):
        stop = min(rows, start + max(1, _BLOCK // max(width, 1)))
        scaled = np.divide(batch[start:stop], grid.step, dtype=np.float64)
        streams = [Stream(key) for key in keys[start:stop]]
        pending = np.arange(stop - start)
        for _ in range(TRIES):
            again = len(pending) < len(scaled)
            values = _round_once(scaled[pending] if again else scaled, [streams[i] for i in pending])
            accepted = norms_within(values, grid.bound)
            if accepted.all() and not again:
                rounded[start:stop] = values  # the common case, without a copy of what was picked out
                pending = pending[:0]
                break
            rounded[start + pending[accepted]] = values[accepted].astype(np.int64)
            pending = pending[~accepted]
            if not pending.size:
                break
        if zeroed is not None:
            zeroed.extend((start + pending).tolist())
    return rounded


def _round_once(scaled: NDArray[np.float64], streams: Sequence[Stream]) -> NDArray[np.float64]:
    """floor(y + U) with one uniform U of 32 bits for each coordinate; integers, NaN or infinities as
    float64."""
    words = np.empty(scaled.shape, dtype=np.uint32)
    for row, stream in enumerate(streams):
        words[row] = stream.uint32(scaled.shape[1])
    values = np.multiply(words, 2.0**-32, dtype=np.float64)
    values += scaled
    return np.floor(values, out=values)


def norms_within(values: NDArray[np.float64], bound: int) -> NDArray[np.bool_]:
    """Whether each row of integers, held as float64, has ‖v‖² <= bound²; decided in exact arithmetic.

    An entry beyond ±bound, a NaN or an infinity decides at once. For the others every square is at most
    bound² < 2**62. Where the squares of a row add up to less than 2**53, every partial sum does, and float64 adds
    integers exactly in any order; a float sum below 2**52 shows it, since over fewer than 2**32 coordinates it is off
    by less than one part in a million. Else squares are cut in halves of 32 bits, whose sums fit 64 bits.
    """
    # a NaN fails this comparison
    within = np.asarray(np.abs(values).max(axis=1, initial=0.0) <= bound, dtype=np.bool_)
    candidates = values if within.all() else values[within]
    sums = np.einsum("ij,ij->i", candidates, candidates)
    if (sums < 2.0**52).all():
        within[within] = sums <= float(bound**2)
        return within
    squares = np.square(candidates.astype(np.int64)).astype(np.uint64)
    high = (squares >> np.uint64(32)).sum(axis=1, dtype=np.uint64)
    low = (squares & np.uint64(2**32 - 1)).sum(axis=1, dtype=np.uint64)
    within[within] = [(int(h) << 32) + int(w) <= bound**2 for h, w in zip(high, low, strict=True)]
    return within


def project_range(total: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Projects a party's sum of rounded units, before noise, onto the box [-limit, limit]^k.

    The box is convex, so this is the nearest point in L2 and the map is non-expansive: two sums that differ
    by one unit's vector are still at most Δ apart, and the sensitivity stays ``grid.bound``. Noise is added
    afterwards and is never clamped: clamping noise would tell how large it was.

    Args:
        total: int64 ``[k]``, in grid steps.
        limit: The public range of one party.
    """
    return np.clip(total, -limit, limit)


@dataclass(frozen=True)
class Field:
    """The integers modulo ``2**bits``, wide enough for the noisy sum of all parties.

    Attributes:
        bits: Width of a value.
        parties: Number of summands that it was made for.
        limit: The public range of one party's sum before noise, for `project_range`.
    """

    bits: int
    parties: int
    limit: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= _MAX_BITS or self.parties < 1 or self.limit < 0:
            raise PrivetError(
                "no such field of integers",
                field="field",
                given=f"{self.bits} bits, {self.parties} parties, range {self.limit}",
                allowed=f"1 to {_MAX_BITS} bits, at least one party, a range of at least 0",
                hint="a coarser grid or fewer units for each party need fewer bits",
            )

    @classmethod
    def for_sum(cls, *, parties: int, limit: int, share_std_steps: float, dimension: int) -> Field:
        """The narrowest field in which a round overflows with probability at most 2**-40, over all
        coordinates.

        A coordinate of the sum is at most parties * (limit + 1/2), plus a Gaussian of standard deviation
        √parties * share_std_steps that exceeds z times it with probability 2Φ(-z); z is chosen by the union
        bound. An overflow costs utility only: reduction modulo 2**bits is post-processing of the noisy sum.

        Args:
            parties: Most summands of a round.
            limit: Range of one party's sum before noise, in grid steps.
            share_std_steps: Standard deviation of each party's noise share in grid steps; 0 for none.
            dimension: Number of coordinates.

        Raises:
            PrivetError: if it would need more than 62 bits.
        """
        z = -float(ndtri(_OVERFLOW / 2 / max(dimension, 1)))
        half = parties * (limit + 0.5) + z * math.sqrt(parties) * share_std_steps
        return cls(bits=math.ceil(half).bit_length() + 1, parties=parties, limit=limit)

    @property
    def modulus(self) -> int:
        """2**bits."""
        return 1 << self.bits

    def encode(self, values: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Integers of any sign to their residues in [0, 2**bits)."""
        return values.astype(np.uint64) & np.uint64(self.modulus - 1)

    def decode(self, residues: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Residues (of any representative) to the integers nearest zero, in [-2**(bits-1), 2**(bits-1))."""
        unused = 64 - self.bits
        shifted = np.asarray(residues, dtype=np.uint64) << np.uint64(unused)
        return shifted.view(np.int64) >> np.int64(unused)
