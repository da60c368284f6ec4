"""The learned codec: shapes of real adapters, training, homogeneity, messages; and where it cannot win."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privet import wire
from privet.codec_config import AutoencoderCodec
from privet.codecs import (
    Provenance,
    Sensitivity,
    TensorStatistics,
    check_sound,
    fields,
    networks,
    pack,
    unpack,
)
from privet.codecs.autoencoder import Autoencoder
from privet.codecs.base import Layout, dimension_of, slices_of
from privet.codecs.fidelity import control_for, reconstruction
from privet.codecs.folding import LARGEST_PADDING, pictures_of
from privet.codecs.training import Epoch, GivenUpdates, SyntheticUpdates, train
from privet.errors import PrivetError
from privet.protocol import RoundAborted


def adapter(layers: int, rank: int, width: int, values: int, factors: str = "both") -> Layout:
    """LoRA on q and v, as a model with grouped attention has them."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for layer in range(layers):
        for name, out in (("q", width), ("v", values)):
            if factors == "both":
                found.append((f"layers.{layer}.{name}.lora_A", (rank, width)))
            found.append((f"layers.{layer}.{name}.lora_B", (out, rank)))
    return tuple(found)


SMALL = adapter(4, 8, 64, 32)
D = dimension_of(SMALL)


def low_rank(seed: int, count: int) -> np.ndarray:
    """Rows of every factor in a span of four directions, which are the same for all seeds."""
    directions = np.random.default_rng(99).normal(size=(4, 64))
    draw, out = np.random.default_rng(seed), np.zeros((count, D), np.float32)
    for (name, shape), where in zip(SMALL, slices_of(SMALL).values(), strict=True):
        rows, width = min(shape), max(shape)
        part = draw.normal(size=(count, rows, 4)) @ directions[:, :width]
        out[:, where] = (part if name.endswith("A") else part.transpose(0, 2, 1)).reshape(count, -1)
    return out


def gaussian(count: int, seed: int) -> SyntheticUpdates:
    flat = TensorStatistics(SMALL, np.zeros(len(SMALL)), np.ones(len(SMALL)))
    return SyntheticUpdates(flat, count, seed)


def settings(**changes: object) -> AutoencoderCodec:
    return AutoencoderCodec(**{"network": "mlp", "ratio": 8, "block": 64, "epochs": 25, **changes})


@pytest.fixture(scope="module")
def trained() -> dict[str, Autoencoder]:
    found = {}
    for network, epochs in (("mlp", 25), ("conv", 3), ("plain_conv", 1)):
        config = settings(network=network, epochs=epochs)
        updates = GivenUpdates(low_rank(1, 64)), GivenUpdates(low_rank(2, 8))
        found[network] = train(config, SMALL, *updates, provenance=Provenance.PUBLIC, seed=0)
    return found


@pytest.mark.parametrize(
    ("layout", "shapes"),
    [
        (adapter(30, 8, 576, 192), [(256, 576), (256, 576), (256, 576), (256, 192)]),
        (adapter(30, 8, 576, 192, "freeze_a"), [(256, 576), (256, 192)]),
        (adapter(28, 16, 4096, 1024), [(448, 4096), (448, 4096), (448, 4096), (448, 1024)]),
        (adapter(2, 8, 576, 192, "freeze_a"), [(192, 64)]),
    ],
)
def test_six_blocks_fit_real_adapters_with_little_padding(
    layout: Layout, shapes: list[tuple[int, int]]
) -> None:
    pictures = pictures_of(layout, 64)
    assert [picture.shape for picture in pictures] == shapes
    held = np.concatenate([picture[picture >= 0] for picture in pictures])
    assert np.array_equal(np.sort(held), np.arange(dimension_of(layout)))
    assert sum(picture.size for picture in pictures) <= (1 + LARGEST_PADDING) * dimension_of(layout)


def test_too_small_an_adapter_for_six_blocks_is_refused() -> None:
    with pytest.raises(PrivetError, match="network: mlp"):
        pictures_of((("a", (8, 100)),), 64)


@pytest.mark.parametrize("strides", [1, 2, 3, 4, 5, 6])
def test_the_number_of_blocks_follows_the_ratio(strides: int) -> None:
    layout = adapter(8, 8, 64, 64)
    config = settings(network="plain_conv", ratio=2**strides, epochs=1)
    update = np.random.default_rng(0).normal(size=(1, dimension_of(layout))).astype(np.float32)
    source = GivenUpdates(update)
    codec = train(config, layout, source, source, provenance=Provenance.PUBLIC, seed=0)
    assert codec.size == dimension_of(layout) // 2**strides
    convolutions = [n for n, w in codec.weights.items() if n.startswith("encoder") and w.shape[2:] == (3, 3)]
    assert codec.weights["encoder.1.weight"].shape == (2, 2, 3, 3)
    assert len(convolutions) == 1 + strides + 2 * 3
    assert not [name for name in codec.weights if "running" in name]


def test_it_beats_a_random_projection_where_there_is_structure(trained: dict[str, Autoencoder]) -> None:
    held_out = low_rank(3, 8)
    for network, least in (("mlp", 0.95), ("conv", 0.0)):
        codec = trained[network]
        found = reconstruction(codec, held_out, SMALL).overall.cosine
        control = reconstruction(control_for(codec, 0), held_out, SMALL).overall.cosine
        assert found > max(least, control * 1.05), network


def test_on_independent_gaussians_it_is_no_better_than_a_random_projection() -> None:
    """The honest negative: within a tensor a Gaussian prior holds nothing to learn."""
    codec = train(
        settings(), SMALL, gaussian(64, 1), gaussian(8, 2), provenance=Provenance.STATISTICS, seed=0
    )
    held_out = gaussian(16, 3).batch(range(16))
    found = reconstruction(codec, held_out, SMALL).overall.cosine
    control = reconstruction(control_for(codec, 0), held_out, SMALL).overall.cosine
    assert found == pytest.approx(control, rel=0.03)
    assert found == pytest.approx(8**-0.5, rel=0.03)


def test_training_is_deterministic_reports_and_stops_early() -> None:
    epochs: list[Epoch] = []
    config = settings(epochs=40, patience=2)

    def once(progress: object) -> Autoencoder:
        return train(
            config,
            SMALL,
            gaussian(32, 1),
            gaussian(8, 2),
            provenance=Provenance.STATISTICS,
            seed=5,
            progress=progress,
        )

    first, second = once(epochs.append), once(lambda epoch: None)
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert 3 <= len(epochs) < 40
    assert all(epoch.of == 40 and np.isfinite([epoch.loss, epoch.holdout]).all() for epoch in epochs)


@pytest.mark.parametrize("network", ["mlp", "conv", "plain_conv"])
class TestEveryNetwork:
    def test_codes_are_as_long_as_updates_and_scale_with_them(
        self, trained: dict[str, Autoencoder], network: str
    ) -> None:
        codec, rows = trained[network], low_rank(4, 3)
        codes = codec.encode(rows)
        np.testing.assert_allclose(np.linalg.norm(codes, axis=1), np.linalg.norm(rows, axis=1), rtol=1e-4)
        np.testing.assert_allclose(codec.encode(rows * 1e-3), codes * 1e-3, rtol=1e-2, atol=1e-6)
        back = codec.decode(codes[0])
        np.testing.assert_allclose(codec.decode(codes[0] * 1e3), back * 1e3, rtol=1e-2, atol=1e-1)

    def test_zero_stays_zero_and_wild_numbers_pass(
        self, trained: dict[str, Autoencoder], network: str
    ) -> None:
        codec, rows = trained[network], low_rank(5, 4)
        rows[0], rows[1, 3], rows[2] = 0, np.nan, rows[2] * 1e6
        codes = codec.encode(rows)
        assert not codes[0].any()
        assert np.isnan(codes[1]).any()
        assert np.isfinite(codes[[2, 3]]).all()
        assert not codec.decode(np.zeros(codec.size)).any()

    def test_a_message_carries_it_bit_for_bit(self, trained: dict[str, Autoencoder], network: str) -> None:
        codec, schema = trained[network], wire.Schema(fields(1 << 20))
        sent = wire.encode(pack(codec), schema)
        received = unpack(wire.decode(sent, schema), codec.dimension)
        assert wire.encode(pack(received), schema) == sent
        rows = low_rank(6, 2)
        assert np.array_equal(received.encode(rows), codec.encode(rows))
        assert np.array_equal(received.decode(rows[0, : codec.size]), codec.decode(rows[0, : codec.size]))


def test_what_it_declares(trained: dict[str, Autoencoder]) -> None:
    codec = trained["conv"]
    assert not codec.additive
    assert codec.summable
    assert not codec.cross_client_state
    assert codec.sensitivity is Sensitivity.CLIP_AFTER_ENCODE
    check_sound(codec, private=True, sealed=True)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_codes_do_not_add(trained: dict[str, Autoencoder], network: str) -> None:
    """As declared: the decoded sum of codes is not the sum of what was decoded, by far more than rounding."""
    codec = trained[network]
    codes = codec.encode(low_rank(7, 2))
    once, each = codec.decode(codes.sum(axis=0)), codec.decode(codes[0]) + codec.decode(codes[1])
    assert np.linalg.norm(once - each) > 1e-2 * np.linalg.norm(each)


@pytest.mark.parametrize("network", ["mlp", "conv", "plain_conv"])
def test_networks_hold_no_statistics_of_a_batch(trained: dict[str, Autoencoder], network: str) -> None:
    """Nothing but weights travels: a BatchNorm would carry running statistics of other clients."""
    codec = trained[network]
    net = networks.build(codec.network, codec.block, codec.block_size, seed=0)
    assert not list(net.buffers())
    assert not [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert set(codec.weights) == {name for name, _ in net.named_parameters()}


def test_a_client_is_encoded_alone(trained: dict[str, Autoencoder]) -> None:
    """No BatchNorm: other rows of the batch change a code by rounding at most."""
    codec, rows = trained["conv"], low_rank(7, 3)
    rows[1:] *= 100
    np.testing.assert_allclose(codec.encode(rows)[0], codec.encode(rows[:1])[0], rtol=1e-4, atol=1e-4)


def test_impossible_ratios_and_weights_are_refused(trained: dict[str, Autoencoder]) -> None:
    with pytest.raises(PrivetError, match="halves the code"):
        train(
            settings(network="conv", ratio=10),
            SMALL,
            gaussian(1, 1),
            gaussian(1, 1),
            provenance=Provenance.SEED,
            seed=0,
        )
    body = trained["mlp"].to_body()
    for changes in (
        {"network": "transformer"},
        {"picture.0": np.zeros((3, 64), np.int64)},
        {"block": 60},
        {"block_size": 5},
        {"block_size": 1 << 24},
        {"weight.project.weight": np.zeros((2, 2), np.float32)},
    ):
        with pytest.raises(RoundAborted):
            Autoencoder.from_body(body | changes).encode(low_rank(0, 1))
