"""``privet bench codecs``: fidelity of every codec on real LoRA updates, beside a random projection.

Each row is the cosine between the true mean of a cohort's updates and what comes out of encode, clip, sum,
Gaussian noise and decode. Codecs learn from other clients' statistics or from public records, never from the
updates they are measured on. The clip norm is the median length of the public updates' codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from privet.codec_config import (
    AutoencoderCodec,
    CodecConfig,
    CountSketchCodec,
    IdentityCodec,
    PublicSubspaceCodec,
    RandomProjectionCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs import Codec, Noise, Sources, StatisticsCode, aggregate, build, median_code_norm
from privet.codecs.fidelity import control_for
from privet.codecs.prior import as_layout
from privet.codecs.prune import Prune
from privet.errors import PrivetError
from privet.update_sets import UpdateSet, UpdateSetConfig, load_or_collect

RATIOS = (4, 16, 64)
NOISES = (0.0, 0.03, 0.3, 1.0)
DIRECTIONS = (10, 50)
QUICK = UpdateSetConfig(top_layers=4, clients=24, records=4, public=64, public_records=2)
"""LoRA on the top four layers of the embedded model: about a minute to collect, kept in the cache."""


STEP = 10
"""Updates between two signs of life while they are collected."""


class Row(TypedDict):
    """One measurement.

    Attributes:
        codec: Kind, with what tells it from others of its kind.
        ratio: D/k as it came out.
        noise: Noise multiplier: standard deviation over the clip norm of a code.
        cosine: Between the true mean update and the decoded noisy mean.
        relative_error: Length of their difference over the true mean's length.
        control_cosine: Cosine of a random projection to the same size under the same noise.
    """

    codec: str
    ratio: float
    noise: float
    cosine: float
    relative_error: float
    control_cosine: float


def bench_codecs(
    updates: UpdateSet | None = None,
    *,
    ratios: Sequence[int] = RATIOS,
    noises: Sequence[float] = NOISES,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """Measure every codec at every ratio and noise multiplier.

    Args:
        updates: What to measure on; those of :data:`QUICK` when absent.
        ratios: Ratios D/k asked for. A subspace takes its numbers of directions from :data:`DIRECTIONS`.
        noises: Noise multipliers.
        seed: Public seed of projections, networks and simulated noise.
        progress: Told which codec is next.

    Raises:
        PrivetError: if the embedded model or data cannot be had.
    """
    if updates is None:
        from privet.cache import cache_dir

        def told(what: str, at: int, of: int) -> None:
            if at % STEP == 0:
                progress(f"{what}: {at} of {of}")

        updates = load_or_collect(QUICK, cache_dir() / "updates", told)
    rows: list[Row] = []
    for name, make in candidates(updates, ratios, seed):
        progress(name)
        try:
            codec = make()
        except PrivetError as e:
            # A size that this adapter does not allow, such as six stride-2 blocks on two layers.
            progress(f"{name}: left out, {e.message}")
            continue
        rows += measure(name, codec, updates, noises, seed)
    return rows


def candidates(updates: UpdateSet, ratios: Sequence[int], seed: int) -> list[tuple[str, Callable[[], Codec]]]:
    """Names and makers of the codecs to compare."""
    code = StatisticsCode(as_layout(updates.layout), "mean_std")
    sources = Sources(
        updates.layout,
        public_updates=updates.public,
        statistics=code.read(code.encode(updates.fit).mean(axis=0)),
    )

    def of(config: CodecConfig) -> Callable[[], Codec]:
        return lambda: build(config, sources, seed=seed)

    def pruned(ratio: int) -> Callable[[], Codec]:
        return lambda: Prune.largest(updates.public.mean(axis=0), 1 / ratio)

    found: list[tuple[str, Callable[[], Codec]]] = [("identity", of(IdentityCodec()))]
    for r in ratios:
        quick: dict[str, object] = {"ratio": r, "samples": 48, "holdout": 8, "epochs": 6, "patience": 2}
        found += [
            ("random_projection", of(RandomProjectionCodec(ratio=r))),
            ("random_projection by_std", of(RandomProjectionCodec(ratio=r, allocation="by_std"))),
            ("count_sketch", of(CountSketchCodec(ratio=r))),
            ("prune by public mean", pruned(r)),
            ("top_k public", of(TopKCodec(ratio=r))),
            ("row_pca", of(RowPcaCodec(ratio=r))),
            ("autoencoder conv", of(AutoencoderCodec.model_validate(quick))),
            ("autoencoder mlp", of(AutoencoderCodec.model_validate(quick | {"network": "mlp"}))),
            ("autoencoder mlp by_rate", of(_by_rate(quick))),
        ]
    found += [
        (f"public_subspace {k}", of(PublicSubspaceCodec(size=k)))
        for k in DIRECTIONS
        if k <= len(updates.public)
    ]
    return found


def measure(name: str, codec: Codec, updates: UpdateSet, noises: Sequence[float], seed: int) -> list[Row]:
    """The rows of one codec."""
    both = [
        (which, median_code_norm(which, updates.public), which.encode(updates.clients))
        for which in (codec, control_for(codec, seed + 1))
    ]
    rows: list[Row] = []
    for noise in noises:
        found, beside = (
            aggregate(which, updates.clients, updates.layout, Noise(norm, noise, seed), codes).overall
            for which, norm, codes in both
        )
        rows.append(
            {
                "codec": name,
                "ratio": round(codec.dimension / codec.size, 2),
                "noise": noise,
                "cosine": round(found.cosine, 4),
                "relative_error": round(found.relative_error, 4),
                "control_cosine": round(beside.cosine, 4),
            }
        )
    return rows


def _by_rate(quick: dict[str, object]) -> AutoencoderCodec:
    return AutoencoderCodec.model_validate(quick | {"network": "mlp", "allocation": "by_rate"})
