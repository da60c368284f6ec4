"""How much of an update a codec keeps, beside a random projection to the same size, and a gate on that.

What is measured must be held-out: updates that fitted a codec flatter it. In a run with privacy the gate
looks at public updates or at synthetic ones, never at private ones: its verdict would be a release of its
own.

A random projection keeps the share k/D of the energy of anything, which makes a cosine of sqrt(k/D). A codec
that does no better has learned nothing about updates, and costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from privet.clip import clip_rows
from privet.codecs.base import Codec, FloatArray, Layout, slices_of
from privet.codecs.random_projection import RandomProjection
from privet.errors import PrivetError

MARGIN = 0.02
"""By how much, relatively, a codec's cosine has to exceed the control's."""
UNGATED = frozenset({"identity", "random_projection"})
"""The control itself, and no compression."""


@dataclass(frozen=True)
class Closeness:
    """How close decoded vectors are to what they stand for.

    Attributes:
        cosine: Mean cosine of the angle; 0 where one of the two is zero.
        relative_error: Mean of ||decoded - true|| / ||true||; where the scale of a codec is not meant to be
            right (``projection`` shrinks), the cosine says more.
    """

    cosine: float
    relative_error: float


@dataclass(frozen=True)
class Fidelity:
    """What a codec keeps.

    Attributes:
        kind: The codec's.
        ratio: D/k as it came out.
        overall: Over the whole vector.
        per_tensor: By tensor.
    """

    kind: str
    ratio: float
    overall: Closeness
    per_tensor: Mapping[str, Closeness]


@dataclass(frozen=True)
class Noise:
    """The Gaussian mechanism of the run, for measuring: each code clipped, noise once on the sum.

    Attributes:
        clip_norm: Clip of a code, in lengths of codes; see :func:`median_code_norm`.
        multiplier: Standard deviation over ``clip_norm``; 0 clips only.
        seed: Public seed of these simulated draws, which protect nothing.
        draws: How often the noise is drawn anew.
    """

    clip_norm: float
    multiplier: float
    seed: int = 0
    draws: int = 4


def reconstruction(codec: Codec, updates: FloatArray, layout: Layout) -> Fidelity:
    """Mean fidelity of single updates, float32 [n, D]: encode, decode, compare."""
    codes = codec.encode(updates)
    decoded = np.stack([codec.decode(code) for code in codes])
    return _fidelity(codec, decoded, updates, layout)


def aggregate(
    codec: Codec, updates: FloatArray, layout: Layout, noise: Noise, codes: FloatArray | None = None
) -> Fidelity:
    """Fidelity of the mean of a cohort's updates, float32 [n, D], after clip, sum and noise in the code.

    The pipeline's arithmetic without its rounding, whose grid is far finer than the noise. What is compared
    with is the true mean before any clip.

    Args:
        codec: What encodes and decodes.
        updates: The cohort's.
        layout: Names and shapes.
        noise: Clip norm, multiplier and draws.
        codes: What the codec makes of ``updates``, float32 [n, k], where that is known already.

    Raises:
        PrivetError: if its codes do not add up.
    """
    if not codec.summable:
        raise PrivetError("its codes do not add up", field="codec", given=codec.kind)
    clipped, _ = clip_rows(codec.encode(updates) if codes is None else codes, noise.clip_norm)
    total = clipped.sum(axis=0, dtype=np.float64)
    draw = np.random.Generator(np.random.Philox(seed=np.random.SeedSequence([noise.seed])))
    decoded = []
    for _ in range(noise.draws if noise.multiplier else 1):
        noisy = total + draw.standard_normal(total.size) * (noise.multiplier * noise.clip_norm)
        decoded.append(codec.decode(noisy / len(updates)))
    truth = np.broadcast_to(updates.mean(axis=0, dtype=np.float64), (len(decoded), codec.dimension))
    return _fidelity(codec, np.stack(decoded), truth.astype(np.float32), layout)


def median_code_norm(codec: Codec, public_updates: FloatArray) -> float:
    """Median length of public updates' codes: the clip norm of a code, at no cost in privacy.

    A codec changes lengths (a random projection to k of D numbers by sqrt(k/D)), so a clip norm for updates
    is no clip norm for their codes: the noise, which is a multiple of it, would be that much too large.
    """
    return float(np.median(np.linalg.norm(codec.encode(public_updates).astype(np.float64), axis=1)))


def control_for(codec: Codec, seed: int) -> RandomProjection:
    """The random projection to the same size."""
    return RandomProjection(codec.dimension, min(codec.size, codec.dimension), seed)


def gate(
    codec: Codec,
    measure: Callable[[Codec], Fidelity],
    *,
    seed: int,
    allow_useless: bool = False,
) -> tuple[Fidelity, Fidelity]:
    """The fidelity of a codec and of its control; refuses a codec that is no better.

    Args:
        codec: The codec.
        measure: One of the measurements above on held-out updates that may be looked at freely.
        seed: Public seed of the control.
        allow_useless: Go on anyway.

    Raises:
        PrivetError: if the cosine does not exceed the control's by :data:`MARGIN`.
    """
    found, control = measure(codec), measure(control_for(codec, seed))
    useless = not found.overall.cosine > control.overall.cosine * (1 + MARGIN)
    if useless and codec.kind not in UNGATED and not allow_useless:
        raise PrivetError(
            "keeps no more of an update than a random projection to the same size",
            field="codec",
            given=f"{codec.kind} {found.ratio:.1f}x: cosine {found.overall.cosine:.3f}",
            allowed=f"above {control.overall.cosine * (1 + MARGIN):.3f}",
            hint="use `random_projection`, allocate `by_std`, or set `codec.allow_useless: true`",
        )
    return found, control


def _fidelity(codec: Codec, decoded: FloatArray, truth: FloatArray, layout: Layout) -> Fidelity:
    per_tensor = {
        name: closeness(decoded[:, where], truth[:, where]) for name, where in slices_of(layout).items()
    }
    return Fidelity(codec.kind, codec.dimension / codec.size, closeness(decoded, truth), per_tensor)


def closeness(decoded: FloatArray, truth: FloatArray) -> Closeness:
    """Mean closeness of rows [n, d] to rows [n, d]."""
    a, b = decoded.astype(np.float64), truth.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("ij,ij->i", a, b) / np.where(lengths > 0, lengths, 1.0)
    length = np.linalg.norm(b, axis=1)
    error = np.linalg.norm(a - b, axis=1)
    # A zero tensor that stays zero has no error; one that does not has all of it.
    relative = np.where(length > 0, error / np.where(length > 0, length, 1.0), (error > 0).astype(np.float64))
    return Closeness(float(cosine.mean()), float(relative.mean()))
