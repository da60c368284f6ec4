"""Training an autoencoder on synthetic updates (DR-Encoder) or on given ones (CG-FedLLM).

The loss is the mean relative squared error of pictures, so small kinds of factors count as much as large
ones. A hold-out from the same source stops training when it no longer gains; the best weights so far are
kept. What a network is worth is measured elsewhere, on real updates (:mod:`privet.codecs.fidelity`): on
samples from a Gaussian prior no network can do better than a random projection does, since there is nothing
to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from privet.codec_config import AutoencoderCodec
from privet.codecs.autoencoder import Autoencoder, gather, held
from privet.codecs.base import FloatArray, Layout, Provenance, dimension_of
from privet.codecs.folding import Picture, blocks_of, pictures_of
from privet.codecs.prior import TensorStatistics
from privet.errors import PrivetError

if TYPE_CHECKING:
    from torch import Tensor

    from privet.codecs.networks import Network


@dataclass(frozen=True)
class Epoch:
    """One pass over the training updates.

    Attributes:
        number: From 1.
        of: Passes at most.
        loss: Mean relative squared error while training.
        holdout: The same on the hold-out after the pass.
    """

    number: int
    of: int
    loss: float
    holdout: float


class Updates(Protocol):
    """A source of updates, float32 [n, D] by their numbers, the same at every call."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int]) -> FloatArray:
        """The updates with these numbers."""
        ...


@dataclass(frozen=True)
class SyntheticUpdates:
    """Samples of a prior; each is drawn again when asked for, so none is kept in memory.

    Attributes:
        statistics: The prior.
        count: How many.
        seed: Public seed; another one gives other samples.
    """

    statistics: TensorStatistics
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def batch(self, numbers: Sequence[int]) -> FloatArray:
        """The samples with these numbers."""
        return np.concatenate([self.statistics.sample(1, (self.seed, number)) for number in numbers])


@dataclass(frozen=True, eq=False)
class GivenUpdates:
    """Updates in memory, float32 [n, D]."""

    rows: FloatArray

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, numbers: Sequence[int]) -> FloatArray:
        """The rows with these numbers."""
        return self.rows[list(numbers)]


def train(
    config: AutoencoderCodec,
    layout: Layout,
    updates: Updates,
    holdout: Updates,
    *,
    provenance: Provenance,
    seed: int,
    ratio: float | None = None,
    progress: Callable[[Epoch], None] = lambda epoch: None,
) -> Autoencoder:
    """An autoencoder for the tensors of ``layout``; the same arguments give the same weights again.

    Args:
        config: Network, epochs, step size.
        layout: Names and shapes of the tensors that it encodes.
        updates: What it learns from.
        holdout: What decides when to stop.
        provenance: What both were drawn from; travels with the codec.
        seed: Public seed of weights and order.
        ratio: Instead of the configured one.
        progress: Called after each epoch.

    Raises:
        PrivetError: if ``conv`` is asked for a ratio that is no power of two up to 64, or for too small an
            adapter.
    """
    import torch

    from privet.codecs.networks import build

    pictures, block, block_size = shape_of(config, layout, config.ratio if ratio is None else ratio)
    net = build(config.network, block, block_size, seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
    order = np.random.Generator(np.random.Philox(seed=np.random.SeedSequence([seed, 1])))
    best, kept, stale = float("inf"), _copy(net), 0
    for number in range(1, config.epochs + 1):
        total, shuffled = 0.0, order.permutation(len(updates))
        for start in range(0, len(updates), config.batch_size):
            chosen = shuffled[start : start + config.batch_size].tolist()
            optimiser.zero_grad()
            loss = _loss(net, updates.batch(chosen), pictures)
            # torch ships no types for backward.
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
        with torch.no_grad():
            held_out = _mean_loss(net, holdout, pictures, config.batch_size)
        progress(Epoch(number, config.epochs, total / len(updates), held_out))
        if held_out < best * (1 - 1e-3):
            best, kept, stale = held_out, _copy(net), 0
        else:
            stale += 1
        if stale >= config.patience:
            break
    return Autoencoder(
        dimension_of(layout), config.network, block, block_size, tuple(pictures), kept, provenance
    )


def shape_of(config: AutoencoderCodec, layout: Layout, ratio: float) -> tuple[list[Picture], int, int]:
    """Pictures, numbers in a block and numbers in its code.

    Raises:
        PrivetError: see :func:`train`.
    """
    if config.network == "mlp":
        blocks = blocks_of(layout, config.block)
        return blocks, blocks[0].shape[1], max(1, round(blocks[0].shape[1] / ratio))
    if ratio not in {2, 4, 8, 16, 32, 64}:
        raise PrivetError(
            "each stride-2 block halves the code",
            field="codec.ratio",
            given=ratio,
            allowed="2, 4, 8, 16, 32 or 64",
            hint="or set `network: mlp`, which takes any ratio",
        )
    return pictures_of(layout, int(ratio)), int(ratio), 1


def _loss(net: Network, rows: FloatArray, pictures: Sequence[Picture]) -> Tensor:
    """Mean over pictures of the squared error of pictures scaled to a mean square of one."""
    import torch

    losses = []
    for picture in pictures:
        pixels = torch.from_numpy(gather(rows, picture))
        unit = pixels / pixels.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None] * held(picture) ** 0.5
        code = net.encode(unit)
        length = code.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, *[1] * (code.dim() - 1))
        back = net.decode(code / length * (code[0].numel() ** 0.5))
        losses.append((back - unit).square().sum() / (held(picture) * len(rows)))
    return torch.stack(losses).mean()


def _mean_loss(net: Network, updates: Updates, pictures: Sequence[Picture], batch_size: int) -> float:
    total = 0.0
    for start in range(0, len(updates), batch_size):
        numbers = range(start, min(start + batch_size, len(updates)))
        total += float(_loss(net, updates.batch(numbers), pictures)) * len(numbers)
    return total / len(updates)


def _copy(net: Network) -> dict[str, FloatArray]:
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}
