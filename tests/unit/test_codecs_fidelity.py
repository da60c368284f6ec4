"""Fidelity, its control and its gate; and what a codec is built from."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats
from support.stage_one import read_statistics, statistics_message

from privet.clip import clip_rows
from privet.codec_config import (
    AutoencoderCodec,
    CountSketchCodec,
    IdentityCodec,
    PruneCodec,
    PublicSubspaceCodec,
    RandomProjectionCodec,
    RowPcaCodec,
    TopKCodec,
)
from privet.codecs import Noise, Provenance, Sources, StatisticsCode, TensorStatistics, aggregate, build
from privet.codecs import fidelity as fid
from privet.codecs.allocation import PerTensor, sizes_for
from privet.codecs.count_sketch import CountSketch
from privet.codecs.fidelity import closeness, gate, median_code_norm, reconstruction
from privet.codecs.identity import Identity
from privet.codecs.prior import power_method
from privet.codecs.public_subspace import PublicSubspace
from privet.codecs.random_projection import RandomProjection
from privet.codecs.top_k import ClientTopK
from privet.errors import PrivetError

LAYOUT = (
    ("layers.0.lora_A", (8, 64)),
    ("layers.0.lora_B", (64, 8)),
    ("layers.1.lora_A", (8, 64)),
    ("layers.1.lora_B", (64, 8)),
)
D = 4 * 512
SPREAD = np.array([0.01, 1.0, 0.02, 2.0])


def updates(seed: int, count: int) -> np.ndarray:
    """Independent numbers; the factors B are far larger than the factors A, as after a few steps from B = 0."""
    rows = np.random.default_rng(seed).normal(size=(count, 4, 512)) * SPREAD[:, None]
    return rows.reshape(count, D).astype(np.float32)


def test_closeness_of_known_vectors() -> None:
    found = closeness(np.array([[1, 0], [0, 0]], np.float32), np.array([[1, 1], [0, 0]], np.float32))
    assert found.cosine == pytest.approx(2**-0.5 / 2)
    assert found.relative_error == pytest.approx(2**-0.5 / 2)
    assert closeness(np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)).relative_error == 1


def test_fidelity_says_which_tensor_is_lost() -> None:
    rows = updates(0, 3)
    codec = build(
        RandomProjectionCodec(ratio=2, allocation="by_std"), Sources(LAYOUT, public_updates=rows), seed=0
    )
    found = reconstruction(codec, updates(1, 3), LAYOUT)
    assert [round(found.per_tensor[name].cosine, 3) for name, _ in LAYOUT] == [0, 1, 0, 1]
    assert found.overall.cosine > 0.99
    assert found.ratio == 2


def test_noise_in_the_code_costs_what_theory_says() -> None:
    """No codec, n equal clients, multiplier z: cosine 1 / sqrt(1 + D (z / n)^2); 64 draws, tolerance 5 %."""
    rows = np.broadcast_to(updates(2, 1), (10, D)).astype(np.float32)
    codec = Identity(D)
    norm = median_code_norm(codec, rows)
    found = aggregate(codec, rows, LAYOUT, Noise(norm, 0.3, seed=1, draws=64)).overall
    assert found.cosine == pytest.approx((1 + D * 0.03**2) ** -0.5, rel=0.05)
    assert aggregate(codec, rows, LAYOUT, Noise(norm * 1.01, 0.0)).overall.cosine == pytest.approx(1)


def test_a_random_projection_is_neutral_under_heavy_noise_when_the_clip_fits_its_codes() -> None:
    rows = updates(3, 20) + updates(4, 1)
    cosines = []
    for codec in (Identity(D), RandomProjection(D, D // 16, 0)):
        noise = Noise(median_code_norm(codec, rows), 3.0, seed=1, draws=64)
        cosines.append(aggregate(codec, rows, LAYOUT, noise).overall.cosine)
    assert cosines[1] == pytest.approx(cosines[0], rel=0.35)


def test_the_gate_refuses_what_is_no_better_than_a_random_projection() -> None:
    measure = partial(reconstruction, updates=updates(5, 8), layout=LAYOUT)
    sketch = CountSketch(D, 128, 0)
    with pytest.raises(PrivetError, match="no more of an update than a random projection"):
        gate(sketch, measure, seed=1)
    found, control = gate(sketch, measure, seed=1, allow_useless=True)
    assert found.overall.cosine == pytest.approx(control.overall.cosine, rel=0.15)
    gate(RandomProjection(D, 128, 0), measure, seed=1)
    gate(Identity(D), measure, seed=1)


def test_the_gate_lets_through_what_knows_something() -> None:
    held_out = updates(6, 8)
    measure = partial(reconstruction, updates=held_out, layout=LAYOUT)
    sources = Sources(LAYOUT, public_updates=updates(7, 8))
    found, control = gate(
        build(CountSketchCodec(ratio=4, allocation="by_std"), sources, seed=0), measure, seed=1
    )
    assert found.overall.cosine > control.overall.cosine * 1.5


def test_codes_that_do_not_add_have_no_aggregate() -> None:
    with pytest.raises(PrivetError, match="do not add up"):
        aggregate(ClientTopK(D, 5), updates(0, 2), LAYOUT, Noise(1.0, 0.0))


def test_allocation_by_std_fills_the_widest_first_and_by_rate_hedges() -> None:
    assert sizes_for(LAYOUT, 600, "by_std", SPREAD).tolist() == [0, 88, 0, 512]
    assert sizes_for(LAYOUT, 600, "by_rate", SPREAD).tolist() == [0, 172, 0, 428]
    assert sizes_for(LAYOUT, 600, "uniform").tolist() == [150] * 4
    with pytest.raises(PrivetError, match="spread"):
        sizes_for(LAYOUT, 600, "by_std")


def test_every_kind_is_built_from_the_configuration() -> None:
    public = updates(8, 40) + np.random.default_rng(0).normal(size=D).astype(np.float32)
    sources = Sources(LAYOUT, public_updates=public, last_update=public[0])
    configs = {
        "identity": (IdentityCodec(), 1),
        "prune": (PruneCodec(start_round=0), 2),
        "random_projection": (RandomProjectionCodec(ratio=16), 16),
        "count_sketch": (CountSketchCodec(ratio=16), 16),
        "top_k": (TopKCodec(ratio=16), 16),
        "row_pca": (RowPcaCodec(ratio=16), 16),
        "public_subspace": (PublicSubspaceCodec(size=16), D / 16),
    }
    for kind, (config, ratio) in configs.items():
        codec = build(config, sources, seed=0, round_number=9, rounds=10)
        assert codec.kind == kind
        assert codec.dimension / codec.size == pytest.approx(ratio, rel=0.01)
    assert build(TopKCodec(ratio=16, support="client"), sources, seed=0).size == D // 16
    for config in (TopKCodec(), RowPcaCodec(), PublicSubspaceCodec()):
        with pytest.raises(PrivetError, match="public updates"):
            build(config, Sources(LAYOUT), seed=0)


def test_pruning_waits_for_its_round_and_for_something_released() -> None:
    config = PruneCodec(start_round=3)
    released = updates(9, 1)[0]
    assert (
        build(config, Sources(LAYOUT, last_update=released), seed=0, round_number=2, rounds=10).kind
        == "identity"
    )
    assert build(config, Sources(LAYOUT), seed=0, round_number=3, rounds=10).kind == "identity"
    pruned = build(config, Sources(LAYOUT, last_update=released), seed=0, round_number=3, rounds=10)
    assert pruned.size == round(0.8 * D)
    by_seed = build(
        PruneCodec(start_round=0, mask="seed"), Sources(LAYOUT), seed=0, round_number=9, rounds=10
    )
    assert by_seed.size == D // 2


def statistics_of(rows: np.ndarray, prior: str = "mean_std") -> TensorStatistics:
    code = StatisticsCode(LAYOUT, prior)
    return code.read(code.encode(rows).mean(axis=0))


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_an_autoencoder_with_allocation_spends_its_budget_by_spread(network: str) -> None:
    config = AutoencoderCodec(
        network=network, ratio=4, allocation="by_rate", block=64, epochs=1, samples=8, holdout=2
    )
    sources = Sources(LAYOUT, statistics=statistics_of(updates(10, 4)))
    codec = build(config, sources, seed=0)
    assert isinstance(codec, PerTensor)
    assert codec.provenance is Provenance.STATISTICS
    assert codec.size <= D // 4
    held_out = updates(11, 4)
    control = reconstruction(RandomProjection(D, codec.size, 0), held_out, LAYOUT).overall.cosine
    assert reconstruction(codec, held_out, LAYOUT).overall.cosine > control * 1.2


def test_what_an_autoencoder_learned_from_is_declared() -> None:
    config = AutoencoderCodec(network="mlp", ratio=4, block=64, epochs=1, samples=8, holdout=2)
    statistics = statistics_of(updates(10, 4))
    declared = [
        build(config, source, seed=0).provenance
        for source in (
            Sources(LAYOUT, statistics=statistics),
            Sources(LAYOUT, statistics=statistics, statistics_are_exact=True),
            Sources(LAYOUT, statistics=statistics, exact_updates=updates(10, 4)),
        )
    ]
    assert declared == [Provenance.STATISTICS, Provenance.EXACT, Provenance.EXACT]
    by_spread = RandomProjectionCodec(ratio=4, allocation="by_std")
    assert (
        build(by_spread, Sources(LAYOUT, exact_updates=updates(1, 2)), seed=0).provenance is Provenance.EXACT
    )
    exact = Sources(LAYOUT, statistics=statistics, statistics_are_exact=True)
    assert build(by_spread, exact, seed=0).provenance is Provenance.EXACT
    with pytest.raises(PrivetError, match="stage 1"):
        build(config, Sources(LAYOUT), seed=0)
    with pytest.raises(PrivetError, match="others to stop by"):
        build(config, Sources(LAYOUT, exact_updates=updates(1, 1)), seed=0)


def test_statistics_come_back_as_they_were_sent() -> None:
    rows = updates(12, 1) + np.float32(0.05)
    found = statistics_of(rows, "moments")
    parts = rows.reshape(4, 512)
    np.testing.assert_allclose(found.mean, parts.mean(axis=1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.std, parts.std(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.skewness, stats.skew(parts, axis=1), atol=1e-2)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(parts, axis=1), atol=1e-2)
    assert statistics_of(rows, "mean").std.tolist() == [1.0] * 4


def test_the_clipped_message_is_the_one_that_the_proof_is_about() -> None:
    rows = updates(13, 5) * np.array([[0.01], [0.1], [1], [10], [0]], np.float32)
    code, sizes = StatisticsCode(LAYOUT), [512] * 4
    message = clip_rows(code.encode(rows), 1.5)[0]
    np.testing.assert_allclose(message, statistics_message(rows, sizes, 1.5), rtol=1e-4, atol=1e-6)
    mean, std = read_statistics(message.mean(axis=0), sizes)
    found = code.read(message.mean(axis=0))
    np.testing.assert_allclose(found.mean, mean)
    np.testing.assert_allclose(found.std, std)


def test_noise_cannot_make_statistics_impossible() -> None:
    code = StatisticsCode(LAYOUT, "moments")
    message = np.random.default_rng(0).normal(size=code.size).astype(np.float32) * 100
    message[1] = -3
    found = code.read(message)
    assert np.all(found.std >= 0)
    assert np.isfinite(found.sample(2, (1,))).all()


def test_synthetic_updates_follow_their_statistics() -> None:
    """512,000 draws a tensor: mean, std, skewness and excess kurtosis near what was asked; fixed seed."""
    wanted = TensorStatistics(
        LAYOUT, np.array([0, 1, 0, -2.0]), SPREAD, np.array([0, 0.5, 0, -1.0]), np.array([0, 2, 10, 3.0])
    )
    parts = wanted.sample(1000, (3, 4)).reshape(1000, 4, 512).transpose(1, 0, 2).reshape(4, -1)
    np.testing.assert_allclose(parts.mean(axis=1), wanted.mean, atol=0.02)
    np.testing.assert_allclose(parts.std(axis=1), wanted.std, rtol=0.02)
    np.testing.assert_allclose(stats.skew(parts, axis=1), wanted.skewness, atol=0.15)
    np.testing.assert_allclose(stats.kurtosis(parts, axis=1), wanted.kurtosis, rtol=0.15, atol=0.1)
    assert np.array_equal(wanted.sample(2, (5,)), wanted.sample(2, (5,)))
    assert not np.array_equal(wanted.sample(2, (5,)), wanted.sample(2, (6,)))


@pytest.mark.parametrize(("skewness", "kurtosis"), [(0, 1e9), (100, 0), (np.nan, np.nan), (0, -50)])
def test_impossible_moments_become_possible_ones(skewness: float, kurtosis: float) -> None:
    a, b, c, d = power_method(skewness, kurtosis)
    assert a + c == 0
    assert b**2 + 6 * b * d + 2 * c**2 + 15 * d**2 == pytest.approx(1)


def test_a_subspace_of_public_gradients_beats_the_control_under_noise() -> None:
    draw = np.random.default_rng(13)
    directions = draw.normal(size=(5, D))
    clients = (draw.normal(size=(50, 5)) @ directions + draw.normal(size=(1, 5)) @ directions * 2).astype(
        np.float32
    )
    public = (draw.normal(size=(20, 5)) @ directions).astype(np.float32)
    codec = PublicSubspace.fit(public, 5)

    def measure(codec: fid.Codec) -> fid.Fidelity:
        return aggregate(codec, clients, LAYOUT, Noise(median_code_norm(codec, public), 1.0, draws=8))

    found, control = gate(codec, measure, seed=0)
    assert found.overall.cosine > 0.9
    assert control.overall.cosine < 0.6
