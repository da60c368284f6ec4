"""Shares of noise: continuous Gaussians rounded to integers, drawn exactly from a cryptographic stream.

Floating-point Gaussian noise gives the data away through its low bits (Mironov 2012), so noise here is an
integer on the public grid. For an integer x, x + round(Z) = round(x + Z): one share is the Gaussian
mechanism followed by rounding. The sum of n independent shares is within `tv_distance_bound` of another
post-processing of the Gaussian mechanism; docs/n-share-sum.md proves it.

Sampling is inversion with lazy refinement. 64 bits give a sign and the first 63 bits of a tail probability;
where those and a float64 inverse cannot decide to which integer the draw rounds, further bits are drawn and
the comparison is made by mpmath, until it is decided. So the law is exact for uniform bits; nothing is
truncated, also not the tail.
"""

from __future__ import annotations

import math
import sys

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from privet.errors import PrivetError
from privet.keys import Stream, derive

MIN_SHARE_STD = 4.0
"""Smallest standard deviation of a share, in grid steps, for which sums of several shares are used."""

MAX_STD = 2.0**40

TOLERANCE = 2.0**-36
"""How far (in standard deviations) a quick draw must be from every rounding boundary to be believed.

The quick path's error is at most: 2.6 * 2**-53 for the rounding of the 63-bit tail probability to a double
(dz = dp / phi(z), and p / phi(z) <= 1.2534 on p <= 1/2), 2**-41 / 5 for the bits not yet drawn (a tail
below 2**-24, which begins at z = 5.4, goes to the exact path), 2**-46 for `scipy.special.ndtri` itself (the
tests find it within 2**-48 of mpmath), and 2**-50 for the multiplication. Together below 2**-43; the
tolerance is 128 times that.
"""

_TAIL = np.uint64(1 << 40)
_LOW63 = np.uint64((1 << 63) - 1)
_CHUNK = 1 << 15


def rounded_gaussian(std_steps: float, size: int, key: bytes) -> NDArray[np.int64]:
    """Independent draws of round(N(0, std_steps**2)).

    Args:
        std_steps: Standard deviation in grid steps, in (0, 2**40]; the double is taken as an exact number.
            Up to 2**25 the exact path is hardly ever taken; at 2**34 every draw takes it.
        size: How many.
        key: 32 bytes, used for this draw only.

    Returns:
        int64 ``[size]``. Equal keys give equal draws on every machine.

    Raises:
        PrivetError: if the standard deviation is out of range.
    """
    if not 0.0 < std_steps <= MAX_STD:
        raise PrivetError(
            "no such standard deviation of noise",
            field="noise",
            given=std_steps,
            allowed="more than 0, at most 2**40",
        )
    stream = Stream(key)
    draws = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        words = stream.uint64(min(_CHUNK, size - start))
        rounded, undecided = _quick(std_steps, words)
        for index in undecided:
            rounded[index] = _exact(std_steps, int(words[index]), derive(key, "refine", start + int(index)))
        draws[start : start + words.size] = rounded
    return draws


def _quick(std_steps: float, words: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Rounded draws by float64 inversion, and the positions of those that float64 cannot decide."""
    tail = words & _LOW63
    scaled = ndtri((tail + 0.5) * 2.0**-64)
    scaled *= -std_steps
    rounded = np.floor(scaled + 0.5)
    # distance to the nearest boundary: half-integers (the magnitude's lower boundary at -1/2 does not exist)
    distance = 0.5 - np.abs(scaled - rounded)
    undecided = np.flatnonzero((distance < TOLERANCE * std_steps) | (tail < _TAIL))
    result = rounded.astype(np.int64)
    np.negative(result, out=result, where=words > _LOW63)
    return result, undecided


def _exact(std_steps: float, word: int, key: bytes) -> int:
    """The draw that starts with ``word``, decided with as many further bits as it takes.

    The tail probability p lies in [tail, tail + 1) / 2**bits. The draw's magnitude is the k >= 0 with Q((k
    + 1/2) / std) <= p < Q((k - 1/2) / std), Q the upper tail of the standard normal. While a boundary lies
    inside the interval, 64 more bits shrink it.
    """
    tail, bits = word & int(_LOW63), 64
    stream: Stream | None = None
    while True:
        magnitude = _magnitude(std_steps, tail, bits)
        if magnitude is not None:
            return -magnitude if word >> 63 else magnitude
        stream = stream or Stream(key)
        tail, bits = (tail << 64) | int(stream.uint64(1)[0]), bits + 64


def _magnitude(std_steps: float, tail: int, bits: int) -> int | None:
    """The integer that every p in [tail, tail + 1) / 2**bits rounds to, or None while there are several."""
    if tail == 0:
        return None
    with mpmath.workprec(bits + 128):
        scale = mpmath.mpf(2) ** bits
        # both ends, widened by far more than mpmath's error in erfc and far less than the interval
        slack = mpmath.ldexp(1, -64)
        low, high = (tail - slack) / scale, (tail + 1 + slack) / scale

        def boundary(k: int) -> mpmath.mpf:
            """Q((k + 1/2) / std): the tail probability above which magnitudes are at most k."""
            return mpmath.erfc((k + mpmath.mpf(0.5)) / (mpmath.mpf(std_steps) * mpmath.sqrt(2))) / 2

        k = max(0, math.floor(-std_steps * float(ndtri(float((tail + mpmath.mpf(0.5)) / scale))) + 0.5))
        while boundary(k) > high:
            k += 1
        while k > 0 and boundary(k - 1) < low:
            k -= 1
        inside = boundary(k) <= low and (k == 0 or boundary(k - 1) >= high)
        return k if inside else None


def tv_distance_bound(n: int, std_steps: float) -> float:
    """Bound on the total variation, per coordinate, that a sum of n shares costs (docs/n-share-sum.md,
    Theorem).

    The sum of n independent round(N(0, s**2)) is within this distance of round(N(0, n s**2) + V) with V a sum
    of n - 1 independent uniforms on [-1/2, 1/2], also after an integer is added to both. About
    (4 / pi**2) exp(-pi**2 s**2) for every n >= 2: 1.1e-69 at s = 4.

    Args:
        n: Number of honest shares; further shares are independent noise and cost nothing.
        std_steps: Standard deviation s of one share in grid steps.

    Returns:
        The bound, at most 1; 0 for one share, else no less than the smallest normal double.
    """
    if n < 1 or not std_steps > 0:
        raise ValueError("a sum has at least one share, of positive standard deviation")
    if n == 1:
        return 0.0
    half = math.pi**2 * std_steps**2
    # the sums over l >= 1 of exp(-l**2 x) are at most exp(-x) / (1 - exp(-3 x)), largest for the first share
    harmonics = 1.0 / -math.expm1(-3 * half)
    pair = 4 / math.pi**2 * math.exp(-half) * (1 + 2 * math.exp(-4 * half) * harmonics)
    # share j + 1 adds exp(-2 half j / (j + 1)), falling with j: some one by one, the rest as the next one
    listed = sum(math.exp(-2 * half * j / (j + 1)) for j in range(2, min(n, 64)))
    rest = max(0, n - 64) * math.exp(-2 * half * 64 / 65)
    # the last factor is for the rounding of these few float operations
    return min(1.0, max((pair + listed + rest) * harmonics * (1 + 1e-12), sys.float_info.min))


def sum_of_shares_tv(n: int, std_steps: float) -> float:
    """The total variation that `tv_distance_bound` bounds, computed; for small n and s.

    Both laws are computed from their definitions with mpmath, by no theory of the proof: the sum's by
    convolving the law of a rounded Gaussian n - 1 times, the target's as the n-th central difference of the
    n-fold integral of the normal density (each integral from the two before it: j I_j = x I_(j-1) + var
    I_(j-2)).

    Args:
        n: Number of shares, 1 to some 6.
        std_steps: Standard deviation s of one share in grid steps, up to some 4.

    Returns:
        Half the L1 distance of the two laws.
    """
    if n < 1 or not std_steps > 0:
        raise ValueError("a sum has at least one share, of positive standard deviation")
    size = math.exp(-2 * math.pi**2 * std_steps**2 * (1 - 1 / max(n, 2)))
    if size < 1e-150:
        raise ValueError("too small to compute; the bound is what there is")
    digits = 60 - 2 * math.log10(size)
    reach = math.ceil(std_steps * math.sqrt(n) * math.sqrt(2 * math.log(10) * (30 - math.log10(size)))) + n
    with mpmath.workdps(int(digits) + 4 * n):
        std = mpmath.mpf(std_steps)

        def pmf(k: int) -> mpmath.mpf:
            # by the upper tail, whose differences keep their digits
            return (
                mpmath.erfc((k - 0.5) / (std * mpmath.sqrt(2)))
                - mpmath.erfc((k + 0.5) / (std * mpmath.sqrt(2)))
            ) / 2

        one = {k: pmf(abs(k)) for k in range(-reach, reach + 1)}
        summed = one
        for _ in range(n - 1):
            summed = {
                k: mpmath.fsum(
                    summed[j] * one[k - j] for j in range(max(-reach, k - reach), min(reach, k + reach) + 1)
                )
                for k in range(-reach, reach + 1)
            }
        variance = n * std**2
        integrals: dict[int, mpmath.mpf] = {}

        def integral(twice: int) -> mpmath.mpf:
            if twice not in integrals:
                x = mpmath.mpf(twice) / 2
                below, current = (
                    mpmath.npdf(x, 0, mpmath.sqrt(variance)),
                    mpmath.ncdf(x, 0, mpmath.sqrt(variance)),
                )
                for j in range(1, n):
                    # I_(-1) is the density, I_0 the distribution function
                    below, current = current, (x * current + variance * below) / j
                integrals[twice] = current
            return integrals[twice]

        distance = mpmath.mpf(0)
        for k in range(-reach, reach + 1):
            target = mpmath.fsum(
                (-1) ** i * mpmath.binomial(n, i) * integral(2 * k + n - 2 * i) for i in range(n + 1)
            )
            distance += abs(summed[k] - target)
        return float(distance / 2)
