"""From the configuration to a codec, and what each kind is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.codec_config import (
    AutoencoderCodec,
    CodecConfig,
    CountSketchCodec,
    IdentityCodec,
    PruneCodec,
    PublicSubspaceCodec,
    RandomProjectionCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs.allocation import PerTensor, power_of_two_sizes, sizes_for, spans_of, spread
from privet.codecs.base import (
    Codec,
    FloatArray,
    Layout,
    Provenance,
    dimension_of,
    size_for,
    size_of,
    slices_of,
)
from privet.codecs.count_sketch import CountSketch
from privet.codecs.identity import Identity
from privet.codecs.prior import TensorStatistics
from privet.codecs.prune import Prune, pruned_share
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.codecs.row_pca import RowPca
from privet.codecs.top_k import ClientTopK, PublicTopK
from privet.codecs.training import Epoch, GivenUpdates, SyntheticUpdates, Updates, train
from privet.errors import PrivetError

LARGEST_RATIO = 64
"""Of the autoencoder with six stride-2 blocks."""


@dataclass(frozen=True, eq=False)
class Sources:
    """What a codec may be computed from. What is absent is not available in this run.

    Attributes:
        layout: Names and shapes of the trained tensors.
        public_updates: float32 [n, D] on public records or self-generated text.
        last_update: float32 [D], the last released update of the adapter.
        statistics: Moments from stage 1.
        statistics_are_exact: Whether they were released without noise (``faithful: true``).
        exact_updates: float32 [n, D], exact updates of clients (`cg_fedllm` only).
    """

    layout: Layout
    public_updates: FloatArray | None = None
    last_update: FloatArray | None = None
    statistics: TensorStatistics | None = None
    statistics_are_exact: bool = False
    exact_updates: FloatArray | None = None

    @property
    def dimension(self) -> int:
        """D."""
        return dimension_of(self.layout)

    def public(self, kind: str) -> FloatArray:
        """The public updates.

        Raises:
            PrivetError: if there are none.
        """
        if self.public_updates is None or not len(self.public_updates):
            raise PrivetError(
                "is computed from public updates, and there are none",
                field="codec.kind",
                given=kind,
                allowed="random_projection, count_sketch, prune",
                hint="declare public records (`data.split.public`)",
            )
        return self.public_updates

    def spread(self) -> tuple[NDArray[np.float64] | None, Provenance]:
        """Root mean square of each tensor's entries, and what it follows from."""
        if self.statistics is not None:
            exact = self.statistics_are_exact
            return self.statistics.rms, Provenance.EXACT if exact else Provenance.STATISTICS
        rows, source = self.exact_updates, Provenance.EXACT
        if rows is None:
            rows, source = self.public_updates, Provenance.PUBLIC
        if rows is None:
            return None, Provenance.SEED
        where = slices_of(self.layout).values()
        return np.array([np.sqrt(np.square(rows[:, w], dtype=np.float64).mean()) for w in where]), source


def build(
    config: CodecConfig,
    sources: Sources,
    *,
    seed: int,
    round_number: int = 0,
    rounds: int = 1,
    progress: Callable[[Epoch], None] = lambda epoch: None,
) -> Codec:
    """The codec of a round.

    Args:
        config: The run's section ``codec``.
        sources: What is available.
        seed: Public seed.
        round_number: For codecs that change over rounds (prune).
        rounds: Rounds of the run.
        progress: Called after each epoch, where one is trained.

    Raises:
        PrivetError: if what the codec needs is not there, or its size is impossible.
    """
    layout, dimension = sources.layout, sources.dimension
    match config:
        case IdentityCodec():
            return Identity(dimension)
        case PruneCodec():
            return _prune(config, sources, seed, round_number, rounds)
        case RandomProjectionCodec() | CountSketchCodec():
            return _projection(config, sources, seed)
        case TopKCodec(support="client"):
            return ClientTopK(dimension, size_for(dimension, 2 * config.ratio))
        case TopKCodec():
            mean = sources.public(config.kind).mean(axis=0)
            return PublicTopK.of(mean, size_for(dimension, config.ratio))
        case RowPcaCodec():
            updates = sources.public(config.kind)[: config.updates]
            return RowPca.fit(updates, layout, config.ratio, rows=config.rows)
        case PublicSubspaceCodec():
            return PublicSubspace.fit(sources.public(config.kind)[: config.updates], config.size)
        case AutoencoderCodec():
            return _autoencoder(config, sources, seed, progress)


def _prune(config: PruneCodec, sources: Sources, seed: int, round_number: int, rounds: int) -> Codec:
    share = pruned_share(
        round_number,
        rounds,
        start_round=config.start_round,
        start=config.start_rate,
        end=config.end_rate,
        end_round=config.end_round,
    )
    if config.mask == "seed":
        return Prune.seeded(sources.dimension, 1 - share, seed)
    if sources.last_update is None or share == 0:
        # Nothing was released yet that could say what to keep.
        return Identity(sources.dimension)
    return Prune.largest(sources.last_update, 1 - share)


def _projection(config: RandomProjectionCodec | CountSketchCodec, sources: Sources, seed: int) -> Codec:
    kind = RandomProjection if isinstance(config, RandomProjectionCodec) else CountSketch
    size = size_for(sources.dimension, config.ratio)
    if config.allocation == "uniform":
        return kind(sources.dimension, size, seed, config.scale)
    rms, source = sources.spread()
    sizes = sizes_for(sources.layout, size, config.allocation, rms)

    def one(index: int, dimension: int, size: int) -> Codec:
        return kind(dimension, size, seed + index, config.scale)

    return spread(sources.layout, sizes, one, source)


def _autoencoder(
    config: AutoencoderCodec, sources: Sources, seed: int, progress: Callable[[Epoch], None]
) -> Codec:
    layout = tuple(sources.layout)
    if config.allocation == "uniform":
        return _trained(config, sources, layout, config.ratio, seed, progress)
    rms, source = sources.spread()
    dims = np.array([size_of(shape) for _, shape in layout], np.int64)
    budget = size_for(sources.dimension, config.ratio)
    sizes = sizes_for(layout, budget, config.allocation, rms)
    if rms is None:
        raise PrivetError(
            "needs the spread of each tensor", field="codec.allocation", given=config.allocation
        )
    ratios = power_of_two_sizes(dims, sizes, rms, LARGEST_RATIO)
    parts: list[tuple[Codec, NDArray[np.int64]]] = []
    for ratio in sorted({int(r) for r in ratios} - {0}):
        band = tuple(entry for entry, r in zip(layout, ratios, strict=True) if r == ratio)
        codec: Codec = Identity(dimension_of(band))
        if ratio > 1:
            codec = _trained(config, sources, band, float(ratio), seed + ratio, progress)
        parts.append((codec, spans_of(layout, [name for name, _ in band])))
    return PerTensor(sources.dimension, tuple(parts), source)


def _trained(
    config: AutoencoderCodec,
    sources: Sources,
    layout: tuple[tuple[str, tuple[int, ...]], ...],
    ratio: float,
    seed: int,
    progress: Callable[[Epoch], None],
) -> Codec:
    names = [name for name, _ in layout]
    updates: Updates
    holdout: Updates
    if sources.exact_updates is not None:
        columns = np.concatenate([np.arange(a, b) for a, b in spans_of(sources.layout, names)])
        rows = sources.exact_updates[:, columns]
        cut = max(1, len(rows) * config.holdout // (config.samples + config.holdout))
        if len(rows) < 2:
            raise PrivetError(
                "needs updates to learn from and others to stop by",
                field="codec",
                given=len(rows),
                allowed=">= 2",
            )
        updates, holdout, source = GivenUpdates(rows[cut:]), GivenUpdates(rows[:cut]), Provenance.EXACT
    elif sources.statistics is not None:
        statistics = sources.statistics.restricted_to(names)
        updates = SyntheticUpdates(statistics, config.samples, 2 * seed)
        holdout = SyntheticUpdates(statistics, config.holdout, 2 * seed + 1)
        source = Provenance.EXACT if sources.statistics_are_exact else Provenance.STATISTICS
    else:
        raise PrivetError(
            "learns from statistics of stage 1, and there are none",
            field="codec.kind",
            given=config.kind,
            hint="use the system `dr_encoder`, whose first stage releases them",
        )
    return train(
        config, layout, updates, holdout, provenance=source, seed=seed, ratio=ratio, progress=progress
    )
