"""What a system file composes: who does what in a round, and what that releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.config import OptimiserConfig
from privet.mechanism import GaussianMechanism
from privet.pipeline import CodecLike, Pipeline
from privet.privacy.events import NoGuarantee, Release
from privet.work import Work


@dataclass(frozen=True)
class System:
    """A federated system: work at the clients, a pipeline between, an optimiser behind the sum, and its releases.

    Attributes:
        name: Name in configurations and tables.
        paper: Source.
        work: What a client computes.
        pipeline: What happens to it.
        optimiser: What the server half does with the mean.
        release: What one round releases; the ledger charges this object.
        mechanism: The mechanism whose noise the release counts, if any.
        shared_noise: Whether clients add shares of one noise (then observers differ) or each its own in full.
    """

    name: str
    paper: str
    work: Work
    pipeline: Pipeline
    optimiser: OptimiserConfig
    release: Release | NoGuarantee
    mechanism: GaussianMechanism | None = None
    shared_noise: bool = False

    def describe(self) -> str:
        """The mechanism in words, for the privacy statement."""
        if self.mechanism is None:
            return f"none; {self.release.name} are released as they are"
        how = f"as {self.mechanism.floor} equal shares" if self.shared_noise else "in full at every client"
        return (
            f"{self.release.name}, each unit clipped to L2 norm {self.mechanism.clip_norm:.6g} and rounded to a public "
            f"grid, plus rounded Gaussian noise of {self.mechanism.noise_std:.6g} on each coordinate, added {how}"
        )


@dataclass(frozen=True)
class Facts:
    """Public facts that a composition needs besides the configuration.

    Attributes:
        dimension: Trained values D.
        parties: Enrolled clients.
        floor: Honest shares that are surely in a sum: survivors demanded minus colluders assumed.
        clip_norm: Clip norm C, resolved; unused where nothing is clipped.
        noise_multiplier: Noise multiplier, calibrated; unused where nothing is noised.
        codec: The codec, or ``None`` for the identity.
        factors: Positions of the trained values of each kind of factor (A, B), for clipping factor by factor.
    """

    dimension: int
    parties: int
    floor: int
    clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    codec: CodecLike | None = None
    factors: tuple[NDArray[np.int64], ...] = ()

    @property
    def size(self) -> int:
        """Values k of a code."""
        return self.codec.size if self.codec else self.dimension

    def total_weight(self, weights: Sequence[float] | None) -> float:
        """Public denominator of an average over clients."""
        return float(sum(weights)) if weights is not None else float(self.parties)
