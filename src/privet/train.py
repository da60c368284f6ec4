"""The trainer: one frozen base model, adapters that come and go, and gradients of single records.

A record's loss is the mean negative log-likelihood in nats over its supervised tokens (a record without any
has loss 0 and gradient 0). `Backbone` is shared by all silos of a process; a silo's model is its flat vector
alone.

What the bits of a gradient depend on: the machine, the library, the number of threads, and which records
share its micro-batch (matrix products round differently for other shapes). Micro-batches are a function of
the *set* of records asked for, so the same call gives the same bits, with a cache or after a restart.
``deterministic_units=True`` takes the other records out of it: every record passes in a shape that its own
length fixes (`privet.sequences.Shape`), so its gradient is the same in any batch and at any silo. Where a shape
does not keep bits in company (`privet.company` tries it), or tokens are routed to experts, records pass one by one.

Runs where the base model is, on a CPU or a GPU; it is tested on CPUs only. A GPU's atomics may reorder sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privet import causal_attention
from privet.company import Rows, bytes_of, computes_by_content, keeps_bits
from privet.decoder import Decoder
from privet.errors import PrivetError
from privet.frozen_prefix import FrozenPrefix
from privet.local_training import LocalSteps, train_locally
from privet.lora import AdapterLayout, LoraSpec, Vector
from privet.lora_layers import attach
from privet.prefix_cache import PrefixCache
from privet.sequences import (
    ExampleLike,
    MicroBatch,
    Shape,
    TokenSequence,
    groups_of_one_shape,
    micro_batches,
)

WINDOW_TOKENS = 16_384
"""Tokens whose cached hidden states are held at once: 19 MB for SmolLM2, 134 MB for a 7B model."""


class Backbone:
    """A base model with adapters: losses, gradients and scores of records.

    Args:
        model: A causal language model of transformers; gets adapters in place.
        spec: The adapters.
        cache: Keeps what the layers below the adapters compute; ``None`` computes it each time.
        tokenizer: Names the tokenizer for the cache's keys.
        deterministic_units: Shapes fixed by each record's own length; see the module's text.
        max_tokens: Tokens in one pass, padding included; bounds memory.
        answers: Tokens that a supervised token is compared with in training; ``None`` compares with the whole
            vocabulary. For a task with choices the gradient then says which choice, not that it is one of
            them.

    Attributes:
        layout: Order of the adapters' tensors in the flat vector.
        uncached_reason: Why there is no prefix cache, or ``None`` if there is one.

    Raises:
        PrivetError: if the model is of a kind that isn't supported, or the adapters don't fit.
    """

    def __init__(
        self,
        model: Any,
        spec: LoraSpec,
        *,
        cache: PrefixCache | None = None,
        tokenizer: str = "",
        deterministic_units: bool = False,
        max_tokens: int = 8192,
        answers: Sequence[int] | None = None,
    ) -> None:
        self._adapters = attach(model, spec)
        self.layout: AdapterLayout = self._adapters.layout
        self.deterministic_units, self.max_tokens = deterministic_units, max_tokens
        causal_attention.use(model)
        self._decoder = Decoder(model, self._adapters.first_layer)
        self._answers = None if answers is None else tuple(sorted(set(answers)))
        head = self._decoder.head
        self._trained_head = head if self._answers is None else head.among(self._answers)
        self._prefix: FrozenPrefix | None = None
        self.uncached_reason = "no cache was given" if cache is None else self._decoder.whole_reason
        if cache is not None and self._decoder.whole_reason is None:
            self._prefix = FrozenPrefix(self._decoder, cache, tokenizer=tokenizer)
        self._shares: dict[Shape, bool] = {}
        self._by_content = computes_by_content(model.config)

    @property
    def dimension(self) -> int:
        """Length D of the flat vector of trained values."""
        return self.layout.dimension

    def initial_flat(self) -> Vector:
        """The trained values at the start, float32 [D]: A from its public seed, B zero."""
        return self.layout.initial_flat()

    def set_flat(self, flat: Vector) -> None:
        """Takes ``flat``, float32 [D], as the trained values; one copy."""
        self._adapters.set_flat(flat)

    def detach(self) -> None:
        """Takes the adapters out of the model again, which is then as it was given."""
        self._adapters.detach()
        causal_attention.put_back(self._decoder.model)

    def warm(self, examples: Sequence[ExampleLike], spare: Sequence[ExampleLike] = ()) -> None:
        """Computes what the cache lacks of these records ahead of time; does nothing where it could not be kept.

        Args:
            examples: The records.
            spare: Records that take the places which those leave empty in the last passes.
        """
        if self._prefix is not None and not self._prefix.is_full:
            sequences = [s for s in map(TokenSequence.of, examples) if len(s)]
            self._prefix.warm(sequences, (s for s in map(TokenSequence.of, spare) if len(s)))

    def per_unit_gradients(
        self, examples: Sequence[ExampleLike], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], Vector]]:
        """Gradient of each record's loss in the trained values.

        Args:
            examples: The records.
            micro_batch: Most records whose gradients are in memory at once.

        Yields:
            Names of b records and their gradients, float32 [b, D], rows in the names' order. Every record
            comes exactly once, in order of length. What isn't finite is passed on for the clip to zero.
        """
        for names, batch, states in self._passes(examples, micro_batch):
            if batch is None:
                yield names, np.zeros((len(names), self.dimension), np.float32)
            else:
                yield names, self._gradients(batch, states)[: len(names)]

    def mean_gradient(self, examples: Sequence[ExampleLike], micro_batch: int = 32) -> tuple[Vector, float]:
        """Mean of the gradients that `per_unit_gradients` gives, never held apart; not private.

        Returns:
            float32 [D] and the mean loss.
        """
        total = torch.zeros(1, self.dimension, device=self._decoder.device)
        loss = 0.0
        for _, batch, states in self._passes(examples, micro_batch):
            if batch is not None:
                loss += float(self._backward(batch, states, total, "sum").sum(dtype=np.float64))
        count = max(len(examples), 1)
        return (total[0] / count).cpu().numpy(), loss / count

    def train_locally(
        self, flat: Vector, examples: Sequence[ExampleLike], local: LocalSteps, seed: bytes
    ) -> Vector:
        """New values, float32 [D], after local steps from ``flat``; see `privet.local_training`."""
        return train_locally(self, flat, examples, local, seed)

    def losses(self, examples: Sequence[ExampleLike], micro_batch: int = 32) -> Vector:
        """Loss of each record, float32 [n], in the order of ``examples``."""
        found = self.token_losses(examples, micro_batch)
        means = [values.mean(dtype=np.float64) if len(values) else 0.0 for values in found]
        return np.array(means, np.float32)

    def token_losses(
        self, examples: Sequence[ExampleLike], micro_batch: int = 32
    ) -> list[NDArray[np.float32]]:
        """Loss of each supervised token of each record, float32 [tokens], in the order of ``examples``."""
        return self._nll([TokenSequence.of(example) for example in examples], micro_batch)

    def choice_scores(
        self, choices: Sequence[Sequence[ExampleLike]], micro_batch: int = 32
    ) -> list[NDArray[np.float32]]:
        """Log-likelihood of each of several answers to each question.

        Answers of one token to the same prompt share one pass, since the prompt is all that the model reads.

        Args:
            choices: For each question one example an answer, whose supervised tokens are the answer's.
            micro_batch: Most sequences in a pass.

        Returns:
            For each question float32 [answers]: the sum of the answer's log-probabilities.
        """
        flat = [TokenSequence.of(example) for answers in choices for example in answers]
        merged: dict[bytes, list[int]] = {}
        for index, sequence in enumerate(flat):
            merged.setdefault(sequence.inputs.tobytes(), []).append(index)
        joint = [
            TokenSequence(
                flat[members[0]].id,
                flat[members[0]].inputs,
                np.concatenate([flat[i].positions for i in members]),
                np.concatenate([flat[i].labels for i in members]),
            )
            for members in merged.values()
        ]
        scores = np.zeros(len(flat), np.float32)
        for members, values in zip(merged.values(), self._nll(joint, micro_batch), strict=True):
            ends = np.cumsum([len(flat[i].labels) for i in members])
            for i, part in zip(members, np.split(values, ends[:-1]), strict=True):
                scores[i] = -part.sum(dtype=np.float64)
        return np.split(scores, np.cumsum([len(answers) for answers in choices])[:-1])

    def _nll(self, sequences: Sequence[TokenSequence], micro_batch: int) -> list[NDArray[np.float32]]:
        """NLL at each supervised position of each sequence, in the given order."""
        found = [np.zeros(0, np.float32) for _ in sequences]
        places = {id(sequence): i for i, sequence in enumerate(sequences)}
        with torch.no_grad():
            for batch, states in self._windows([s for s in sequences if len(s)], micro_batch):
                hidden, labels = self._supervised(batch, self._last(batch, states))
                values = self._decoder.head.nll(hidden, labels).cpu().numpy()
                ends = np.cumsum([len(s.positions) for s in batch.sequences])
                for sequence, part in zip(batch.sequences, np.split(values, ends[:-1]), strict=True):
                    found[places[id(sequence)]] = part
        return found

    def _passes(
        self, examples: Sequence[ExampleLike], micro_batch: int
    ) -> Iterator[tuple[tuple[str, ...], MicroBatch | None, Tensor | None]]:
        sequences = [TokenSequence.of(example) for example in examples]
        empty = [s.id for s in sequences if not len(s)]
        for start in range(0, len(empty), micro_batch):
            yield tuple(empty[start : start + micro_batch]), None, None
        filled = [s for s in sequences if len(s)]
        for batch, states in self._windows(filled, micro_batch, fixed=self.deterministic_units):
            yield tuple(s.id for s in batch.sequences), batch, states

    def _windows(
        self, sequences: Sequence[TokenSequence], micro_batch: int, *, fixed: bool = False
    ) -> Iterator[tuple[MicroBatch, Tensor | None]]:
        """Micro-batches with cached states; missing ones are computed for many micro-batches together."""
        groups: list[tuple[Shape | None, list[TokenSequence]]]
        if fixed:
            groups = list(groups_of_one_shape(sequences, lambda s: self._shape_of(s, micro_batch)))
        else:
            groups = [(None, group) for group in micro_batches(sequences, micro_batch, self.max_tokens)]
        if self._prefix is None:
            for shape, group in groups:
                yield MicroBatch.of(group, shape), None
            return
        before = np.cumsum([0] + [sum(len(s) for s in group) for _, group in groups])
        numbered = groupby(range(len(groups)), key=lambda i: int(before[i]) // WINDOW_TOKENS)
        for window in ([groups[i] for i in numbers] for _, numbers in numbered):
            states = iter(self._prefix.states([s for _, group in window for s in group]))
            for shape, group in window:
                yield MicroBatch.of(group, shape), self._prefix.padded([next(states) for _ in group], shape)

    def _shape_of(self, sequence: TokenSequence, micro_batch: int) -> Shape:
        """The shape a record passes in: one of one row, where rows do not keep their bits in company."""
        shape = Shape.of(sequence, micro_batch)
        if shape not in self._shares:
            self._shares[shape] = shape.rows > 1 and self._keeps_bits(shape)
        return shape if self._shares[shape] else replace(shape, rows=1)

    def _keeps_bits(self, shape: Shape) -> bool:
        if self._by_content:
            return False
        generator = np.random.default_rng(shape.width)
        ids = generator.integers(0, self._decoder.vocabulary, (shape.rows + 1, shape.width))
        positions = np.arange(shape.width - shape.targets, shape.width)
        label = self._answers[-1] if self._answers else 0
        labels = np.full(shape.targets, label)
        made_up = [TokenSequence(str(i), row, positions, labels) for i, row in enumerate(ids)]
        # As large as hidden states are after a norm; the last row is a dummy.
        states = generator.standard_normal((len(ids), shape.width, self._decoder.hidden_size), np.float32)
        states[-1] = 0.0
        hidden = torch.from_numpy(states).to(self._decoder.device, self._decoder.dtype)

        def run(order: list[int]) -> Rows:
            batch = MicroBatch.of([made_up[i] for i in order], shape)
            return bytes_of(self._gradients(batch, None if self._prefix is None else hidden[order]))

        before = self._adapters.flat.clone()
        try:
            # At B = 0, where a run starts, half of the products would be zero whatever the order of sums.
            self.set_flat(generator.standard_normal(self.dimension).astype(np.float32) * 0.05)
            return keeps_bits(run, shape.rows)
        finally:
            self._adapters.flat.copy_(before)

    def _gradients(self, batch: MicroBatch, states: Tensor | None) -> Vector:
        rows = torch.zeros(len(batch.ids), self.dimension, device=self._decoder.device)
        self._backward(batch, states, rows, "per_unit")
        return rows.cpu().numpy()

    def _last(self, batch: MicroBatch, states: Tensor | None) -> Tensor:
        where = torch.from_numpy(batch.where).to(self._decoder.device)
        if states is not None:
            return self._decoder.top(states, where)
        return self._decoder.whole(torch.from_numpy(batch.ids).to(self._decoder.device), where)

    def _supervised(self, batch: MicroBatch, last: Tensor) -> tuple[Tensor, Tensor]:
        where = torch.from_numpy(batch.where).to(last.device)
        return last.detach().flatten(0, 1)[where], torch.from_numpy(batch.labels).to(last.device)

    def _among_answers(self, labels: Tensor) -> Tensor:
        """Labels as positions among the answers.

        Raises:
            PrivetError: if a record's supervised token is none of them.
        """
        if self._answers is None:
            return labels
        answers = torch.tensor(self._answers, device=labels.device)
        places = torch.searchsorted(answers, labels).clamp(max=len(self._answers) - 1)
        if not torch.equal(answers[places], labels):
            raise PrivetError(
                "a record's answer is none of the verbalisers", field="data.template.verbalisers"
            )
        return places

    def _backward(self, batch: MicroBatch, states: Tensor | None, rows: Tensor, mode: Any) -> Vector:
        """One pass forth and back; adds gradients to ``rows`` and returns the losses, float32 [b]."""
        sink = self._adapters.sink
        sink.mode, sink.rows = mode, rows
        try:
            with torch.enable_grad():
                last = self._last(batch, states)
            hidden, labels = self._supervised(batch, last)
            nll, gradient = self._trained_head.nll_and_gradient(
                hidden, self._among_answers(labels), torch.from_numpy(batch.weights).to(last.device)
            )
            full = torch.zeros_like(last).flatten(0, 1)
            full[torch.from_numpy(batch.where).to(last.device)] = gradient
            torch.autograd.backward(last, full.view_as(last))
        finally:
            sink.mode, sink.rows = "off", torch.empty(0, 0)
        return batch.per_record(nll.cpu().numpy())
