"""From a row of columns to a record: prompt and completion by template, label by verbaliser.

A template may name columns and nothing else: no attributes, indices or formats, so that a configuration
cannot reach into Python objects as ``str.format`` would let it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from privet.data.records import Record
from privet.data_config import ChatTemplate, ClassificationTemplate, PromptTemplate, Template
from privet.errors import PrivetError
from privet.values import as_text

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class RowError(ValueError):
    """A row that does not fit the template. The message names columns and types, never what a row says."""


class LabelError(RowError):
    """A row whose label has no verbaliser.

    Args:
        message: Names the column; the label is not part of it.
        label: What the row holds, for the eyes of whoever holds the data.
    """

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


def columns(text: str) -> list[str]:
    """Names of the columns that a template's text asks for.

    Raises:
        PrivetError: for a brace that neither opens nor closes a column's name.
    """
    names = []
    for match in _SLOT.finditer(text):
        if match[0] in ("{", "}") or match[1] == "":
            raise PrivetError(
                "a brace without a column",
                field="data.template",
                given=text,
                allowed="{column}, or {{ and }} for braces",
            )
        if match[1] is not None:
            names.append(match[1])
    return names


def fill(text: str, row: Mapping[str, Any]) -> str:
    """``text`` with every ``{column}`` replaced by the row's value.

    Raises:
        RowError: if a column is missing or empty of a value.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return text_of(row, match[1])

    return _SLOT.sub(value, text)


def group_of(row: Mapping[str, Any], column: str | None) -> str | None:
    """What a row belongs to; ``None`` without a column that says so.

    Raises:
        RowError: if the column is missing or blank: rows without a group would else be one and the same person's.
    """
    if column is None:
        return None
    group = text_of(row, column)
    if not group.strip():
        raise RowError(f"column '{column}' is blank where a group is needed")
    return group


def content(row: Mapping[str, Any], template: Template) -> str:
    """What a row says, without the template's own words: by it copies are recognised.

    Raises:
        RowError: if a column is missing.
    """
    if isinstance(template, ChatTemplate) and template.messages is not None:
        messages = conversation(row.get(template.messages), template.messages)
        return "\n".join(message["content"] for message in messages[:-1])
    return "\n".join(text_of(row, name) for name in sorted(set(columns(template.prompt))))


def required_columns(template: Template) -> set[str]:
    """Columns that every row must have for ``template``."""
    if isinstance(template, ClassificationTemplate):
        return {*columns(template.prompt), template.label}
    if isinstance(template, ChatTemplate) and template.messages is not None:
        return {template.messages}
    return {*columns(template.prompt), *columns(template.completion)}


def render(
    row: Mapping[str, Any],
    template: Template,
    *,
    record_id: str,
    group: str | None = None,
    own_id: bool = False,
) -> Record:
    """The record that a row stands for.

    Args:
        row: Columns by name.
        template: How they become text.
        record_id: Identity of the record.
        group: What it belongs to.
        own_id: Whether the identity follows from no other row.

    Raises:
        LabelError: if a label has no verbaliser.
        RowError: if a column is missing, or a conversation has no answer.
    """
    if isinstance(template, ClassificationTemplate):
        labels = list(template.verbalisers)
        given = text_of(row, template.label)
        if given not in template.verbalisers:
            raise LabelError(f"column '{template.label}' holds a label without a verbaliser", given)
        prompt, completion = fill(template.prompt, row), template.verbalisers[given]
        return Record(record_id, prompt, completion, labels.index(given), group, row, own_id)
    if isinstance(template, ChatTemplate) and template.messages is not None:
        messages = conversation(row.get(template.messages), template.messages)
        prompt = "\n".join(message["content"] for message in messages[:-1])
        return Record(record_id, prompt, messages[-1]["content"], None, group, row, own_id)
    return Record(
        record_id, fill(template.prompt, row), fill(template.completion, row), None, group, row, own_id
    )


def plain_label(label: str) -> str:
    """A label without what people overlook: case, and blanks around it. Labels themselves are compared exactly."""
    return label.strip().casefold()


def conversation(value: object, column: str) -> list[dict[str, str]]:
    """Check that ``value`` is a conversation that an assistant ends.

    Raises:
        RowError: if it is not a list of ``{role, content}`` whose last role is ``assistant``.
    """
    if not isinstance(value, list) or len(value) < 2:
        raise RowError(f"column '{column}' is not a list of at least two messages")
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise RowError(f"column '{column}' has a message that is not {{role, content}}")
        messages.append({"role": str(message.get("role")), "content": message["content"]})
    if messages[-1]["role"] != "assistant":
        raise RowError(f"column '{column}' does not end with a message by 'assistant'")
    return messages


def chat_messages(record: Record, template: ChatTemplate) -> list[dict[str, str]]:
    """The conversation of a record without its last answer, as the tokenizer's chat template takes it."""
    if template.messages is not None:
        turns = conversation(record.fields.get(template.messages), template.messages)[:-1]
    else:
        turns = [{"role": "user", "content": record.prompt}]
    if template.system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": template.system}, *turns]
    return turns


def is_blank(record: Record, template: Template) -> bool:
    """Whether a column of the prompt is empty, or the prompt is a conversation that says nothing."""
    if isinstance(template, ChatTemplate) and template.messages is not None:
        return not record.prompt.strip()
    return any(not text_of(record.fields, name).strip() for name in columns(template.prompt))


def choices(template: Template) -> list[str]:
    """The verbalisers in label order; empty when the template is no classification."""
    return list(template.verbalisers.values()) if isinstance(template, ClassificationTemplate) else []


def ends_text(template: Template) -> bool:
    """Whether the tokenizer's end-of-text token follows the completion and is learned."""
    return isinstance(template, PromptTemplate) and template.end_of_text


def text_of(row: Mapping[str, Any], column: str) -> str:
    """What a row says in one column, as templates, labels and groups take it.

    Raises:
        RowError: if the column is missing or holds what is no text.
    """
    if column not in row:
        raise RowError(f"no column '{column}'")
    value = row[column]
    text = as_text(value)
    if text is not None:
        return text
    kind = "no value" if value is None or isinstance(value, float) else type(value).__name__
    raise RowError(f"column '{column}' holds {kind} where text is needed")
