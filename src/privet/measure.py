"""How good an adapter is on public test records: accuracy over the verbalisers, and loss.

For a task with choices the loss is the negative log-likelihood of the right choice among the choices, in nats; else it
is that of the record's completion. Means over silos weigh every silo alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binomtest

from privet.material import Material, Question
from privet.pipeline import Floats


def measure(material: Material, flat: Floats, micro_batch: int) -> Iterator[dict[str, Any]]:
    """One row a silo or domain: records, accuracy with its 95 % Wilson interval, mean NLL with its standard error.

    Args:
        material: Model and public test questions.
        flat: Trained values, float32 [D].
        micro_batch: Sequences in a pass.
    """
    material.trainer.set_flat(flat)
    # Together, since a silo's few questions would leave most of a pass empty.
    everything = [q for questions in material.test.values() for q in questions]
    material.trainer.backbone.warm([e for q in everything for e in q.choices or (q.example,)])
    for name, questions in material.test.items():
        if questions:
            yield {"silo": name, **score(material, questions, micro_batch)}


def score(material: Material, questions: Sequence[Question], micro_batch: int) -> dict[str, Any]:
    """Metrics of the adapter that is set, on some questions."""
    count = len(questions)
    row: dict[str, Any] = {"records": count, "accuracy": None, "accuracy_low": None, "accuracy_high": None}
    nll, correct = losses(material, questions, micro_batch)
    if correct is not None:
        right = int(correct.sum())
        interval = binomtest(right, count).proportion_ci(method="wilson")
        row |= {"accuracy": right / count, "accuracy_low": interval.low, "accuracy_high": interval.high}
    error = float(nll.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return {**row, "nll": float(nll.mean()), "nll_se": error}


def losses(
    material: Material, questions: Sequence[Question], micro_batch: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """NLL of each question under the adapter that is set, float64 [n], and whether the right choice was the likeliest.

    The second is ``None`` for a task without choices.
    """
    backbone = material.trainer.backbone
    if not questions[0].choices:
        return backbone.losses([q.example for q in questions], micro_batch).astype(np.float64), None
    scores = np.array(backbone.choice_scores([q.choices for q in questions], micro_batch), np.float64)
    labels = np.array([q.label for q in questions])
    nll = logsumexp(scores, axis=1) - scores[np.arange(len(questions)), labels]
    return nll, scores.argmax(axis=1) == labels


def means(rows: Sequence[dict[str, Any]], when: str) -> dict[str, float | None]:
    """Accuracy and NLL averaged over silos at one point of a run, from the rows of ``metrics.jsonl``."""
    chosen = [row for row in rows if row["when"] == when]

    def mean(name: str) -> float | None:
        values = [row[name] for row in chosen if row[name] is not None]
        return float(np.mean(values)) if values else None

    return {"accuracy": mean("accuracy"), "nll": mean("nll")}
