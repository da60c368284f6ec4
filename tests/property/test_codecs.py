"""What holds for every codec and every input: additivity, round trips, determinism, and survival of wild numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privet import wire
from privet.clip import clip_rows
from privet.codecs import Codec, Provenance, Sensitivity, StatisticsCode, fields, pack, unpack
from privet.codecs.allocation import power_of_two_sizes, sizes_for, spread
from privet.codecs.base import Layout, dimension_of, size_of
from privet.codecs.count_sketch import CountSketch
from privet.codecs.folding import LARGEST_PADDING, blocks_of, pictures_of
from privet.codecs.identity import Identity
from privet.codecs.prune import Prune
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection, blockwise_hadamard
from privet.codecs.row_pca import RowPca
from privet.codecs.stacking import stacks_of
from privet.codecs.top_k import ClientTopK, PublicTopK
from privet.errors import PrivetError

LAYOUT: Layout = (
    ("layers.0.q.lora_A", (4, 24)),
    ("layers.0.q.lora_B", (24, 4)),
    ("layers.1.q.lora_A", (4, 24)),
    ("layers.1.q.lora_B", (24, 4)),
    ("head.scale", (7,)),
)
D = dimension_of(LAYOUT)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mixed(layout: Layout, seed: int) -> Codec:
    dims = [size_of(shape) for _, shape in layout]
    sizes = np.array([d if i % 3 == 0 else (d // 3 if i % 3 == 1 else 0) for i, d in enumerate(dims)])
    sizes[-1] = max(1, sizes[-1])
    return spread(layout, sizes, lambda i, d, k: RandomProjection(d, k, seed + i), Provenance.STATISTICS)


LINEAR = {
    "identity": lambda seed: Identity(D),
    "prune_seed": lambda seed: Prune.seeded(D, 0.3, seed),
    "prune_update": lambda seed: Prune.largest(normal(seed, D), 0.3),
    "random_projection": lambda seed: RandomProjection(D, 50, seed),
    "random_projection_unbiased": lambda seed: RandomProjection(D, 50, seed, "unbiased"),
    "count_sketch": lambda seed: CountSketch(D, 50, seed),
    "count_sketch_unbiased": lambda seed: CountSketch(D, 50, seed, "unbiased"),
    "top_k": lambda seed: PublicTopK.of(normal(seed, D), 20),
    "row_pca": lambda seed: RowPca.fit(normal(seed, 12, D), LAYOUT, 4),
    "row_pca_tensors": lambda seed: RowPca.fit(normal(seed, 12, D), LAYOUT, 40),
    "public_subspace": lambda seed: PublicSubspace.fit(normal(seed, 12, D), 8),
    "per_tensor": lambda seed: mixed(LAYOUT, seed),
}
seeds = st.integers(0, 2**31 - 1)
kinds = st.sampled_from(sorted(LINEAR))


@settings(max_examples=60)
@given(kinds, seeds, st.integers(1, 5))
def test_linear_codecs_add(kind: str, seed: int, clients: int) -> None:
    codec, rows = LINEAR[kind](seed % 100), normal(seed, clients, D)
    codes = codec.encode(rows)
    assert codec.additive
    assert codec.summable
    assert codes.shape == (clients, codec.size)
    assert codes.dtype == np.float32
    once = codec.decode(codes.sum(axis=0, dtype=np.float64))
    each = np.sum([codec.decode(code) for code in codes], axis=0, dtype=np.float64)
    np.testing.assert_allclose(once, each, atol=1e-4)
    together = codec.encode(rows.sum(axis=0, keepdims=True))[0]
    np.testing.assert_allclose(codes.sum(axis=0), together, atol=1e-4)


@settings(max_examples=40)
@given(kinds, seeds)
def test_orthonormal_codecs_never_lengthen_and_project(kind: str, seed: int) -> None:
    codec, row = LINEAR[kind](seed % 100), normal(seed, 1, D)
    code = codec.encode(row)[0]
    assert np.linalg.norm(code) <= np.linalg.norm(row) * (1 + 1e-5)
    if "unbiased" not in kind:
        once = codec.decode(code)
        np.testing.assert_allclose(codec.decode(codec.encode(once[None])[0]), once, atol=1e-4)
        assert abs(float(once @ (row[0] - once))) <= 1e-3 * float(row[0] @ row[0])


@settings(max_examples=40)
@given(st.sampled_from([*sorted(LINEAR), "client_top_k"]), seeds)
def test_a_message_carries_the_codec_bit_for_bit(kind: str, seed: int) -> None:
    codec = ClientTopK(D, 9) if kind == "client_top_k" else LINEAR[kind](seed % 100)
    schema = wire.Schema(fields(1 << 16))
    sent = wire.encode(pack(codec), schema)
    assert sent == wire.encode(pack(codec), schema)
    received = unpack(wire.decode(sent, schema), codec.dimension)
    assert pack(received).keys() == pack(codec).keys()
    assert wire.encode(pack(received), schema) == sent
    rows = normal(seed, 3, D)
    assert np.array_equal(received.encode(rows), codec.encode(rows))
    assert np.array_equal(received.decode(codec.encode(rows)[0]), codec.decode(codec.encode(rows)[0]))
    assert received.provenance is codec.provenance
    assert (received.size, received.dimension) == (codec.size, codec.dimension)


@settings(max_examples=60)
@given(kinds, seeds, st.sampled_from([np.nan, np.inf, -np.inf, 1e6, 3e38, 1e-45]))
def test_wild_numbers_pass_through_and_the_clip_bounds_them(kind: str, seed: int, wild: float) -> None:
    codec, rows = LINEAR[kind](seed % 100), normal(seed, 4, D)
    rows[1] *= np.float32(1e6)
    rows[2, seed % D] = wild
    codes = codec.encode(rows)
    clipped, _ = clip_rows(codes, 0.5)
    assert codec.sensitivity is Sensitivity.CLIP_AFTER_ENCODE
    assert np.all(np.isfinite(clipped))
    assert np.all(np.linalg.norm(clipped.astype(np.float64), axis=1) <= 0.5 * (1 + 1e-6))
    assert np.all(np.isfinite(codes[[0, 1, 3]]))


@given(seeds, st.integers(1, 3000), st.integers(1, 4))
def test_the_hadamard_transform_is_orthonormal_and_its_own_inverse(seed: int, size: int, b: int) -> None:
    rows = normal(seed, b, size).astype(np.float64)
    once = blockwise_hadamard(rows.copy())
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose(blockwise_hadamard(once.copy()), rows, atol=1e-12)


shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 90)), st.tuples(st.integers(1, 200)), st.just((8, 576))
)
layouts = st.lists(shapes, min_size=1, max_size=6).map(
    lambda found: tuple((f"layers.{i}.t{len(shape)}", shape) for i, shape in enumerate(found))
)


@given(
    layouts, seeds, st.sampled_from(["mean", "mean_std", "moments"]), st.sampled_from([3, 4]), st.booleans()
)
@example((("a", (1,)), ("b", (1, 1))), 0, "moments", 4, True)
def test_the_stage_1_message_is_no_longer_than_the_update_for_any_layers(
    layout: Layout, seed: int, prior: str, moments: int, spiky: bool
) -> None:
    rows = normal(seed, 3, dimension_of(layout))
    if spiky:
        rows = rows**5
    rows[2] *= np.float32(1e6)
    code = StatisticsCode(layout, prior, moments)
    messages = code.encode(rows).astype(np.float64)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert messages.shape == (3, code.size)
    assert np.all(np.linalg.norm(messages, axis=1) <= lengths * code.norm_bound * (1 + 1e-5))
    if prior == "mean_std":
        np.testing.assert_allclose(np.linalg.norm(messages, axis=1), lengths, rtol=1e-5)


@given(layouts)
def test_stacks_hold_every_number_once(layout: Layout) -> None:
    for rows in ("factor", "tensor"):
        held = np.concatenate([stack.positions.reshape(-1) for stack in stacks_of(layout, rows)])
        assert np.array_equal(np.sort(held), np.arange(dimension_of(layout)))


@given(layouts, st.sampled_from([2, 4, 8, 16, 32, 64]))
def test_pictures_crop_nothing_and_pad_little_or_are_refused(layout: Layout, multiple: int) -> None:
    try:
        pictures = pictures_of(layout, multiple)
    except PrivetError:
        # Any number of values above this fits into rows of one width.
        assert dimension_of(layout) < multiple * multiple / LARGEST_PADDING + multiple * multiple
        return
    held = np.concatenate([picture[picture >= 0] for picture in pictures])
    assert np.array_equal(np.sort(held), np.arange(dimension_of(layout)))
    assert all(side % multiple == 0 for picture in pictures for side in picture.shape)
    assert sum(picture.size for picture in pictures) <= dimension_of(layout) * (1 + LARGEST_PADDING)


@given(layouts, st.integers(8, 600))
def test_blocks_hold_every_number_once(layout: Layout, block: int) -> None:
    pictures = blocks_of(layout, block)
    held = np.concatenate([picture[picture >= 0] for picture in pictures])
    assert np.array_equal(np.sort(held), np.arange(dimension_of(layout)))
    assert len({picture.shape[1] for picture in pictures}) == 1


@given(layouts, seeds, st.sampled_from(["uniform", "by_std", "by_rate"]), st.floats(1, 100))
def test_allocations_spend_the_budget_exactly(layout: Layout, seed: int, rule: str, ratio: float) -> None:
    dims = np.array([size_of(shape) for _, shape in layout])
    budget = max(1, int(dims.sum() / ratio))
    rms = np.exp(3 * np.random.default_rng(seed).normal(size=len(dims)))
    rms[seed % len(dims)] = 0.0
    sizes = sizes_for(layout, budget, rule, rms)
    assert sizes.sum() == budget
    assert np.all((sizes >= 0) & (sizes <= dims))
    ratios = power_of_two_sizes(dims, sizes, rms, 64)
    spent = sum(-(-int(d) // int(r)) for d, r in zip(dims, ratios, strict=True) if r)
    assert spent <= budget
    assert set(ratios.tolist()) <= {0, 1, 2, 4, 8, 16, 32, 64}


@given(seeds)
def test_a_row_is_encoded_alone(seed: int) -> None:
    for kind in ("random_projection", "count_sketch", "prune_seed", "top_k"):
        codec, rows = LINEAR[kind](seed % 100), normal(seed, 5, D)
        together, alone = codec.encode(rows), np.concatenate([codec.encode(row[None]) for row in rows])
        assert np.array_equal(together, alone), kind


def test_a_batch_of_another_adapter_is_refused() -> None:
    for make in LINEAR.values():
        codec = make(0)
        with pytest.raises(PrivetError, match="does not fit the codec"):
            codec.encode(normal(0, 2, D + 1))
        with pytest.raises(PrivetError, match="is no code"):
            codec.decode(normal(0, codec.size + 1))
