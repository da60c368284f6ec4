"""``invert.sequence``: a client's text word for word, in order, out of one message.

The first layer's gradient names the tokens (`invert_tokens.py`) and not their order, since where positions enter
by rotation a token's input there is the same everywhere. The input of the second layer at a position depends on
all tokens up to it. So a text is read from its first token on: among the named tokens the next one is that whose
input, behind those already read, lies in the span of the rows of the second layer's gradient of A (the span check
of DAGER, Petrov et al., NeurIPS 2024, arXiv 2405.15586, for full gradients). A few texts are kept at each length.
A text that ends like the public template is *checked*: the attacker computes its gradient for each answer that
the template knows, and stops where that is the message. So a text is found with proof, answer included.

The span check needs about as many rows of A as the text has tokens. The control therefore has adapters of rank
`RANK`; with the run's own rank only short texts are found, which its row counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet.attacks import control, statistics
from privet.attacks.control import Prepared
from privet.attacks.finding import Finding, not_applicable
from privet.attacks.invert_tokens import FAILED
from privet.attacks.layer_inputs import LayerInputs
from privet.attacks.pursuit import Matrix, pursue
from privet.config import Config
from privet.material import answer_tokens
from privet.pipeline import Floats, Round
from privet.tokenise import Example

RANK = 32
"""Rank of the control's adapters: queries and values then give 64 rows."""
LONGEST = 56
"""Tokens of the texts that the control is made with, where the layer is wide enough."""
CROWDED = 8
"""Values of a layer's input per token at least: in a narrower layer other inputs lie close to the span as well."""
WIDTH = 4
"""Texts of a length that are kept at most."""
MARGIN = 0.05
"""A text is dropped that lies so much farther from the span than the best of its length, summed over positions."""
ENOUGH = 1e-4
"""Share of the first layer's gradient that may be left over when tokens are named."""
ABOVE = 3.0
"""Singular values below so many times the largest that rounding alone makes do not count."""
VERIFIED = 0.02
"""Relative distance from the message below which a text's own gradient is that of the message."""
SEES = "one client's message, not sealed, no noise"

Basis = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """What every record begins and ends with: the public template.

    Attributes:
        begin: Tokens before the text.
        end: Tokens behind it, before the answer.
        answers: Tokens that may be the answer.
    """

    begin: tuple[int, ...]
    end: tuple[int, ...]
    answers: tuple[int, ...]

    @classmethod
    def of(cls, texts: Sequence[tuple[int, ...]], answers: Sequence[int]) -> Frame:
        """What all texts have in common at both ends.

        Args:
            texts: Tokens of public records without the answer.
            answers: Tokens of the answers.
        """
        shortest = min(map(len, texts))
        begin = next((i for i in range(shortest) if len({t[i] for t in texts}) > 1), shortest)
        end = next((i for i in range(shortest - begin) if len({t[-1 - i] for t in texts}) > 1), 0)
        return cls(texts[0][:begin], texts[0][len(texts[0]) - end :], tuple(answers))


@dataclass(frozen=True)
class _Read:
    """The beginning of a text: its tokens, an orthonormal basis of their inputs [k, d], and their summed distance."""

    tokens: tuple[int, ...]
    basis: Basis
    distance: float


@dataclass(frozen=True)
class Reader:
    """Reads texts out of messages.

    Attributes:
        prepared: The control's adapters, at the values that messages are gradients at.
        second: Inputs of the second layer.
        frame: The public template.
        rounding: The public grid of messages.
    """

    prepared: Prepared
    second: LayerInputs
    frame: Frame
    rounding: Round

    def recover(self, direction: Floats, longest: int = LONGEST) -> tuple[int, ...]:
        """The record, answer included, whose gradient a message is; empty if none is found.

        Args:
            direction: The message in the units of the adapter, float32 [D].
            longest: Tokens to read at most.
        """
        floor = 0.5 * self.rounding.grid.step / self.rounding.denominator
        named = pursue(
            self.prepared.rows(direction, 0),
            self.prepared.dictionary,
            longest,
            known=self.prepared.template,
            floor=floor,
            tolerance=ENOUGH,
        ).chosen
        tokens = np.array(sorted({*named, *self.prepared.template}), np.int64)
        for text in self._texts(self.prepared.rows(direction, 1), tokens, floor, longest):
            for answer in self.frame.answers:
                if self._distance(direction, (*text, answer)) < VERIFIED:
                    return (*text, answer)
        return ()

    def _texts(
        self, rows: Matrix, tokens: NDArray[np.int64], floor: float, longest: int
    ) -> Iterator[tuple[int, ...]]:
        """Texts that end like the template, best first at each length."""
        noise = ABOVE * floor * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
        space = _above(rows, noise)
        reads = [self._begun(self.frame.begin)]
        while reads and len(reads[0].tokens) < longest:
            grown = [read for old in reads for read in self._longer(old, space, tokens, noise)]
            grown.sort(key=lambda read: read.distance)
            reads = [read for read in grown[:WIDTH] if read.distance <= grown[0].distance + MARGIN]
            for read in reads:
                if read.tokens[len(read.tokens) - len(self.frame.end) :] == self.frame.end:
                    yield read.tokens

    def _begun(self, tokens: tuple[int, ...]) -> _Read:
        if not tokens:
            return _Read((), np.zeros((0, self.prepared.dictionary.shape[1])), 0.0)
        rows = self.second.of(np.array([tokens], np.int64))[0].astype(np.float64)
        basis: Basis = np.linalg.qr(rows.T)[0].T
        return _Read(tokens, basis, 0.0)

    def _longer(self, old: _Read, space: Basis, tokens: NDArray[np.int64], noise: float) -> list[_Read]:
        """The best continuations of a text by one token."""
        left = _above(space - (space @ old.basis.T) @ old.basis, noise)
        if not len(left):
            return []
        span = left / np.linalg.norm(left, axis=1, keepdims=True)
        ids = np.concatenate([np.tile(np.array(old.tokens, np.int64), (len(tokens), 1)), tokens[:, None]], 1)
        new = self.second.of(ids)[:, -1].astype(np.float64)
        for _ in range(2):
            new -= (new @ old.basis.T) @ old.basis
        lengths = np.linalg.norm(new, axis=1)
        new /= np.maximum(lengths, 1e-12)[:, None]
        distances = np.where(lengths > 1e-3, 1 - np.square(new @ span.T).sum(axis=1), 1.0)
        best = np.argsort(distances)[:WIDTH]
        return [
            _Read(
                (*old.tokens, int(tokens[i])),
                np.concatenate([old.basis, new[i][None]]),
                old.distance + float(distances[i]),
            )
            for i in best
        ]

    def _distance(self, direction: Floats, ids: tuple[int, ...]) -> float:
        """How far a record's own message is from the given one, over its length."""
        supervised = np.zeros(len(ids), np.bool_)
        supervised[-2] = True
        record = Example("guess", np.array(ids, np.int32), supervised)
        step = control.RATE * self.prepared.material.trainer.mean_gradient([record])
        most = self.rounding.limit * self.rounding.grid.step
        own = -np.clip(step, -most, most) / self.rounding.denominator
        return float(np.linalg.norm(own - direction) / max(float(np.linalg.norm(direction)), 1e-30))


def findings(
    config: Config, before: Prepared, records: Mapping[str, Sequence[Example]], count: int
) -> list[Finding]:
    """Records found word for word, out of messages of one record each in the clear.

    Args:
        config: The run.
        before: Adapters of other controls; they are gone after.
        records: Records of each client; the short ones are taken, ``count`` of each.
        count: Records of each client.
    """
    longest = min(LONGEST, before.dictionary.shape[1] // CROWDED)
    short = {name: [e for e in own if len(e) <= longest][:count] for name, own in records.items()}
    short = {name: own for name, own in short.items() if own}
    frame = frame_of(config, before)
    setting = f"batch 1, both factors of rank {RANK}, first layers, second round, at most {longest} tokens"
    if not frame.answers or not short:
        reason = "The template names no answers to check a text with, or there is no text so short."
        return [not_applicable("invert.sequence", setting, SEES, reason)]
    lora = config.lora.model_copy(update={"rank": RANK, "alpha": config.lora.alpha / config.lora.rank * RANK})
    config = config.model_copy(update={"lora": lora})
    prepared = control.prepare(config, before.material)
    material = prepared.material
    second = LayerInputs(material.model.model, prepared.layout, 1)
    found: list[bool] = []
    for trial in range(min(map(len, short.values()))):
        own = {name: each[trial : trial + 1] for name, each in short.items()}
        done = prepared.rehearse(control.clear(config), own)
        seen = control.last_round(done)
        number = done.transcript.rounds.index(seen)
        material.trainer.set_flat(seen.flat)
        reader = Reader(prepared, second, frame, seen.system.pipeline.rounding)
        for party, (example,) in enumerate(own.values()):
            direction = seen.direction(done.transcript.in_the_clear(number, party))
            found.append(reader.recover(direction, longest) == tuple(int(t) for t in example.input_ids))
    share = statistics.share(sum(found), len(found))
    leaks = share.value > 0.5
    return [
        Finding(
            "invert.sequence",
            setting,
            SEES,
            "share of records found exactly: every token, in order, and the answer",
            share.value,
            share.low,
            share.high,
            "95 %, Clopper-Pearson",
            f"{len(found)} records",
            "leaks" if leaks else "not applicable",
            text="The records stand in the messages, word for word." if leaks else FAILED,
            control=True,
        )
    ]


def frame_of(config: Config, prepared: Prepared) -> Frame:
    """The run's template, as its public records show it."""
    answers = answer_tokens(config.data.template, prepared.material.model)
    return Frame.of(control.public_texts(prepared.material), answers or ())


def _above(rows: NDArray[Any], threshold: float) -> Basis:
    """Orthogonal rows that span what rows [n, d] span with singular values above a threshold, float64 [rank, d]."""
    if not np.isfinite(rows).all():
        return np.zeros((0, rows.shape[1]))
    _, values, space = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    kept = values > threshold
    found: Basis = values[kept, None] * space[kept]
    return found
