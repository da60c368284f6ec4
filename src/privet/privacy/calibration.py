"""The least noise that keeps to an epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from privet.errors import PrivetError
from privet.privacy.accountants import headline
from privet.privacy.events import AnyRelease, Relation


def calibrate(
    make_releases: Callable[[float], Sequence[AnyRelease]],
    target_epsilon: float,
    delta: float,
    relation: Relation = "zero-out",
    *,
    tolerance: float = 1e-3,
) -> float:
    """The smallest noise multiplier, to a relative ``tolerance`` in epsilon, that keeps to the target.

    Args:
        make_releases: The planned releases at a noise multiplier; more noise must not raise epsilon.
        target_epsilon: Headline epsilon not to exceed, for the observer that ``make_releases`` describes.
        delta: The delta to promise.
        relation: Neighbouring relation.
        tolerance: How far below the target epsilon may stay, relative.

    Returns:
        A noise multiplier that was verified: ``headline(make_releases(it), delta, relation) <=
        target_epsilon``.

    Raises:
        PrivetError: if the target is not positive, or no noise reaches it.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise PrivetError(
            "a target epsilon is positive",
            field="epsilon",
            given=target_epsilon,
            allowed="a finite number > 0",
        )

    def excess(log_sigma: float) -> float:
        value = headline(make_releases(math.exp(log_sigma)), delta, relation)
        return math.log(max(value, 1e-9) / target_epsilon) if math.isfinite(value) else math.inf

    low, low_excess, high, high_excess = _bracket(excess, target_epsilon)
    for step in range(60):
        if -tolerance <= high_excess <= 0 or high - low < 1e-9:
            break
        # Regula falsi on a nearly straight log-log curve; every third step bisects, so the bracket surely
        # shrinks.
        middle = (low + high) / 2
        if step % 3 < 2 and math.isfinite(low_excess):
            secant = low + (high - low) * (low_excess + tolerance / 2) / (low_excess - high_excess)
            middle = min(max(secant, low + 0.01 * (high - low)), high - 0.01 * (high - low))
        if (at := excess(middle)) <= 0:
            high, high_excess = middle, at
        else:
            low, low_excess = middle, at
    return math.exp(high)


def _bracket(excess: Callable[[float], float], target_epsilon: float) -> tuple[float, float, float, float]:
    """Log noise multipliers with too large and small enough an epsilon, each with its excess."""
    at = low = high = 0.0
    low_excess = high_excess = excess(0.0)
    step = math.log(2) if low_excess > 0 else -math.log(2)
    while (low_excess > 0) == (high_excess > 0):
        at, step = at + step, 1.5 * step
        if not math.log(1e-3) < at < math.log(1e9):
            raise PrivetError(
                "no amount of noise reaches this epsilon" if at > 0 else "this epsilon needs no noise",
                field="epsilon",
                given=target_epsilon,
                hint="another release in the run already costs more, or has no finite epsilon"
                if at > 0
                else None,
            )
        if at > 0:
            low, low_excess, high, high_excess = high, high_excess, at, excess(at)
        else:
            low, low_excess, high, high_excess = at, excess(at), low, low_excess
    return low, low_excess, high, high_excess
