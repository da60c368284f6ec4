"""Server optimisers over the flat vector of trained values (Reddi et al., arXiv 2003.00295, Algorithm 2).

The input is the decoded mean of contributions, a direction in which the loss falls. Everything here is
post-processing of what was opened: no privacy is spent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.config import OptimiserConfig
from privet.protocol import as_array
from privet.wire import Body

Vector = NDArray[np.float32]


@dataclass
class Optimiser:
    """``average``, ``momentum`` or ``adam`` with a step count; its state is in checkpoints.

    With ``normalise``, Adam's step is divided by the square root of the dimension, so that its Euclidean length is
    about the learning rate for any number of trained values: a noisy sum then moves the adapter no further than a
    clean one.

    Attributes:
        first: First moment, float32 [D]; empty for ``average``, which has none to keep and none to send.
        second: Second moment, float32 [D]; empty unless ``adam``.
        rounds: Steps planned, which the decay of the rate is laid out over.
        steps: Steps taken.
    """

    config: OptimiserConfig
    first: Vector
    second: Vector
    rounds: int
    steps: int = 0

    @classmethod
    def fresh(cls, config: OptimiserConfig, dimension: int, rounds: int) -> Optimiser:
        """An optimiser that has taken no step of ``rounds``."""
        moments = moment_sizes(config, dimension)
        first, second = (np.zeros(moments[name], np.float32) for name in ("first", "second"))
        return cls(config, first, second, rounds)

    def step(self, parameters: Vector, direction: Vector) -> Vector:
        """New parameters, float32 [D]: ``parameters`` moved along ``direction``."""
        c = self.config
        self.steps += 1
        rate = np.float32(c.learning_rate * rate_share(c, self.steps, self.rounds))
        moved: Vector = (parameters + rate * self._step(direction)).astype(np.float32)
        return moved

    def _step(self, direction: Vector) -> NDArray[Any]:
        """The step at rate 1."""
        c = self.config
        if c.kind == "average":
            return direction
        self.first = (c.momentum * self.first + (1 - c.momentum) * direction).astype(np.float32)
        if c.kind == "momentum":
            return self.first
        self.second = (c.beta2 * self.second + (1 - c.beta2) * direction * direction).astype(np.float32)
        mean = self.first / (1 - c.momentum**self.steps)
        scale = np.sqrt(self.second / (1 - c.beta2**self.steps)) + c.epsilon
        length = np.sqrt(len(direction)) if c.normalise else 1.0
        step: NDArray[Any] = mean / scale / length
        return step

    def to_body(self) -> Body:
        """State for a checkpoint."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def restore(self, body: Body) -> None:
        """Take back what :meth:`to_body` gave."""
        self.first, self.second = as_array(body, "first"), as_array(body, "second")
        self.steps = int(body["steps"])


def rate_share(config: OptimiserConfig, step: int, rounds: int) -> float:
    """Share of the learning rate that a step is taken with.

    It rises linearly over the warm-up, then falls: linearly, or as half a cosine (Loshchilov and Hutter,
    arXiv 1608.03983, eq. 5, without restarts). The first step after the warm-up has the full rate, and the step after
    the last planned one would have none. It follows from public numbers alone, so a resumed run needs no state for it.

    Args:
        config: The optimiser.
        step: Number of the step, from 1.
        rounds: Steps planned.
    """
    if step <= config.warmup_rounds:
        return step / config.warmup_rounds
    if config.decay == "none":
        return 1.0
    done = min(1.0, (step - 1 - config.warmup_rounds) / (rounds - config.warmup_rounds))
    return 1.0 - done if config.decay == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)


def moment_sizes(config: OptimiserConfig, dimension: int) -> dict[str, int]:
    """Values of each moment that an optimiser keeps for ``dimension`` trained values."""
    return {
        "first": 0 if config.kind == "average" else dimension,
        "second": dimension if config.kind == "adam" else 0,
    }
