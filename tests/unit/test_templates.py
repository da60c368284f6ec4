"""Rows become records by template; tokens of completions, and only they, are supervised; what is cut is counted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizer import make_tokenizer
from tokenizers import processors

from privet.data import Record
from privet.data_config import ChatTemplate, ClassificationTemplate, PromptTemplate
from privet.errors import PrivetError
from privet.templates import RowError, columns, content, fill, render, required_columns
from privet.tokenise import Example, encode_pair, text_pair, token_report, tokenise

PLAIN = PromptTemplate(end_of_text=False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def pair(prompt: str, completion: str) -> Record:
    return Record("r", prompt, completion)


def one(record: Record, tokenizer: Any, template: Any = PLAIN, length: int = 128) -> Example:
    (example,) = tokenise([record], tokenizer, template, length)
    return example


# --- templates -----------------------------------------------------------------------------------------------


def test_fill_replaces_columns_and_keeps_double_braces() -> None:
    assert fill("{a} {{b}} {c d}", {"a": "x", "c d": 3.0}) == "x {b} 3"


@pytest.mark.parametrize("text", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>10}"])
def test_a_template_reaches_no_further_than_columns(text: str) -> None:
    with pytest.raises(RowError, match="no column"):
        fill(text, {"a": "x"})


@pytest.mark.parametrize("text", ["{", "}", "a {} b", "{a}}"])
def test_lonely_braces(text: str) -> None:
    with pytest.raises(PrivetError, match="brace"):
        columns(text)


@given(st.text(alphabet="ab {}", max_size=12))
def test_values_are_never_read_as_templates(value: str) -> None:
    assert fill("<{x}>", {"x": value}) == f"<{value}>"


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (1, "1"), (1.0, "1"), (0.5, "0.5"), (True, "true"), (False, "false")]
)
def test_values_as_text(value: Any, text: str) -> None:
    assert fill("{x}", {"x": value}) == text


@pytest.mark.parametrize("value", [None, float("nan"), [1], {"a": 1}, b"x"])
def test_values_that_are_no_text(value: Any) -> None:
    with pytest.raises(RowError, match="where text is needed"):
        fill("{x}", {"x": value})


@pytest.mark.parametrize("label", [1, "1", 1.0])
def test_labels_are_compared_as_text(label: Any) -> None:
    template = ClassificationTemplate(
        kind="classification", prompt="{text}:", verbalisers={0: " no", 1: " yes"}
    )
    record = render({"text": "t", "label": label}, template, record_id="7", group="g")
    assert (record.prompt, record.completion, record.label, record.group) == ("t:", " yes", 1, "g")


def test_a_label_without_a_word() -> None:
    template = ClassificationTemplate(
        kind="classification", prompt="{text}:", verbalisers={0: " no", 1: " yes"}
    )
    with pytest.raises(RowError, match="without a verbaliser") as caught:
        render({"text": "t", "label": "secret"}, template, record_id="7")
    assert "secret" not in str(caught.value)


def test_content_leaves_the_templates_words_out() -> None:
    row = {"b": "B", "a": "A", "completion": "C"}
    assert content(row, PromptTemplate(prompt="{b} and {a}, {b}?")) == "A\nB"
    assert required_columns(PromptTemplate(prompt="{b} and {a}")) == {"a", "b", "completion"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "not a list"),
        ([{"role": "user", "content": "a"}], "at least two"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "does not end"),
        ([{"role": "user"}, {"role": "assistant", "content": "b"}], "not {role, content}"),
    ],
)
def test_conversations_that_are_none(messages: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        render({"m": messages}, ChatTemplate(kind="chat", messages="m"), record_id="1")


# --- tokens --------------------------------------------------------------------------------------------------


@given(st.text(max_size=20), st.text(min_size=1, max_size=20).filter(str.strip))
def test_what_is_supervised_is_the_completion(prompt: str, completion: str) -> None:
    """Of any texts: the supervised tokens spell the completion, but for a first token with nothing before it."""
    tokenizer = make_tokenizer(with_bos=True)
    example = one(pair(prompt, completion), tokenizer, length=1000)
    spelled = tokenizer.decode(example.targets.tolist())
    assert spelled.endswith(completion) or len(spelled.encode()) >= len(completion.encode())
    assert not example.supervised[-1]
    assert tokenizer.decode(example.input_ids.tolist(), skip_special_tokens=True) == prompt + completion


def test_positions_and_targets(tokenizer: Any) -> None:
    example = one(pair("the answer is", " yes"), tokenizer)
    assert tokenizer.decode(example.targets.tolist()) == " yes"
    assert example.input_ids.dtype == np.int32
    start = len(tokenizer("the answer is")["input_ids"])
    assert np.flatnonzero(example.supervised).tolist() == list(range(start - 1, len(example) - 1))


def test_end_of_text_is_learned_on_request(tokenizer: Any) -> None:
    assert (
        one(pair("the answer is", " yes"), tokenizer, PromptTemplate()).targets[-1] == tokenizer.eos_token_id
    )
    assert one(pair("the answer is", " yes"), tokenizer, PLAIN).targets[-1] != tokenizer.eos_token_id


def test_without_prompt_the_first_token_conditions_only(tokenizer: Any) -> None:
    example = one(pair("", "the answer"), tokenizer)
    assert example.supervised.tolist() == [True] * (len(example) - 1) + [False]


def test_beginning_token_comes_first_once() -> None:
    tokenizer = make_tokenizer(with_bos=True)
    example = one(pair("the answer is", " yes"), tokenizer)
    assert example.input_ids[0] == tokenizer.bos_token_id
    assert (example.input_ids == tokenizer.bos_token_id).sum() == 1


def test_long_prompts_lose_their_beginning_and_keep_the_beginning_token() -> None:
    tokenizer = make_tokenizer(with_bos=True)
    whole = one(pair("abcdefghijklmnopqrstuvwxyz", " yes"), tokenizer)
    cut = one(pair("abcdefghijklmnopqrstuvwxyz", " yes"), tokenizer, length=10)
    assert (len(cut), cut.truncated, whole.truncated) == (10, True, False)
    assert cut.input_ids[0] == tokenizer.bos_token_id
    assert cut.targets.tolist() == whole.targets.tolist()
    assert cut.input_ids[1:].tolist() == whole.input_ids[-9:].tolist()


@given(st.integers(0, 12), st.integers(1, 12), st.integers(8, 14), st.booleans())
def test_truncation_keeps_as_much_as_fits(prompt: int, completion: int, length: int, bos: bool) -> None:
    tokenizer = _TOKENIZERS[bos]
    whole = one(pair("xyzuvwabcdef"[:prompt], "ghijklmnopqr"[:completion]), tokenizer, length=1000)
    cut = one(pair("xyzuvwabcdef"[:prompt], "ghijklmnopqr"[:completion]), tokenizer, length=length)
    assert len(cut) == min(len(whole), length)
    assert cut.truncated == (len(whole) > length)
    kept = cut.targets.tolist()
    assert kept == whole.targets.tolist()[: len(kept)]
    assert len(kept) == len(whole.targets) or len(kept) == length - 1


_TOKENIZERS = {bos: make_tokenizer(with_bos=bos) for bos in (True, False)}


def test_blank_completions_are_left_out_and_counted(tokenizer: Any) -> None:
    records = [pair("a", "b"), pair("a", ""), pair("a", " \n"), pair("abcdefghijklmno", "b")]
    for template in (PLAIN, PromptTemplate(), ChatTemplate(kind="chat")):
        examples = tokenise(records, tokenizer, template, 12)
        assert len(examples) == 2
        report = token_report(records, examples, batch=2)
        assert (report.records, report.examples, report.empty) == (4, 2, 2)
        assert report.truncated >= 1
        assert "empty completion: 2" in "\n".join(report.lines())


def test_padding_is_what_batches_of_similar_length_waste(tokenizer: Any) -> None:
    records = [pair("a" * n, "b") for n in (1, 2, 8, 9)]
    examples = tokenise(records, tokenizer, PLAIN, 128)
    report = token_report(records, examples, batch=2)
    lengths = sorted(map(len, examples))
    padded = 2 * lengths[1] + 2 * lengths[3]
    assert report.padding == pytest.approx(1 - sum(lengths) / padded)
    assert token_report([], []).padding == 0


def test_tokenizers_without_offsets_split_at_the_same_place(tokenizer: Any) -> None:
    class Slow:
        is_fast = False
        bos_token_id = None
        eos_token_id = tokenizer.eos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            return (
                {"input_ids": [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]}
                if options.get("add_special_tokens", True)
                else tokenizer(text)
            )

    slow: Any = Slow()
    assert encode_pair(slow, "the answer is", " yes") == encode_pair(tokenizer, "the answer is", " yes")


def test_tokenizers_that_close_every_text() -> None:
    closing = make_tokenizer()
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <e>", special_tokens=[("<e>", 2)]
    )
    plain = make_tokenizer()
    assert encode_pair(closing, "the answer is", " yes") == encode_pair(plain, "the answer is", " yes")


# --- chat ----------------------------------------------------------------------------------------------------


def test_chat_answers_with_their_end_mark_are_supervised(tokenizer: Any) -> None:
    template = ChatTemplate(kind="chat", system="Be brief.")
    record = render({"prompt": "the answer?", "completion": "yes"}, template, record_id="1")
    prompt, completion = text_pair(record, tokenizer, template)
    assert prompt == "<s>system\nBe brief.<e>\n<s>user\nthe answer?<e>\n<s>assistant\n"
    assert completion == "yes<e>"
    example = one(record, tokenizer, template)
    assert tokenizer.decode(example.targets.tolist()) == "yes<e>"


def test_whole_conversations(tokenizer: Any) -> None:
    template = ChatTemplate(kind="chat", messages="turns")
    turns = [
        {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    record = render({"turns": [*turns, {"role": "assistant", "content": "d"}]}, template, record_id="1")
    example = one(record, tokenizer, template)
    assert tokenizer.decode(example.targets.tolist()) == "d<e>"
    assert "b<e>" in tokenizer.decode(example.input_ids.tolist())


def test_a_chat_template_that_refuses(tokenizer: Any) -> None:
    template = ChatTemplate(kind="chat", messages="turns")
    turns = [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(PrivetError, match="no tools"):
        one(render({"turns": turns}, template, record_id="1"), tokenizer, template)


def test_chat_without_a_chat_template() -> None:
    with pytest.raises(PrivetError, match="no chat template") as caught:
        tokenise([pair("a", "b")], make_tokenizer(chat_template=None), ChatTemplate(kind="chat"), 20)
    assert caught.value.field == "data.template.kind"


def test_end_of_text_without_an_end_token() -> None:
    with pytest.raises(PrivetError, match="no end-of-text token") as caught:
        tokenise([pair("a", "b")], make_tokenizer(eos_token=None), PromptTemplate(), 20)
    assert "end_of_text" in str(caught.value.hint)


@pytest.mark.parametrize(
    "module", ["privet.templates", "privet.tokenise", "privet.data.load", "privet.evaluate"]
)
def test_modules_can_be_imported_first(module: str) -> None:
    """Templates make records and data are rendered by templates; neither package may need the other half loaded."""
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
