"""Sentences that the base model writes itself from the task's prompt: public updates without any real data.

The prompt's own words are public, and so is the model. It continues the prompt where a column would stand, what it
writes up to the end of the line becomes the column, and so on to the end of the completion. In classification it first
reads the prompt's end with a verbaliser (``Sentiment: positive``), or it could not know what the text is about; a class
is then drawn by the odds that it gives the verbalisers. Sampling is by a public seed. The sentences are kept in the
cache folder; where that was emptied, the same machine writes the same ones again.

Top-k sampling: Fan, Lewis and Dauphin, "Hierarchical Neural Story Generation", arXiv 1805.04833.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.cache import ensure
from privet.data.records import Record
from privet.data_config import ClassificationTemplate, PromptTemplate
from privet.models import LoadedModel
from privet.templates import render

RECIPE = "2"
"""Changes whenever other sentences would come out of the same seed."""
TOP_K = 50
COLUMN_TOKENS = 24
"""Tokens of one column at most; it ends with the line."""
BATCH = 32
ATTEMPTS = 4
"""How often a blank column is written again, before it stays blank."""

_PIECE = re.compile(r"(\{\{|\}\}|\{[^{}]*\})")


def self_written(
    model: LoadedModel, template: ClassificationTemplate | PromptTemplate, count: int, seed: int
) -> tuple[list[Record], str]:
    """The first ``count`` sentences of a model for a task, from the cache folder or written now.

    Args:
        model: Base model without adapters.
        template: The task.
        count: How many.
        seed: Public seed.

    Returns:
        The records, and the SHA-256 of what they say.
    """
    facts = [RECIPE, model.fingerprint, template.model_dump(mode="json"), count, seed, TOP_K, COLUMN_TOKENS]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def build(folder: Path) -> Mapping[str, Any]:
        rows = write(model, template, count, seed)
        (folder / "rows.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")
        return {"model": model.name, "seed": seed, "count": count}

    text = (ensure(f"self-written-{name}", build, version=RECIPE) / "rows.json").read_text(encoding="utf-8")
    records = [render(row, template, record_id=f"self-written/{i}") for i, row in enumerate(json.loads(text))]
    return records, hashlib.sha256(text.encode()).hexdigest()


def write(
    model: LoadedModel, template: ClassificationTemplate | PromptTemplate, count: int, seed: int
) -> list[dict[str, str]]:
    """Rows of columns; see `self_written`."""
    pieces = _PIECE.split(template.prompt)
    if isinstance(template, PromptTemplate):
        pieces += _PIECE.split(template.completion)
    rows: list[dict[str, str]] = [{} for _ in range(count)]
    texts = [""] * count
    before = _lead_ins(template, count, seed) if isinstance(template, ClassificationTemplate) else texts
    for number, piece in enumerate(pieces):
        if piece in ("{{", "}}"):
            texts = [text + piece[0] for text in texts]
        elif piece.startswith("{"):
            column = piece[1:-1]
            if column not in rows[0]:
                asked = [first + text for first, text in zip(before, texts, strict=True)]
                for row, value in zip(rows, _columns(model, asked, (seed, number)), strict=True):
                    row[column] = value
            texts = [text + row[column] for text, row in zip(texts, rows, strict=True)]
        else:
            texts = [text + piece for text in texts]
    if isinstance(template, ClassificationTemplate):
        labels, words = zip(*template.verbalisers.items(), strict=True)
        drawn = np.random.Generator(np.random.Philox(seed=np.random.SeedSequence([seed, len(pieces)])))
        for row, odds in zip(rows, _odds(model, texts, words), strict=True):
            row[template.label] = labels[drawn.choice(len(labels), p=odds)]
    return rows


def _lead_ins(template: ClassificationTemplate, count: int, seed: int) -> list[str]:
    """What ends the prompt, with a verbaliser drawn for each text: what the model reads before it writes."""
    question = _PIECE.split(template.prompt)[-1].strip()
    words = list(template.verbalisers.values())
    drawn = np.random.Generator(np.random.Philox(seed=np.random.SeedSequence([seed, count, 1])))
    return [f"{question}{words[i]}\n" for i in drawn.integers(len(words), size=count)]


def _columns(model: LoadedModel, texts: Sequence[str], seed: tuple[int, int]) -> list[str]:
    """One line after each text."""
    found = [""] * len(texts)
    for attempt in range(ATTEMPTS):
        blank = [i for i, value in enumerate(found) if not value]
        for start in range(0, len(blank), BATCH):
            chosen = blank[start : start + BATCH]
            written = _continued(model, [texts[i] for i in chosen], (*seed, attempt, start))
            for i, value in zip(chosen, written, strict=True):
                found[i] = value
    return found


def _continued(model: LoadedModel, texts: Sequence[str], seed: tuple[int, ...]) -> list[str]:
    # A space before the column belongs to its first word.
    ids, mask = _padded(model, [text.rstrip(" ") for text in texts])
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        out = model.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=TOP_K,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=COLUMN_TOKENS,
            pad_token_id=model.pad_id,
        )
    tokenizer: Any = model.tokenizer
    written = [tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True) for row in out.cpu()]
    return [" ".join(text.lstrip("\n").split("\n")[0].split()) for text in written]


def _odds(model: LoadedModel, texts: Sequence[str], words: Sequence[str]) -> NDArray[np.float64]:
    """Probability of each word after each text by its first token, float64 [texts, words]."""
    tokenizer: Any = model.tokenizer
    first = [tokenizer(word)["input_ids"][0] for word in words]
    found = []
    for start in range(0, len(texts), BATCH):
        ids, mask = _padded(model, texts[start : start + BATCH])
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            last = model.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
        found.append(last.logits[:, -1, first].to(torch.float64).softmax(-1).cpu().numpy())
    return np.concatenate(found)


def _padded(model: LoadedModel, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 [texts, tokens] each, padded on the left: all texts go on from the right."""
    tokenizer: Any = model.tokenizer
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    rows = [tokenizer(text)["input_ids"] or [start] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), model.pad_id)
    mask = torch.zeros_like(ids)
    for row, own, seen in zip(rows, ids, mask, strict=True):
        own[-len(row) :] = torch.tensor(row)
        seen[-len(row) :] = 1
    return ids.to(model.device), mask.to(model.device)
