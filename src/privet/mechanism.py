"""The Gaussian mechanism of a run: one object that clips, rounds and draws noise, and that emits what is
accounted.

Everything in it is public and declared before the run. Private values are arguments of the functions it
parametrises, never fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.fixed_point import Grid
from privet.noise import MAX_STD, MIN_SHARE_STD, rounded_gaussian, tv_distance_bound
from privet.privacy.events import Release, Sampling


@dataclass(frozen=True)
class GaussianMechanism:
    """Sums of clipped, rounded vectors plus Gaussian noise put together from equal shares.

    Neighbours are zero-out or add-remove: one unit's vector, of L2 norm at most Δ = ``grid.bound`` steps,
    leaves the sum. Under replace-one the sensitivity is 2Δ and the accountant doubles it; this object does
    not change.

    Attributes:
        clip_norm: L2 norm C that a unit's vector is clipped to.
        noise_multiplier: σ: the noise of ``floor`` shares has standard deviation σΔ steps. Δ includes what
            rounding adds to C, so σ is exact for what runs.
        dimension: Number of coordinates of the sum.
        floor: Honest shares that are surely in an opened sum (survivors demanded minus colluders assumed).
            Each share has standard deviation σΔ/√floor. 1 means that every party adds the whole noise.
    """

    clip_norm: float
    noise_multiplier: float
    dimension: int
    floor: int = 1

    def __post_init__(self) -> None:
        def refuse(field: str, given: object, allowed: str, hint: str | None = None) -> PrivetError:
            return PrivetError(
                "no such Gaussian mechanism", field=field, given=given, allowed=allowed, hint=hint
            )

        positive = "a positive finite number"
        if not (self.clip_norm > 0 and math.isfinite(self.clip_norm)):
            raise refuse("clip_norm", self.clip_norm, positive)
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise refuse(
                "noise_multiplier", self.noise_multiplier, positive, "without noise there is no mechanism"
            )
        if self.dimension < 1:
            raise refuse("dimension", self.dimension, "at least 1")
        if self.floor < 1:
            raise refuse(
                "floor",
                self.floor,
                "at least 1 honest share",
                "demand more survivors or assume fewer colluders",
            )
        if self.share_std_steps > MAX_STD:
            raise refuse(
                "noise_multiplier", self.noise_multiplier, f"shares of at most {MAX_STD:.3g} grid steps"
            )

    @cached_property
    def grid(self) -> Grid:
        """The public grid: rounding adds at most 1 % to the sensitivity, and a share is at least 4 steps
        wide."""
        # one step more than needed, so that float arithmetic cannot fall short of the minimum
        needed = math.ceil(MIN_SHARE_STD * math.sqrt(self.floor) / self.noise_multiplier) + 1
        return Grid.for_clip(self.clip_norm, self.dimension, min_bound=needed)

    @property
    def std_steps(self) -> float:
        """Standard deviation σΔ of the noise of ``floor`` shares, in grid steps."""
        return self.noise_multiplier * self.grid.bound

    @property
    def share_std_steps(self) -> float:
        """Standard deviation σΔ/√floor of one share, in grid steps; at least 4."""
        return self.std_steps / math.sqrt(self.floor)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise of ``floor`` shares on each coordinate, in the units of the
        vectors."""
        return self.std_steps * self.grid.step

    def share(self, key: bytes) -> NDArray[np.int64]:
        """One party's share of the noise, int64 ``[dimension]`` in grid steps, from a key that serves this
        draw only."""
        return rounded_gaussian(self.share_std_steps, self.dimension, key)

    @property
    def delta_prime(self) -> float:
        """Total variation between one release as it runs and a post-processing of the ideal Gaussian
        mechanism.

        It is what a sum of ``floor`` rounded shares costs on each coordinate, times the number of
        coordinates; shares beyond the floor are independent of the data and cost nothing. The sampler adds
        nothing (its law is exact for uniform bits; that AES-256-CTR bits pass for uniform is the
        computational assumption of the whole system), and neither does overflow (reduction modulo the
        field's size is post-processing).

        It is stated at the narrowest share that is allowed. So it grows with the dimension alone, and the release of
        a run without a codec bounds that of every round with a smaller code, whose grid and shares differ.

        A distance τ in all costs (1 + e^ε) τ of δ: P(M ∈ S) <= P(M* ∈ S) + τ <= e^ε P(M*' ∈ S) + δ + τ <=
        e^ε (P(M' ∈ S) + τ) + δ + τ, with M* the ideal. Distances of adaptively composed releases add. The
        accountant knows ε and makes this conversion.
        """
        return min(1.0, self.dimension * tv_distance_bound(self.floor, MIN_SHARE_STD))

    def release(self, name: str, count: int = 1, sampling: Sampling | None = None) -> Release:
        """What the ledger is charged for ``count`` sums of this mechanism, by the declared floor.

        Args:
            name: What is released.
            count: How often.
            sampling: Which units take part; all of them if not given.
        """
        return Release(name, self.noise_multiplier, count, sampling or Sampling.none(), self.delta_prime)

    def observer_multiplier(self, honest_shares: int) -> float:
        """The noise multiplier against an observer who knows all but ``honest_shares`` shares of an opened
        sum.

        With s survivors: s shares for the server or the public, s - 1 for a participant, who subtracts its
        own, s - c for c participants who pool theirs. 0 shares are no noise.
        """
        return self.noise_multiplier * math.sqrt(max(honest_shares, 0) / self.floor)

    def plan(self, units: float) -> dict[str, float]:
        """Forecasts that need no data, for a sum of ``units`` vectors (expected batch or clients).

        Returns:
            ``noise_norm``: expected L2 norm of the noise, about σΔ√k, in the units of the vectors;
            ``largest_signal``: the norm if all vectors had full length and one direction;
            ``noise_to_signal``: their ratio (real signals are smaller, so the true ratio is larger);
            ``share_std_steps``, ``sensitivity_inflation`` and ``delta_prime`` of the mechanism.
        """
        noise = self.noise_std * math.sqrt(self.dimension)
        signal = units * self.clip_norm
        return {
            "noise_norm": noise,
            "largest_signal": signal,
            "noise_to_signal": noise / signal if signal > 0 else math.inf,
            "share_std_steps": self.share_std_steps,
            "sensitivity_inflation": self.grid.sensitivity / self.clip_norm - 1,
            "delta_prime": self.delta_prime,
        }
