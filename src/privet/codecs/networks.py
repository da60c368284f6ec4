"""The autoencoders' networks: the only codec module that imports torch, and imported when first needed.

Both networks work on numbers scaled to a root mean square of one and look at one contribution at a time:
there is no BatchNorm, so no client's code depends on another client.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input (He et al., arXiv 1603.05027: norm and ReLU come first)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, H, W] to the same shape."""
        out: Tensor = x + self.body(x)
        return out


class Shortcut(nn.Module):
    """Linear maps past both stacks: patches of 2^s x 2^s pixels to 2^s numbers and back.

    They start as a random projection of each patch with orthonormal rows and its transpose, and the stacks'
    share starts at zero: training starts where the control stands.
    """

    def __init__(self, strides: int) -> None:
        super().__init__()
        side = 1 << strides
        self.project = nn.Conv2d(1, side, side, stride=side, bias=False)
        self.expand = nn.ConvTranspose2d(side, 1, side, stride=side, bias=False)
        self.gains = nn.Parameter(torch.zeros(2))
        nn.init.orthogonal_(self.project.weight)
        with torch.no_grad():
            self.expand.weight.copy_(self.project.weight * side**-0.5)

    def encode(self, x: Tensor, correction: Tensor) -> Tensor:
        """Pictures [b, 1, H, W] and the encoder's [b, 2^s, h, w] to a code."""
        out: Tensor = self.project(x) + self.gains[0] * correction
        return out

    def decode(self, code: Tensor, correction: Tensor) -> Tensor:
        """Codes [b, 2^s, h, w] and the decoder's [b, 1, H, W] to pictures."""
        out: Tensor = self.expand(code) + self.gains[1] * correction
        return out


class ConvNet(nn.Module):
    """The ResNet autoencoder of CG-FedLLM (arXiv 2405.13746, section 3), with GroupNorm for BatchNorm.

    A 3x3 stem, ``strides`` blocks of stride 2 that double the channels from 2, and three residual blocks; the
    decoder mirrors them. Each block quarters the pixels and doubles the channels, so the code is 2^strides
    times smaller. Six blocks (channels 2 to 64) are the paper's.

    The plain stack hardly trains: on pictures without structure it stays below a random projection. With
    ``shortcut`` it corrects a linear map of whole patches, as a residual block corrects the identity (He et
    al., arXiv 1512.03385).
    """

    def __init__(self, strides: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = Shortcut(strides) if shortcut else None
        channels = [2, *(2 << step for step in range(strides))]
        last = channels[-1]
        down: list[nn.Module] = [nn.Conv2d(1, 2, 3, padding=1)]
        for before, after in pairwise(channels):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.ReLU()]
        # The last convolution has no ReLU: half the code would be zero otherwise.
        self.encoder = nn.Sequential(*down, *(Residual(last) for _ in range(3)), nn.Conv2d(last, last, 1))
        up: list[nn.Module] = [nn.Conv2d(last, last, 1), *(Residual(last) for _ in range(3))]
        for before, after in pairwise(reversed(channels)):
            up += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1),
                nn.GroupNorm(1, after),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*up, nn.Conv2d(channels[0], 1, 3, padding=1))

    def encode(self, x: Tensor) -> Tensor:
        """[b, H, W] to [b, 2^s, H / 2^s, W / 2^s]."""
        out: Tensor = self.encoder(x[:, None])
        return out if self.shortcut is None else self.shortcut.encode(x[:, None], out)

    def decode(self, code: Tensor) -> Tensor:
        """Back to [b, H, W]."""
        out: Tensor = self.decoder(code)
        return (out if self.shortcut is None else self.shortcut.decode(code, out))[:, 0]


class BlockMlp(nn.Module):
    """A linear map with a small correction, the same one for each block of ``block`` numbers.

    The linear parts start as one random projection with orthonormal rows and its transpose, so training
    starts where the control stands and can only be worth something if it gets above it.
    """

    def __init__(self, block: int, size: int) -> None:
        super().__init__()
        hidden = 2 * size
        self.project = nn.Linear(block, size, bias=False)
        self.expand = nn.Linear(size, block, bias=False)
        to_code, from_code = nn.Linear(hidden, size), nn.Linear(hidden, block)
        self.encoder = nn.Sequential(nn.Linear(block, hidden), nn.GELU(), to_code)
        self.decoder = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), from_code)
        nn.init.orthogonal_(self.project.weight)
        with torch.no_grad():
            self.expand.weight.copy_(self.project.weight.T * math.sqrt(size / block))
        for correction in (to_code, from_code):
            nn.init.zeros_(correction.weight)
            nn.init.zeros_(correction.bias)

    def encode(self, x: Tensor) -> Tensor:
        """[b, n, block] to [b, n, size]."""
        out: Tensor = self.project(x) + self.encoder(x)
        return out

    def decode(self, code: Tensor) -> Tensor:
        """Back to [b, n, block]."""
        out: Tensor = self.expand(code) + self.decoder(code)
        return out


Network = ConvNet | BlockMlp
NetworkKind = Literal["conv", "plain_conv", "mlp"]


def build(network: NetworkKind, block: int, size: int, seed: int) -> Network:
    """A fresh network; ``seed`` fixes its weights and leaves torch's global generator alone.

    Args:
        network: Which.
        block: Numbers in a block of ``mlp``; otherwise how many times the code is smaller, a power of two.
        size: Numbers in a block's code of ``mlp``; otherwise 1.
        seed: Public seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network == "mlp":
            return BlockMlp(block, size)
        return ConvNet(block.bit_length() - 1, shortcut=network == "conv")
