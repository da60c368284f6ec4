"""What happens to a contribution on its way out, and to the sum on its way back: one list of stages, run both ways.

A client runs the stages forward, the server half runs them backward. Each stage is one object with both halves, so
that they cannot drift apart. The constructor refuses an order that would break the guarantee: the clip follows every
encoder (whatever an encoder does, the sensitivity is the clip norm), rounding follows the clip, the noise share
follows the rounding, and nothing follows the noise but the seal.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privet.clip import clip_rows
from privet.errors import PrivetError
from privet.fixed_point import Grid, project_range, round_units
from privet.mechanism import GaussianMechanism
from privet.protocol import RoundId

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """A micro-batch of privacy units.

    Attributes:
        ids: b names, which rounding keys are derived from; they never leave the client.
        vectors: float32 [b, D], one row a unit.
    """

    ids: tuple[str, ...]
    vectors: Floats


class RoundKeys(Protocol):
    """A client's secret randomness for one round and attempt."""

    def noise(self, purpose: str) -> bytes:
        """32 bytes for one noise draw; the same purpose is never drawn twice in an attempt."""

    def rounding(self, units: Sequence[str]) -> list[bytes]:
        """32 bytes for the stochastic rounding of each unit; the same bytes at every call in an attempt."""


@dataclass
class Pass:
    """One contribution on its way through the pipeline.

    Attributes:
        round: Round and attempt.
        keys: The client's randomness.
        weight: Public weight of this client, in (0, 1].
        scope: Name of the pass within the round, where a client makes several (local steps).
        observed: Diagnostics; they stay at the client, only the local simulator reads them.
    """

    round: RoundId
    keys: RoundKeys
    weight: float = 1.0
    scope: str = ""
    observed: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, value: float) -> None:
        """Add to a diagnostic."""
        self.observed[name] = self.observed.get(name, 0.0) + value


class Role(enum.IntEnum):
    """The only sound order."""

    ENCODE = 1
    CLIP = 2
    ROUND = 3
    SHARE = 4


class Stage(Protocol):
    """One step with its client half and its server half."""

    role: Role

    def forward(self, value: Any, unit_ids: tuple[str, ...], passing: Pass) -> Any:
        """The client's half."""

    def backward(self, value: Any) -> Any:
        """The server's half."""


class CodecLike(Protocol):
    """What the pipeline needs of a codec."""

    @property
    def size(self) -> int:
        """Values k in a code."""

    def encode(self, batch: Floats) -> Floats:
        """float32 [b, D] -> float32 [b, k]."""

    def decode(self, total: Floats) -> Floats:
        """float32 [k] -> float32 [D]."""


@dataclass(frozen=True)
class Encode:
    """Units become codes; the decoder turns the mean code into a direction."""

    codec: CodecLike
    role: Role = Role.ENCODE

    def forward(self, value: Floats, unit_ids: tuple[str, ...], passing: Pass) -> Floats:
        """float32 [b, D] -> float32 [b, k], unit by unit.

        A matrix product over several rows gives each of them other last bits than over one, and then a unit that
        leaves would move the integers of others (docs/adr/0008-shapes-of-a-records-own-length.md).

        Raises:
            PrivetError: if the codec, which a server may have chosen, gives another shape: one clipped number that is
                added to k coordinates would count sqrt(k) times.
        """
        size = self.codec.size
        codes = [self.codec.encode(value[at : at + 1]) for at in range(len(value))]
        if any(code.shape != (1, size) for code in codes):
            raise PrivetError(
                "gives codes of another length than it says",
                field="codec",
                allowed=f"{size} numbers",
            )
        return np.concatenate([np.zeros((0, size), np.float32), *codes])

    def backward(self, value: Floats) -> Floats:
        """float32 [k] -> float32 [D]."""
        return self.codec.decode(value)


@dataclass(frozen=True)
class Clip:
    """Each row to an L2 norm of at most ``norm``; a row with NaN or Inf becomes zero (and is counted at the client)."""

    norm: float
    role: Role = Role.CLIP

    def forward(self, value: Floats, unit_ids: tuple[str, ...], passing: Pass) -> Floats:
        """float32 [b, k] -> float32 [b, k]."""
        clipped, zeroed = clip_rows(value, self.norm)
        passing.count("zeroed_nonfinite", zeroed)
        return clipped

    def backward(self, value: Floats) -> Floats:
        """Nothing to undo."""
        return value


@dataclass(frozen=True)
class ClipGroups:
    """Each group of coordinates to an L2 norm of at most ``group_norm`` (arXiv 2312.17493 clips factor by factor).

    Attributes:
        group_norm: Bound C of each group.
        groups: Positions of each group, which together are all coordinates.
    """

    group_norm: float
    groups: tuple[NDArray[np.int64], ...]
    role: Role = Role.CLIP

    @property
    def norm(self) -> float:
        """Bound of the whole row: sqrt(groups) C."""
        return self.group_norm * math.sqrt(len(self.groups))

    def forward(self, value: Floats, unit_ids: tuple[str, ...], passing: Pass) -> Floats:
        """float32 [b, D] -> float32 [b, D]; a row that is not finite in one group is zero in that group."""
        clipped = np.zeros_like(value)
        for group in self.groups:
            clipped[:, group], zeroed = clip_rows(value[:, group], self.group_norm)
            passing.count("zeroed_nonfinite", zeroed)
        return clipped

    def backward(self, value: Floats) -> Floats:
        """Nothing to undo."""
        return value


@dataclass(frozen=True)
class Round:
    """Rows to integers on the public grid, and the mean of the opened sum back to reals.

    Each unit is rounded by itself with its own randomness, so the sum does not depend on how units are split over
    clients.

    Attributes:
        grid: Public grid; its bound is the exact integer sensitivity.
        denominator: Public constant that turns the sum into a mean; never an actual count.
        limit: Largest magnitude of a coordinate of one client's sum, in grid steps.
    """

    grid: Grid
    denominator: float
    limit: int
    role: Role = Role.ROUND

    def forward(self, value: Floats, unit_ids: tuple[str, ...], passing: Pass) -> Integers:
        """float32 [b, k] -> int64 [b, k]; the weight is at most 1 and cannot raise a norm.

        A row that is not finite, where no clip has seen to it, becomes zero and is counted at the client.
        """
        keys = passing.keys.rounding([passing.scope + unit for unit in unit_ids])
        zeroed: list[int] = []
        rounded = round_units(value * np.float32(passing.weight), self.grid, keys, zeroed)
        passing.count("zeroed_nonfinite", len(zeroed))
        return rounded

    def backward(self, value: Integers) -> Floats:
        """int64 [k] sum -> float32 [k] mean."""
        return (value * (self.grid.step / self.denominator)).astype(np.float32)


@dataclass(frozen=True)
class Share:
    """This client's share of the noise, integers drawn after everything that depends on data."""

    mechanism: GaussianMechanism
    role: Role = Role.SHARE

    def forward(self, value: Integers, unit_ids: tuple[str, ...], passing: Pass) -> Integers:
        """int64 [k] -> int64 [k]."""
        share = self.mechanism.share(passing.keys.noise(passing.scope + "share"))
        passing.count("noise_squares", float(np.square(share.astype(np.float64)).sum()))
        passing.count("noise_values", len(share))
        return value + share

    def backward(self, value: Integers) -> Integers:
        """Noise stays."""
        return value


AnyStage: TypeAlias = Encode | Clip | ClipGroups | Round | Share


class Pipeline:
    """Stages in the one sound order.

    Raises:
        PrivetError: for an order that breaks a guarantee, or a noise share whose mechanism is not the one that clips
            and rounds.
    """

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        roles = [stage.role for stage in stages]
        names = " → ".join(role.name.lower() for role in roles)
        allowed = "encode* → clip? → round → share?"
        if roles != sorted(roles) or roles.count(Role.ROUND) != 1:
            raise PrivetError("unsound order of stages", field="pipeline", given=names, allowed=allowed)
        if any(roles.count(role) > 1 for role in (Role.CLIP, Role.SHARE)):
            raise PrivetError("a stage stands twice", field="pipeline", given=names, allowed=allowed)
        if Role.SHARE in roles and Role.CLIP not in roles:
            raise PrivetError(
                "noise without a clip bounds nothing", field="pipeline", given=names, allowed=allowed
            )
        self.stages = tuple(stages)
        self._unit_stages = [s for s in stages if s.role <= Role.ROUND]
        self._sum_stages = [s for s in stages if isinstance(s, Share)]
        self.rounding = next(s for s in stages if isinstance(s, Round))
        for share in (s for s in stages if isinstance(s, Share)):
            clip = next(s for s in stages if isinstance(s, Clip | ClipGroups))
            if share.mechanism.clip_norm != clip.norm or share.mechanism.grid != self.rounding.grid:
                raise PrivetError(
                    "clip, grid and noise belong to different mechanisms", field="pipeline", given=names
                )

    @property
    def size(self) -> int | None:
        """Values that travel, where a codec says so."""
        sizes = [s.codec.size for s in self.stages if isinstance(s, Encode)]
        return sizes[-1] if sizes else None

    @property
    def has_share(self) -> bool:
        """Whether each client adds a share of the noise to its sum."""
        return bool(self._sum_stages)

    def forward(self, units: Iterable[Units], dimension: int, passing: Pass) -> Integers:
        """One client's contribution, int64 [k]: noised where the pipeline has a share, not yet sealed.

        Units come in micro-batches and only the sum is kept. No unit at all still gives a contribution: zero, and its
        noise.
        """
        total = np.zeros(self.size or dimension, np.int64)
        for batch in units:
            value: Any = batch.vectors
            for stage in self._unit_stages:
                value = stage.forward(value, batch.ids, passing)
            total += value.sum(axis=0)
            passing.count("units", len(batch.ids))
        # Projection onto a box moves no two sums further apart, so the sensitivity stands; noise comes after it.
        projected = project_range(total, self.rounding.limit)
        passing.count("out_of_range", int(np.count_nonzero(projected != total)))
        total = projected
        for stage in self._sum_stages:
            total = stage.forward(total, (), passing)
        return total

    def backward(self, total: Integers) -> Floats:
        """The opened sum, int64 [k], as a mean direction, float32 [D]."""
        value: Any = total
        for stage in reversed(self.stages):
            value = stage.backward(value)
        direction: Floats = value
        return direction
