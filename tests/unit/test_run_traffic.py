"""Forecast bytes of codecs: the networks' weights, and one codec for as long as it stays the same."""

from __future__ import annotations

import math

import pytest

from privet.codec_config import AutoencoderCodec, CodecConfig, PruneCodec, PublicSubspaceCodec
from privet.codecs.networks import NetworkKind, build
from privet.config import OptimiserConfig
from privet.run_traffic import RunTraffic, codec_weights, network_weights


@pytest.mark.parametrize("network", ["mlp", "conv", "plain_conv"])
@pytest.mark.parametrize("ratio", [2, 16, 64])
def test_weights_are_those_of_the_network(network: NetworkKind, ratio: int) -> None:
    codec = AutoencoderCodec(network=network, ratio=ratio, block=128)
    shape = (128, 128 // ratio) if network == "mlp" else (ratio, 1)
    expected = sum(math.prod(weight.shape) for weight in build(network, *shape, seed=0).parameters())
    assert network_weights(codec, ratio) == codec_weights(codec) == expected


def down(codec: CodecConfig, rounds: int, values: int = 50) -> float:
    """Bytes to one client in all rounds."""
    traffic = RunTraffic(1000, 4, [values] * rounds, codec, OptimiserConfig(), encrypted=False)
    return traffic.a_round().down * rounds


def test_a_codec_counts_when_it_changes() -> None:
    subspace = PublicSubspaceCodec(size=50, refresh_rounds=3)
    once, twice = 4 * 50 * 1000, 4 * 50 * 1000 * 2
    assert once < down(subspace, 1) < down(subspace, 3) < once + 3 * 5000
    assert twice < down(subspace, 4) < twice + 4 * 5000
    learned = AutoencoderCodec(network="mlp", ratio=4, block=64)
    size = 4 * (1000 + codec_weights(learned))
    assert size < down(learned, 1) < down(learned, 20) < size + 20 * 5000
    pruned = PruneCodec(mask="seed", start_round=0, start_rate=0.5)
    assert down(pruned, 8) > 7.9 * down(pruned, 1) - 1000
