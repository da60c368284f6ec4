"""From records to token ids with the positions that are learned, and a report of what was cut or left out.

Only completions are supervised. Prompts that are too long lose their beginning, since the question tends to
stand at the end; completions are cut at their end, and only when they alone are too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
import numpy as np
from numpy.typing import NDArray

from privet.data.records import Record
from privet.data_config import ChatTemplate, Template
from privet.errors import PrivetError
from privet.templates import chat_messages, ends_text


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    is_fast: bool
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: Any

    def __call__(self, text: str, **options: Any) -> Any:
        """Token ids (and offsets) of a text."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Text of a conversation."""
        ...


@dataclass(frozen=True, eq=False)
class Example:
    """A tokenised record.

    Attributes:
        id: The record's.
        input_ids: int32 [length], never padded.
        supervised: bool [length]; position i is true if the model learns to predict ``input_ids[i + 1]``
            there. The last is always false.
        truncated: Whether tokens were cut off.
    """

    id: str
    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def targets(self) -> NDArray[np.int32]:
        """The supervised tokens themselves, int32 [supervised]."""
        return self.input_ids[1:][self.supervised[:-1]]


@dataclass(frozen=True)
class TokenReport:
    """What tokenisation did. The counts depend on private records: for whoever holds them, never a message.

    Attributes:
        records: Records given.
        examples: Records that became examples.
        empty: Records left out because their completion is blank.
        truncated: Examples that lost tokens.
        tokens: Tokens in all examples.
        supervised: Supervised positions in all examples.
        longest: Tokens of the longest example.
        padding: Share of padding when batches of ``batch`` examples, in order of length, are padded.
        batch: The batch size that ``padding`` is for.
    """

    records: int
    examples: int
    empty: int
    truncated: int
    tokens: int
    supervised: int
    longest: int
    padding: float
    batch: int

    def lines(self) -> list[str]:
        """The report as short lines for a person."""
        mean = self.tokens / max(self.examples, 1)
        return [
            f"{self.examples} examples, {self.tokens} tokens ({mean:.1f} each, longest {self.longest}), "
            f"{self.supervised} supervised",
            f"left out, empty completion: {self.empty}; truncated: {self.truncated}; "
            f"padding at batch {self.batch}: {self.padding:.1%}",
        ]


def tokenise(
    records: Sequence[Record], tokenizer: Tokenizer, template: Template, max_length: int
) -> list[Example]:
    """Tokenise records in order; those whose completion is blank are left out (see ``token_report``).

    Args:
        records: What to tokenise.
        tokenizer: The model's.
        template: Says whether the chat template applies and whether end-of-text is learned.
        max_length: Tokens an example may have.

    Raises:
        PrivetError: if the template needs something that the tokenizer lacks.
    """
    is_chat = isinstance(template, ChatTemplate)
    _check(tokenizer, template)
    examples = []
    for record in records:
        if not record.completion.strip():
            continue
        prompt, completion = text_pair(record, tokenizer, template)
        ids, start = encode_pair(tokenizer, prompt, completion, chat=is_chat)
        if ends_text(template) and tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) > start:
            examples.append(_example(record.id, ids, start, max_length, tokenizer.bos_token_id))
    return examples


def tokenise_each_alone(
    records: Sequence[Record], tokenizer: Tokenizer, template: Template, max_length: int
) -> tuple[list[Example], list[str]]:
    """As `tokenise`, but a record that tokenizer or chat template refuse is left out, and named.

    Raises:
        PrivetError: if the template needs something that the tokenizer lacks.
    """
    _check(tokenizer, template)
    examples, left_out = [], []
    for record in records:
        try:
            examples += tokenise([record], tokenizer, template, max_length)
        except (KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # a tokenizer's panic too: the others do not depend on what is with one record
            left_out.append(f"{record.id}: not tokenised ({type(error).__name__})")
    return examples, left_out


def token_report(records: Sequence[Record], examples: Sequence[Example], batch: int = 16) -> TokenReport:
    """Count what ``tokenise`` made of ``records``."""
    lengths = np.sort(np.array([len(example) for example in examples], dtype=np.int64))
    padded = sum(
        int(part.max()) * len(part)
        for part in np.split(lengths, range(batch, len(lengths), batch))
        if len(part)
    )
    return TokenReport(
        records=len(records),
        examples=len(examples),
        empty=len(records) - len(examples),
        truncated=sum(example.truncated for example in examples),
        tokens=int(lengths.sum()),
        supervised=sum(int(example.supervised.sum()) for example in examples),
        longest=int(lengths[-1]) if len(lengths) else 0,
        padding=1 - int(lengths.sum()) / padded if padded else 0.0,
        batch=batch,
    )


def text_pair(record: Record, tokenizer: Tokenizer, template: Template) -> tuple[str, str]:
    """Prompt and completion, with the tokenizer's chat template applied if ``template`` says so.

    Raises:
        PrivetError: if the chat template refuses the conversation, e.g. its system message.
    """
    if not isinstance(template, ChatTemplate):
        return record.prompt, record.completion
    asked = chat_messages(record, template)
    answered = [*asked, {"role": "assistant", "content": record.completion}]
    try:
        prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    except jinja2.TemplateError as error:
        raise PrivetError(
            f"the model's chat template refuses this conversation: {error.message}",
            field="data.template",
            given=record.id,
            hint="templates differ in the roles they allow: leave the system message out, or alternate turns",
        ) from error
    if whole.startswith(prompt):
        return prompt, whole[len(prompt) :].rstrip()  # with the mark that ends the assistant's turn
    return prompt, record.completion


def encode_pair(
    tokenizer: Tokenizer, prompt: str, completion: str, *, chat: bool = False
) -> tuple[list[int], int]:
    """Token ids of ``prompt + completion`` and the position where the completion begins.

    The texts are tokenised together, as the model met them in training; a token that spans both counts as
    completion. Slow tokenizers give no offsets: there the two are tokenised apart.

    Args:
        tokenizer: The model's.
        prompt: Text that is given.
        completion: Text that is learned.
        chat: Whether a chat template wrote the prompt; it then holds its special tokens already.
    """
    if not tokenizer.is_fast:
        before = list(tokenizer(prompt, add_special_tokens=not chat)["input_ids"])
        if not chat and before and before[-1] == tokenizer.eos_token_id:
            before.pop()  # some tokenizers close every text, also one that goes on
        after = list(tokenizer(completion, add_special_tokens=False)["input_ids"]) if completion else []
        return before + after, len(before)
    encoded = tokenizer(
        prompt + completion, add_special_tokens=not chat, return_offsets_mapping=True, verbose=False
    )
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    # Special tokens that the tokenizer adds have the empty offset (0, 0): the first counts as prompt; one at the end
    # must not be learned unless the template asks for it.
    while len(ids) > 1 and offsets[len(ids) - 1][1] == 0:
        ids.pop()
    start = next((i for i, (_, end) in enumerate(offsets[: len(ids)]) if end > len(prompt)), len(ids))
    return ids, start


def _example(identity: str, ids: list[int], start: int, max_length: int, bos: int | None) -> Example:
    if start == 0:
        # Nothing comes before the first token, so it cannot be predicted and only conditions the others.
        start = 1
    cut = len(ids) - max_length
    if cut > 0:
        keep = [ids[0]] if ids[0] == bos else []
        prompt = ids[len(keep) : start]
        answer = ids[start:][: max_length - max(len(keep), 1)]
        room = max_length - len(keep) - len(answer)
        prompt = prompt[len(prompt) - room :] if room > 0 else []
        ids, start = keep + prompt + answer, len(keep) + len(prompt)
    input_ids = np.array(ids, dtype=np.int32)
    supervised = np.zeros(len(ids), dtype=np.bool_)
    supervised[start - 1 : -1] = True
    return Example(identity, input_ids, supervised, cut > 0)


def _check(tokenizer: Tokenizer, template: Template) -> None:
    if isinstance(template, ChatTemplate) and not tokenizer.chat_template:
        raise PrivetError(
            "the model's tokenizer has no chat template",
            field="data.template.kind",
            given="chat",
            allowed="prompt or classification for this model",
            hint="choose an instruction-tuned model, or write the turns into a prompt template",
        )
    if ends_text(template) and tokenizer.eos_token_id is None:
        raise PrivetError(
            "the model's tokenizer has no end-of-text token",
            field="data.template",
            given=template.kind,
            hint="set data.template.end_of_text to false, or add eos_token to tokenizer_config.json",
        )
