"""A byte-level tokenizer of 274 tokens with a chat template, for tests where texts matter."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def make_tokenizer(**options: Any) -> Any:
    """A new tokenizer; ``with_bos`` begins every text with ``<b>``, other options go to transformers."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<b>", "<s>", "<e>"]
    core.train_from_iterator(
        ["the answer is yes", "the answer is no"] * 3,
        trainers.BpeTrainer(
            vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    if options.pop("with_bos", False):
        core.post_processor = processors.TemplateProcessing(single="<b> $A", special_tokens=[("<b>", 0)])
        options["bos_token"] = "<b>"
    return PreTrainedTokenizerFast(
        tokenizer_object=core, **{"eos_token": "<e>", "chat_template": CHATML} | options
    )
