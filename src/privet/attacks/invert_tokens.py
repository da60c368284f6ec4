"""``invert.tokens``: which tokens one client's message holds.

The gradient of a factor A is a mix of the inputs of its layer: dA = s sum_t (B^T dy_t) x_t^T. In the first layer
x_t depends on the token alone, so dA's rows lie in the span of few rows of a public dictionary, and a pursuit
finds them (`pursuit.py`; the span argument is that of DAGER, Petrov et al., NeurIPS 2024, arXiv 2405.15586,
which needs full rank; a LoRA's few rows need sparsity instead). B must not be zero, hence after a step.

Recall counts private tokens: those that are not in every public record. It is compared with an attacker who has
no message and guesses as many of the commonest tokens of public records. A failed inversion proves nothing about
privacy: a noise that stops it may still leave an epsilon in the hundreds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from privet.attacks import statistics
from privet.attacks.control import Prepared, last_round, prior_recall
from privet.attacks.finding import Finding
from privet.attacks.pursuit import Matrix, pursue, pursue_masked
from privet.attacks.rehearsal import Rehearsed
from privet.codecs.prune import Prune
from privet.pipeline import Floats
from privet.tokenise import Example


def recovered(prepared: Prepared, rows: Matrix, most: int, floor: float = 0.0) -> tuple[int, ...]:
    """Private tokens that the rows of a gradient of A hold, most certain first.

    Args:
        prepared: The control's adapters.
        rows: float32 [n, d].
        most: Tokens to name at most.
        floor: Standard deviation of what rounding adds to each value.
    """
    if not len(rows) or not np.any(rows):
        return ()
    return pursue(rows, prepared.dictionary, most, known=prepared.template, floor=floor).chosen


def recall_of(prepared: Prepared, direction: Floats, victims: Sequence[Example], floor: float = 0.0) -> float:
    """Share of the victims' private tokens that a direction [D] gives up; as many guesses as there are tokens."""
    private = prepared.private_tokens(victims)
    named = recovered(prepared, prepared.rows(direction), len(private), floor)
    return len(private & set(named)) / max(1, len(private))


def message_recalls(
    prepared: Prepared, rehearsed: Rehearsed, records: Mapping[str, Sequence[Example]]
) -> list[float]:
    """Recall from each client's message in the last round, read from its bytes."""
    seen = last_round(rehearsed)
    number = rehearsed.transcript.rounds.index(seen)
    recalls = []
    for party, own in enumerate(records.values()):
        direction = seen.direction(rehearsed.transcript.in_the_clear(number, party))
        if isinstance(seen.codec, Prune):
            recalls.append(_pruned_recall(prepared, direction, seen.codec, own))
        else:
            floor = seen.rounding_noise if seen.codec is None else 0.0
            recalls.append(recall_of(prepared, direction, own, floor))
    return recalls


def _pruned_recall(prepared: Prepared, direction: Floats, codec: Prune, victims: Sequence[Example]) -> float:
    """Recall from a direction of which a public mask left some coordinates."""
    private = prepared.private_tokens(victims)
    kept = prepared.rows(codec.mask.astype(np.float32)) > 0
    rows = prepared.rows(direction)
    found = pursue_masked(rows, kept, prepared.dictionary, len(private), known=prepared.template)
    return len(private & set(found.chosen)) / max(1, len(private))


@dataclass(frozen=True)
class Trial:
    """One inversion under noise.

    Attributes:
        recall: Share of the victims' private tokens that were named.
        prior: The same for the commonest tokens of public records.
        decoys: The same guesses held against records that took no part.
    """

    recall: float
    prior: float
    decoys: tuple[float, ...]


def trial(
    prepared: Prepared, direction: Floats, victims: Sequence[Example], decoys: Sequence[Sequence[Example]]
) -> Trial:
    """Invert a direction [D] and hold the guesses against the victims and against decoys."""
    private = prepared.private_tokens(victims)
    named = set(recovered(prepared, prepared.rows(direction), len(private)))

    def share(examples: Sequence[Example]) -> float:
        tokens = prepared.private_tokens(examples)
        return len(tokens & named) / max(1, len(tokens))

    prior = prior_recall(prepared, victims, len(private))
    return Trial(share(victims), prior, tuple(share(each) for each in decoys))


def finding(
    setting: str, recalls: Sequence[float], *, sees: str, control: bool, attack: str = "invert.tokens"
) -> Finding:
    """Mean recall over messages."""
    found = statistics.mean(np.array(recalls))
    return Finding(
        attack,
        setting,
        sees,
        "recall of private tokens",
        found.value,
        found.low,
        found.high,
        "95 %, Hoeffding, over messages",
        f"{len(recalls)} message{'s' if len(recalls) != 1 else ''}",
        "leaks" if found.value > 0.5 else "not applicable",
        text="The tokens of the records stand in the message." if found.value > 0.5 else FAILED,
        control=control,
    )


FAILED = "The attack fails even without protection, so it shows nothing here."


def against_prior(
    setting: str,
    trials: Sequence[Trial],
    *,
    sees: str,
    alarm: float,
    reason: str | None,
) -> Finding:
    """Recall under noise beside that of an attacker without the message.

    If the message tells nothing of the victims, they are as good as any decoys: a permutation test, exact.

    Args:
        setting: What was attacked.
        trials: What each trial named, and whom it could have named.
        sees: What the attacker sees.
        alarm: Probability that an attacker who learns nothing is called a leak, at most.
        reason: Why the run claims no epsilon, where it claims none: then more tokens than that break no promise.
    """
    found = statistics.mean(np.array([trial.recall for trial in trials]))
    without = float(np.mean([trial.prior for trial in trials]))
    p = statistics.stands_out([trial.recall for trial in trials], [trial.decoys for trial in trials])
    beyond = p <= alarm
    more = "More tokens come out than an attacker without the message names"
    return Finding(
        "invert.tokens",
        setting,
        sees,
        "recall of private tokens",
        found.value,
        found.low,
        found.high,
        "95 %, Hoeffding, over trials",
        f"{len(trials)} trials",
        "holds" if not beyond else "leaks" if reason else "alarm",
        without,
        f"{more}. No epsilon is claimed: {reason}."
        if beyond and reason
        else f"{more}."
        if beyond
        else f"Not above other records of the same silos (p = {p:.2f}, exact permutation test); an attacker without "
        f"the message names {without:.2f} of them. That proves no privacy: the epsilon does, or nothing.",
    )
