"""``mia.model``: was this record trained on? Asked of the final adapter alone, as anybody who downloads it could.

- LOSS: members have a smaller loss (Yeom et al., CSF 2018, arXiv 1709.01604).
- LOSS against the base model: the loss's fall from base to adapter, which takes the record's own difficulty out
  (the reference attack of Carlini et al., USENIX Security 2021, arXiv 2012.07805, with the base model as
  reference).
- min-k %: the mean log-probability of a text's k % least likely tokens (Shi et al., ICLR 2024, arXiv
  2310.16789).

Members are training records of the silos, others are their public test records. If the two were not drawn alike,
these attacks see that too: so the same scores on the base model, which met neither, stand beside them, and the
row of the base model says what of an AUC is not membership."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from privet.attacks import statistics
from privet.attacks.finding import Finding
from privet.pipeline import Floats
from privet.tokenise import Example
from privet.train import Backbone

MIN_K = 0.2
SEES = "the final adapter and the base model"


def findings(
    backbone: Backbone,
    adapter: Floats,
    members: Sequence[Example],
    others: Sequence[Example],
    *,
    private: bool,
    micro_batch: int = 16,
) -> list[Finding]:
    """AUC of each score, on the adapter and on the base model.

    Args:
        backbone: The run's model with the run's own adapters.
        adapter: The final trained values, float32 [D].
        members: Records that were trained on.
        others: Records that were not.
        private: Whether the run claims an epsilon.
        micro_batch: Records in a pass.
    """
    everything = [*members, *others]
    whole = [_whole_text(example) for example in everything]

    def measured(flat: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        backbone.set_flat(flat)
        losses = -backbone.losses(everything, micro_batch).astype(np.float64)
        worst = np.array([_least_likely(values) for values in backbone.token_losses(whole, micro_batch)])
        return losses, worst

    base, after = measured(backbone.initial_flat()), measured(adapter)
    rows = [
        ("LOSS", after[0], base[0]),
        ("LOSS against the base model", after[0] - base[0], None),
        (f"min-{100 * MIN_K:.0f} %", after[1], base[1]),
    ]
    count = len(members)
    found = []
    for name, scores, before in rows:
        area = statistics.area(scores[:count], scores[count:])
        beside = None if before is None else statistics.area(before[:count], before[count:]).value
        found.append(_row(name, area, beside, count, len(others), private))
    return found


def _row(
    name: str, area: statistics.Interval, beside: float | None, members: int, others: int, private: bool
) -> Finding:
    control = "" if beside is None else f" The base model, which met neither kind, gives {beside:.3f}."
    chance = area.low <= 0.5 <= area.high
    text = "Not told from chance; that proves nothing." if chance else "Above or below chance."
    return Finding(
        "mia.model",
        name,
        SEES,
        "AUC",
        area.value,
        area.low,
        area.high,
        "95 %, DeLong on the logit scale (asymptotic)",
        f"{members} members, {others} others",
        "reported",
        beside,
        text + control + ("" if private else " The run claims no epsilon."),
    )


def _whole_text(example: Example) -> Example:
    """The record with every token to be predicted."""
    supervised = np.ones(len(example), np.bool_)
    supervised[-1] = False
    return replace(example, supervised=supervised)


def _least_likely(losses: NDArray[np.float32]) -> float:
    """Mean log-probability of the least likely share of tokens."""
    if not len(losses):
        return 0.0
    count = max(1, int(MIN_K * len(losses)))
    return float(-np.sort(losses.astype(np.float64))[-count:].mean())
