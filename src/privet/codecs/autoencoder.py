"""A learned codec: a convolutional ResNet over stacked factors (CG-FedLLM), or a small MLP over blocks.

Both halves are made positively homogeneous: a picture is scaled to a root mean square of one before the
network, and its code is scaled to the picture's length after it. So a code is exactly as long as what it
stands for (the clip cuts codes as it would cut updates), an update twice as large has a code twice as large,
and zero stays zero. The direction of the sum of codes is decoded as if it were one client's: the decoder is
not linear, ``additive`` is false.

The arrays travel; torch is imported when a contribution is first encoded or decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import (
    FloatArray,
    Provenance,
    Sensitivity,
    as_batch,
    as_code,
    body_int,
    body_provenance,
    body_str,
)
from privet.codecs.folding import Picture
from privet.protocol import RoundAborted, as_array
from privet.wire import Body

if TYPE_CHECKING:
    from torch import Tensor

    from privet.codecs.networks import Network

NetworkKind = Literal["conv", "plain_conv", "mlp"]
NETWORKS: tuple[NetworkKind, ...] = get_args(NetworkKind)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """An autoencoder whose weights no longer change.

    Attributes:
        dimension: D.
        network: Which one.
        block: Numbers in a block of ``mlp``; otherwise the ratio 2^strides.
        block_size: Numbers in the code of a block of ``mlp``; otherwise 1.
        pictures: int64 [H, W] each; see :mod:`privet.codecs.folding`. Rows of an ``mlp`` picture are blocks.
        weights: float32 arrays by their names in the network.
        provenance: What the network was trained on.
    """

    kind: ClassVar[str] = "autoencoder"
    additive: ClassVar[bool] = False
    summable: ClassVar[bool] = True
    cross_client_state: ClassVar[bool] = False
    sensitivity: ClassVar[Sensitivity] = Sensitivity.CLIP_AFTER_ENCODE
    dimension: int
    network: NetworkKind
    block: int
    block_size: int
    pictures: tuple[Picture, ...]
    weights: Mapping[str, FloatArray]
    provenance: Provenance

    @property
    def size(self) -> int:
        """k, padding included."""
        return sum(self.code_size(picture) for picture in self.pictures)

    def code_size(self, picture: Picture) -> int:
        """Numbers in the code of one picture."""
        return picture.size * self.block_size // self.block

    def encode(self, batch: FloatArray) -> FloatArray:
        """Codes [b, k] of updates [b, D], picture by picture; each as long as the picture."""
        import torch

        rows, codes = as_batch(batch, self.dimension), []
        with torch.no_grad(), np.errstate(all="ignore"):
            for picture in self.pictures:
                pixels = gather(rows, picture)
                length = _lengths(pixels)
                unit = pixels / _nonzero(length / np.sqrt(held(picture)))[:, None, None]
                code = (
                    self._net.encode(torch.from_numpy(unit.astype(np.float32))).numpy().reshape(len(rows), -1)
                )
                codes.append(code * (length / _nonzero(_lengths(code)))[:, None])
        return np.concatenate(codes, axis=1, dtype=np.float32)

    def decode(self, total: NDArray[np.floating[Any]]) -> FloatArray:
        """The update [D] that a code, or a sum or mean of codes, [k] stands for."""
        import torch

        code, out, start = as_code(total, self.size), np.zeros(self.dimension, np.float32), 0
        with torch.no_grad(), np.errstate(all="ignore"):
            for picture in self.pictures:
                part = code[None, start : start + self.code_size(picture)]
                start += part.shape[1]
                length = _lengths(part)
                unit = part / _nonzero(length / np.sqrt(part.shape[1]))[:, None]
                shaped = torch.from_numpy(unit.astype(np.float32).reshape(1, *self._code_shape(picture)))
                pixels = self._net.decode(shaped).numpy()[0] * (length[0] / np.sqrt(held(picture)))
                out[picture[picture >= 0]] = pixels[picture >= 0]
        return out

    def _code_shape(self, picture: Picture) -> tuple[int, ...]:
        height, width = picture.shape
        if self.network == "mlp":
            return (height, self.block_size)
        return (self.block, height // self.block, width // self.block)

    @cached_property
    def _net(self) -> Network:
        import torch

        from privet.codecs.networks import build

        # Its shapes first, which take no memory: whoever sent the codec chose how large the network is.
        with torch.device("meta"):
            shapes = build(self.network, self.block, self.block_size, seed=0)
        wanted = {name: tuple(value.shape) for name, value in shapes.state_dict().items()}
        if wanted != {name: value.shape for name, value in self.weights.items()}:
            raise RoundAborted("codec message: the weights do not fit the network")
        net = build(self.network, self.block, self.block_size, seed=0)
        weights: dict[str, Tensor] = {n: torch.from_numpy(w.copy()) for n, w in self.weights.items()}
        net.load_state_dict(weights)
        return net.eval()

    def to_body(self) -> Body:
        """Pictures and weights under their names."""
        body: Body = {
            "kind": self.kind,
            "dimension": self.dimension,
            "network": self.network,
            "block": self.block,
            "block_size": self.block_size,
            "pictures": len(self.pictures),
            "provenance": self.provenance.name,
        }
        body |= {f"picture.{index}": picture for index, picture in enumerate(self.pictures)}
        body |= {f"weight.{name}": self.weights[name] for name in sorted(self.weights)}
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Autoencoder:
        """The codec of a message.

        Raises:
            RoundAborted: if the pictures do not hold every number of the dimension once, or fit no such
                network.
        """
        dimension, name = body_int(body, "dimension"), body_str(body, "network")
        network = next((known for known in NETWORKS if known == name), None)
        if network is None:
            raise RoundAborted("codec message names an unknown network")
        block, block_size = body_int(body, "block"), body_int(body, "block_size")
        pictures = tuple(as_array(body, f"picture.{i}") for i in range(body_int(body, "pictures")))
        if any(picture.dtype != np.int64 or picture.ndim != 2 for picture in pictures):
            raise RoundAborted("codec message: a picture is no matrix of positions")
        held_positions = np.sort(
            np.concatenate([p.reshape(-1) for p in pictures] or [np.array([], np.int64)])
        )
        held_positions = held_positions[held_positions >= 0]
        if len(held_positions) != dimension or not np.array_equal(held_positions, np.arange(dimension)):
            raise RoundAborted("codec message: the pictures do not hold each number once")
        sides = (1, block) if network == "mlp" else (block, block)
        if block < 1 or any(p.shape[0] % sides[0] or p.shape[1] % sides[1] for p in pictures):
            raise RoundAborted("codec message: the pictures do not fit the network")
        prefix = "weight."
        weights = {key.removeprefix(prefix): as_array(body, key) for key in body if key.startswith(prefix)}
        return cls(dimension, network, block, block_size, pictures, weights, body_provenance(body))


def gather(rows: FloatArray, picture: Picture) -> FloatArray:
    """The pixels [b, H, W] of a picture in updates [b, D]; zeros where it is padded."""
    pixels = rows[:, picture]
    pixels[:, picture < 0] = 0.0
    return pixels


def held(picture: Picture) -> int:
    """Numbers in a picture, padding left out."""
    return int(np.count_nonzero(picture >= 0))


def _lengths(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", flat, flat)))


def _nonzero(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(lengths == 0, 1.0, lengths)
