"""What a system file composes: who does what in a round, and what that releases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import Layout
from privet.codecs.prior import StatisticsCode, as_layout
from privet.config import OptimiserConfig
from privet.mechanism import GaussianMechanism
from privet.pipeline import CodecLike, Pipeline
from privet.privacy.events import AnyRelease, NoGuarantee, Release
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
        preparation: Rounds that come before all others, if the codec is made from what they release.
    """

    name: str
    paper: str
    work: Work
    pipeline: Pipeline
    optimiser: OptimiserConfig
    release: Release | NoGuarantee
    mechanism: GaussianMechanism | None = None
    shared_noise: bool = False
    preparation: Preparation | None = None

    @property
    def prepared_by(self) -> int:
        """Rounds of the preparation; the rounds that move the adapter are counted on from there."""
        return self.preparation.rounds if self.preparation else 0

    def at(self, number: int) -> System:
        """What is done in round ``number``: this system, or its preparation."""
        return self.preparation.system if self.preparation and number < self.preparation.rounds else self

    def releases(self, rounds: int) -> list[AnyRelease]:
        """All releases of a run with ``rounds`` rounds after the preparation, none tried twice."""
        parts = self.preparation.system.releases(self.preparation.rounds) if self.preparation else []
        one = self.release
        return [*parts, one if isinstance(one, NoGuarantee) else one.times(one.count * rounds)]

    def mechanisms(self) -> Iterator[GaussianMechanism]:
        """Every mechanism whose noise goes into a sum."""
        if self.preparation:
            yield from self.preparation.system.mechanisms()
        if self.mechanism is not None:
            yield self.mechanism

    @property
    def always_noised(self) -> bool:
        """Whether every contribution holds noise, in the preparation too."""
        prepared = self.preparation is None or self.preparation.system.always_noised
        return prepared and self.mechanism is not None

    def describe(self) -> str:
        """The mechanism in words, for the privacy statement."""
        if self.preparation is not None:
            return f"stage 1: {self.preparation.system.describe()}; stage 2: {self._describe()}"
        return self._describe()

    def _describe(self) -> str:
        if self.mechanism is None:
            return f"none; {self.release.name} are released as they are"
        how = f"as {self.mechanism.floor} equal shares" if self.shared_noise else "in full at every client"
        return (
            f"{self.release.name}, each unit clipped to L2 norm {self.mechanism.clip_norm:.6g} and rounded to a public "
            f"grid, plus rounded Gaussian noise of {self.mechanism.noise_std:.6g} on each coordinate, added {how}"
        )


@dataclass(frozen=True)
class Preparation:
    """Rounds that come before the first: the codec is made from what they release, and the adapter stands still.

    Attributes:
        rounds: How many.
        system: What everybody does in one of them, and what that releases.
        code: Reads statistics out of their mean message; ``None`` where the codec learns from the clients' updates
            themselves, one by one, which a seal would not allow.
    """

    rounds: int
    system: System
    code: StatisticsCode | None = None


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
        layout: Names and shapes of the trained tensors, for statistics of each.
    """

    dimension: int
    parties: int
    floor: int
    clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    codec: CodecLike | None = None
    factors: tuple[NDArray[np.int64], ...] = ()
    layout: Layout = ()

    @property
    def tensors(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The layout, or one tensor of all values where it is not known."""
        return as_layout(self.layout) or (("values", (self.dimension,)),)

    @property
    def size(self) -> int:
        """Values k of a code."""
        return self.codec.size if self.codec else self.dimension

    def total_weight(self, weights: Sequence[float] | None) -> float:
        """Public denominator of an average over clients."""
        return float(sum(weights)) if weights is not None else float(self.parties)
