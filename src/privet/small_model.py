"""A small Llama trained on this machine in under a minute: a real language model for tests that must be quick.

- 1.07 million parameters, four layers, its own byte-pair vocabulary of 2048.
- It learns from text that experiments leave out: sentences rated closer to zero than the threshold of
  ``sentiment``, and random lists of words out of the rated lexicon that comes with them.
- It answers the prompt of ``sentiment`` better than chance and far from well: fine-tuning and attacks show.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privet.cache import ensure
from privet.data.near_duplicates import normalise
from privet.data.sentiment import read_lexicon, read_sentiment
from privet.data_config import DOMAINS, SENTIMENT_TEMPLATE
from privet.fetch import Progress, sentiment_dir
from privet.model_config import SMALL_MODEL
from privet.templates import choices, fill

_VERSION = "4"
_VOCABULARY = 2048
_END, _PAD = "<|endoftext|>", "<|pad|>"
_THRESHOLD = 1.0  # from here on sentences belong to the experiments
_WEAK = 0.3  # the sign of a rating closer to zero is noise
_WORD_LISTS = 24_000
_LONGEST = 48
_BATCH_TOKENS = 1536
_RATE = 2e-3
_EPOCHS = 1.1
_LABEL_WEIGHT = 20.0
_INITIAL_SCALE = 0.08  # about one over the root of the hidden size; the usual 0.02 is for large models
_SEED = 20141


@dataclass(frozen=True)
class _Sequence:
    """Token ids and the weight of each in the loss."""

    ids: list[int]
    weights: list[float]


def small_model_dir(progress: Progress | None = None, *, verify: bool = False) -> Path:
    """Folder of the small model in Hugging Face format, trained on first use (less than a minute of one core).

    Processes that ask at the same time train it once: the others wait for the first.

    Args:
        progress: Told what goes on.
        verify: Compare the SHA-256 of every file, not its size alone.

    Raises:
        PrivetError: if the embedded text cannot be fetched or the cache cannot be written.
    """

    def build(folder: Path) -> dict[str, Any]:
        train_small_model(folder, progress)
        return {"source": "trained on this machine on the sentences that experiments leave out"}

    return ensure(SMALL_MODEL, build, version=_VERSION, verify=verify)


def train_small_model(folder: Path, progress: Progress | None = None) -> None:
    """Train model and tokenizer and write them to ``folder``; repeats bit for bit on one machine.

    Args:
        folder: An existing folder.
        progress: Told how far it is.

    Raises:
        PrivetError: if the embedded text cannot be fetched.
    """
    source = sentiment_dir(progress)
    rows = [row.columns for domain in DOMAINS for row, _ in read_sentiment(source, domain)]
    # A sentence that stands there twice, rated on both sides of the threshold, is an experiment's.
    theirs = {normalise(row["text"]) for row in rows if abs(row["score"]) >= _THRESHOLD}
    rows = [row for row in rows if normalise(row["text"]) not in theirs]
    tokenizer = _train_tokenizer([fill(SENTIMENT_TEMPLATE.prompt, row) + _word(row["score"]) for row in rows])
    sequences = _sequences(rows, read_lexicon(source), tokenizer)
    model = _train(sequences, tokenizer, progress)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _word(score: float) -> str:
    return choices(SENTIMENT_TEMPLATE)[int(score > 0)]


def _train_tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_END, _PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=_END, pad_token=_PAD)


def _sequences(rows: list[Any], lexicon: list[tuple[str, float]], tokenizer: Any) -> list[_Sequence]:
    def labelled(text: str, score: float, weight: float) -> _Sequence:
        ids = tokenizer(fill(SENTIMENT_TEMPLATE.prompt, {"text": text}) + _word(score))["input_ids"]
        return _Sequence(ids, [weight] * (len(ids) - 1) + [_LABEL_WEIGHT])

    sequences = []
    for row in rows:
        if abs(row["score"]) >= _WEAK:
            sequences.append(labelled(row["text"], row["score"], 1.0))
        else:
            ids = tokenizer(row["text"] + _END)["input_ids"]
            sequences.append(_Sequence(ids, [1.0] * len(ids)))
    rng = np.random.default_rng(_SEED)
    for _ in range(_WORD_LISTS):
        picked = rng.integers(len(lexicon), size=rng.integers(1, 4))
        score = sum(lexicon[i][1] for i in picked)
        if abs(score) >= 0.5:  # of words at random only the label is worth learning
            sequences.append(labelled(" ".join(lexicon[i][0] for i in picked), score, 0.0))
    return [sequence for sequence in sequences if len(sequence.ids) <= _LONGEST]


def _train(sequences: list[_Sequence], tokenizer: Any, progress: Progress | None) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=_INITIAL_SCALE,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    threads = torch.get_num_threads()
    # One thread: sums then do not depend on the number of cores, and threads that wait for each other on busy
    # cores would cost more than they bring.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = LlamaForCausalLM(config)
            optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.05)
            batches = list(_batches(sequences))
            for step, batch in enumerate(batches):
                if progress is not None:
                    progress("training the small test model", step, len(batches))
                done = step / len(batches)
                warm_up, decay = min(1, (step + 1) / 30), 0.5 + 0.5 * np.cos(np.pi * done)
                optimiser.param_groups[0]["lr"] = _RATE * warm_up * decay
                ids, weights = (torch.from_numpy(array) for array in _pad(batch, tokenizer.pad_token_id))
                learned = weights[:, 1:] > 0
                logits = model.lm_head(model.model(input_ids=ids).last_hidden_state[:, :-1][learned])
                losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learned], reduction="none")
                optimiser.zero_grad()
                weight = weights[:, 1:][learned]
                torch.autograd.backward((losses * weight).sum() / weight.sum())
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def _batches(sequences: list[_Sequence]) -> Iterator[list[_Sequence]]:
    """Batches of similar length in random order; in the first epoch the word lists come before the sentences."""
    ordered = sorted(sequences, key=lambda sequence: len(sequence.ids))
    batches: list[list[_Sequence]] = [[]]
    for sequence in ordered:
        if (len(batches[-1]) + 1) * len(sequence.ids) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(sequence)
    rng = np.random.default_rng(_SEED)
    order = [batches[i] for i in rng.permutation(len(batches))]
    yield from sorted(order, key=lambda batch: len(batch[-1].ids) > 16)
    again = rng.permutation(len(batches))[: int((_EPOCHS - 1) * len(batches))]
    yield from (batches[i] for i in again)


def _pad(batch: list[_Sequence], pad: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Token ids int64 and loss weights float32, both [sequences, longest]."""
    longest = max(len(sequence.ids) for sequence in batch)
    ids = np.full((len(batch), longest), pad, dtype=np.int64)
    weights = np.zeros((len(batch), longest), dtype=np.float32)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = sequence.ids
        weights[row, : len(sequence.ids)] = sequence.weights
    return ids, weights
