"""One client's secret randomness for one round and attempt, as the pipeline and the work ask for it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from privet.keys import ClientKeys, derive
from privet.protocol import RoundId
from privet.sampling import sample_units


@dataclass(frozen=True)
class RoundRandomness:
    """Noise, rounding, sampling and order, each from its own keys.

    Noise and samples are drawn from keys that never come twice, also not after a crash. Rounding keys repeat within an
    attempt: rounding protects nobody, and a repeated round then rounds alike.

    Attributes:
        keys: The client's keys.
        round: Round and attempt.
        batches: 32 bytes that all batches of the attempt follow from, where its start may have to be made again; by
            default each batch is drawn anew.
    """

    keys: ClientKeys
    round: RoundId
    batches: bytes | None = None
    _drawn: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    def noise(self, purpose: str) -> bytes:
        """32 bytes for one draw of noise."""
        return self.keys.draw(f"noise/{purpose}", self.round)

    def rounding(self, units: Sequence[str]) -> list[bytes]:
        """32 bytes for the rounding of each unit."""
        return self.keys.unit_keys("rounding", self.round, units)

    def sample(self, units: Sequence[str], rate: float) -> list[int]:
        """Positions of the sampled units, ascending."""
        key = None if self.batches is None else derive(self.batches, "batch", next(self._drawn))
        return [int(i) for i in sample_units(units, rate, self.keys, self.round, key=key)]

    def order(self, scope: str) -> bytes:
        """32 bytes that order the batches of local training."""
        return self.keys.draw(f"order/{scope}", self.round)
