"""What stage 1 of DR-Encoder sends, and the synthetic updates that are drawn from it (arXiv 2412.17053).

For every group l of tensors with d numbers a client sends z = (sqrt(d) mean, sqrt(d) std). Since d (mean^2 +
std^2) is the squared norm of that group, the message is as long as the update itself, for any number of groups:
the sensitivity of the clipped message does not grow with the layers (two-stage theorem, stage 1). ``moments``
adds signed roots of power sums, (sum g^3)^(1/3) and (sum g^4)^(1/4), each at most the group's norm. A group is a
tensor, all tensors of one kind, or the whole update.

:class:`StatisticsCode` has the shape of a codec, so that stage 1 runs through the same pipeline as stage 2:
encode, clip, round, noise, seal. Its decoder hands back the mean message, which :meth:`StatisticsCode.read`
turns into a :class:`TensorStatistics`. Everything after that is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import (
    FloatArray,
    Layout,
    LinearCodec,
    Provenance,
    as_batch,
    as_code,
    dimension_of,
    size_of,
    slices_of,
)
from privet.codecs.stacking import stacks_of
from privet.system_config import Groups, Prior

PUBLIC_STD = 1.0
"""Standard deviation of synthetic updates under ``prior: mean``, which releases none."""
LARGEST_KURTOSIS = 40.0
"""Excess kurtosis beyond which the power method has no solution (43.2 at no skew)."""


@dataclass(frozen=True)
class TensorStatistics:
    """Moments of the updates, tensor by tensor.

    Attributes:
        layout: Names and shapes.
        mean: float64 [L].
        std: float64 [L], never negative.
        skewness: float64 [L], or ``None`` for a Gaussian prior.
        kurtosis: float64 [L] excess kurtosis, or ``None`` for a Gaussian prior.
    """

    layout: tuple[tuple[str, tuple[int, ...]], ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    skewness: NDArray[np.float64] | None = None
    kurtosis: NDArray[np.float64] | None = None

    @property
    def rms(self) -> NDArray[np.float64]:
        """Root mean square of each tensor's entries, [L]: what an allocation goes by."""
        return np.asarray(np.sqrt(self.mean**2 + self.std**2))

    def restricted_to(self, names: Sequence[str]) -> TensorStatistics:
        """The statistics of some tensors, in the order of ``names``."""
        index = {name: i for i, (name, _) in enumerate(self.layout)}
        chosen = [index[name] for name in names]
        return TensorStatistics(
            tuple(self.layout[i] for i in chosen),
            self.mean[chosen],
            self.std[chosen],
            None if self.skewness is None else self.skewness[chosen],
            None if self.kurtosis is None else self.kurtosis[chosen],
        )

    def sample(self, count: int, seed: Sequence[int]) -> FloatArray:
        """Synthetic updates [count, D] with independent entries; the same ``seed`` gives the same ones."""
        draw = np.random.Generator(np.random.Philox(seed=np.random.SeedSequence([int(s) for s in seed])))
        out = draw.standard_normal((count, dimension_of(self.layout)), dtype=np.float32)
        for index, where in enumerate(slices_of(self.layout).values()):
            part = out[:, where]
            if self._shapes is not None:
                constant, linear, square, cube = self._shapes[index]
                part[...] = constant + part * (linear + part * (square + part * cube))
            part *= np.float32(self.std[index])
            part += np.float32(self.mean[index])
        return out

    @cached_property
    def _shapes(self) -> list[tuple[np.float32, ...]] | None:
        if self.skewness is None and self.kurtosis is None:
            return None
        none = np.zeros(len(self.layout))
        skewness = none if self.skewness is None else self.skewness
        kurtosis = none if self.kurtosis is None else self.kurtosis
        return [
            tuple(np.float32(c) for c in power_method(float(s), float(k)))
            for s, k in zip(skewness, kurtosis, strict=True)
        ]


@dataclass(frozen=True)
class StatisticsCode(LinearCodec):
    """Stage 1's message, float32 [b, D] to [b, m L]: m statistics of each of L groups of tensors.

    All statistics scale with the update, so a clip of the message is the message of an update that was clipped over
    all its tensors jointly.

    Attributes:
        layout: Names and shapes.
        prior: Which statistics.
        moments: Highest moment under ``moments``: 3 or 4.
        groups: ``tensor``, ``kind`` (all tensors of one kind over the layers) or ``all``.
    """

    kind: ClassVar[str] = "statistics"
    additive: ClassVar[bool] = False
    provenance: ClassVar[Provenance] = Provenance.SEED
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    prior: Prior = "mean_std"
    moments: int = 4
    groups: Groups = "tensor"

    @property
    def dimension(self) -> int:
        """D."""
        return dimension_of(self.layout)

    @cached_property
    def group_of(self) -> NDArray[np.int64]:
        """The group of each tensor, int64, from 0."""
        if self.groups == "tensor":
            return np.arange(len(self.layout))
        found = np.zeros(len(self.layout), np.int64)
        if self.groups == "kind":
            stacks = stacks_of(self.layout)
            number = {name: index for index, stack in enumerate(stacks) for name in stack.names}
            found[:] = [number[name] for name, _ in self.layout]
        return found

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Numbers d in each group, int64 [L]."""
        sizes = np.array([size_of(shape) for _, shape in self.layout], np.int64)
        return np.bincount(self.group_of, sizes).astype(np.int64)

    @property
    def per_group(self) -> int:
        """Statistics of one group m."""
        return {"mean": 1, "mean_std": 2, "moments": self.moments}[self.prior]

    @property
    def size(self) -> int:
        """Numbers in the message, m L."""
        return self.per_group * len(self.counts)

    @property
    def norm_bound(self) -> float:
        """Longest message, in lengths of the update: 1 for mean and std, sqrt(m - 1) beyond."""
        return math.sqrt(max(1, self.per_group - 1))

    def encode(self, batch: FloatArray) -> FloatArray:
        """Messages [b, m L]; all statistics of a group lie together."""
        rows = as_batch(batch, self.dimension).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            columns = [self._describe(part) for part in self._parts(rows)]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def _parts(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The groups' numbers, float64 [b, d] each."""
        if self.groups == "all":
            return [rows]
        where = list(slices_of(self.layout).values())
        if self.groups == "tensor":
            return [rows[:, one] for one in where]
        members = [np.flatnonzero(self.group_of == group) for group in range(len(self.counts))]
        return [np.concatenate([rows[:, where[i]] for i in chosen], axis=1) for chosen in members]

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The mean message [m L] itself: there is no update to go back to."""
        return as_code(total, self.size).astype(np.float32)

    def read(self, mean_message: FloatArray) -> TensorStatistics:
        """The statistics in the clients' mean message [m L], of each tensor those of its group.

        An impossible one becomes the nearest possible. Under ``moments`` a mean of roots stands for the root of a
        mean, which is exact for equal clients only.
        """
        table = as_code(mean_message, self.size).reshape(len(self.counts), self.per_group)[self.group_of]
        counts = self.counts[self.group_of].astype(np.float64)
        mean = table[:, 0] / np.sqrt(counts)
        if self.prior == "mean":
            return TensorStatistics(self.layout, mean, np.full(len(counts), PUBLIC_STD))
        std = np.maximum(table[:, 1], 0.0) / np.sqrt(counts)
        if self.prior == "mean_std":
            return TensorStatistics(self.layout, mean, std)
        safe = np.where(std > 0, std, 1.0)
        third = table[:, 2] ** 3 / counts
        skewness = (third - 3 * mean * std**2 - mean**3) / safe**3
        kurtosis = np.zeros_like(mean)
        if self.moments == 4:
            fourth = np.maximum(table[:, 3], 0.0) ** 4 / counts
            central = fourth - 4 * mean * third + 6 * mean**2 * (std**2 + mean**2) - 3 * mean**4
            kurtosis = central / safe**4 - 3
        return TensorStatistics(
            self.layout, mean, std, np.where(std > 0, skewness, 0.0), np.where(std > 0, kurtosis, 0.0)
        )

    def to_body(self) -> Mapping[str, Any]:
        """Nothing but the choice travels; every party knows the layout."""
        return {"kind": self.kind, "prior": self.prior, "moments": self.moments, "groups": self.groups}

    def _describe(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        root = math.sqrt(part.shape[1])
        columns = [root * part.mean(axis=1), root * part.std(axis=1)][: self.per_group]
        if self.prior == "moments":
            # Scaled to a largest entry of one, so that powers neither overflow nor vanish.
            peak = np.abs(part).max(axis=1)
            unit = part / np.where(peak > 0, peak, 1.0)[:, None]
            columns.append(peak * np.cbrt((unit**3).sum(axis=1)))
            if self.moments == 4:
                columns.append(peak * np.sqrt(np.sqrt((unit**4).sum(axis=1))))
        return np.stack(columns, axis=1)


def power_method(skewness: float, kurtosis: float) -> tuple[float, float, float, float]:
    """Coefficients a, b, c, d: a + bZ + cZ^2 + dZ^3 of a normal Z has mean 0, variance 1, these moments.

    Fleishman, "A method for simulating non-normal distributions", Psychometrika 43 (1978). Moments without a
    solution are moved to the nearest that have one.

    Args:
        skewness: Third standardised moment.
        kurtosis: Fourth standardised moment minus 3.
    """
    from scipy.optimize import least_squares

    skewness = float(np.clip(np.nan_to_num(skewness), -4.5, 4.5))
    lowest = 1.641 * skewness**2 - 1.1
    kurtosis = float(np.clip(np.nan_to_num(kurtosis), lowest, max(LARGEST_KURTOSIS, lowest)))
    coefficients = np.array([1.0, 0.0, 0.0])
    for step in np.linspace(0.1, 1.0, 10):
        wanted = np.array([1.0, step * skewness, step * kurtosis])
        coefficients = least_squares(lambda x, wanted=wanted: _moments(x) - wanted, coefficients).x
    b, c, d = coefficients / math.sqrt(_moments(coefficients)[0])
    return (-float(c), float(b), float(c), float(d))


def _moments(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    b, c, d = coefficients
    return np.array(
        [
            b**2 + 6 * b * d + 2 * c**2 + 15 * d**2,
            2 * c * (b**2 + 24 * b * d + 105 * d**2 + 2),
            24
            * (b * d + c**2 * (1 + b**2 + 28 * b * d) + d**2 * (12 + 48 * b * d + 141 * c**2 + 225 * d**2)),
        ]
    )


def as_layout(layout: Layout) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """A layout as nested tuples, which codecs can hold."""
    return tuple((str(name), tuple(int(n) for n in shape)) for name, shape in layout)
