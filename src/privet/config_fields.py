"""Every key of the configuration as a row: path, type, default, bounds and description, read off the schema.

The reference in ``docs/config.md``, the comments that ``privet init`` writes and the configuration in a report all come
from these rows, so that none of them can say something else than what `privet.config` checks.
"""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@dataclass(frozen=True)
class ConfigField:
    """One key.

    Attributes:
        path: Dotted path, e.g. ``schedule.local.steps``.
        kind: For a key of a section with several kinds, the kind it belongs to; else ``None``.
        type: What may stand there, in words of YAML.
        default: The default as YAML text; ``None`` for a key that must be given.
        bounds: Limits such as ``> 0``; empty without.
        description: What it decides.
    """

    path: str
    kind: str | None
    type: str
    default: str | None
    bounds: str
    description: str


@dataclass(frozen=True)
class ConfigSection:
    """A section, or one kind of it: its rows in the order of the schema.

    Attributes:
        path: Dotted path; empty for the top level.
        kind: The value of its key ``kind``, where a section has several; else ``None``.
        summary: First paragraph of the model's docstring.
        fields: Its own keys; nested sections follow as sections of their own.
    """

    path: str
    kind: str | None
    summary: str
    fields: tuple[ConfigField, ...]


def sections(model: type[BaseModel] | None = None) -> list[ConfigSection]:
    """All sections of the configuration, parents before children, each kind of a section on its own."""
    if model is None:
        from privet.config import Config

        model = Config
    found: dict[tuple[str, str | None], ConfigSection] = {}
    for section in _walk(model, "", None):
        # Each kind of data holds the same nested sections: one of them speaks for all.
        found.setdefault((section.path, section.kind), section)
    return list(found.values())


def descriptions() -> dict[str, str]:
    """Description by dotted path; where several kinds share a key, that of the first kind."""
    found: dict[str, str] = {}
    for section in sections():
        for row in section.fields:
            found.setdefault(row.path, row.description)
    return found


def kinds(path: str) -> tuple[str, ...]:
    """The kinds that the section at ``path`` offers, in the order of the schema."""
    return tuple(section.kind for section in sections() if section.path == path and section.kind)


def _walk(model: type[BaseModel], path: str, kind: str | None) -> Iterator[ConfigSection]:
    rows, below = [], []
    for name, info in model.model_fields.items():
        if name == "kind" and kind is not None:
            continue  # it stands in the section's own heading
        where = f"{path}.{name}" if path else name
        models = list(models_of(info.annotation))
        rows.append(
            ConfigField(
                where, kind, _type(info.annotation), _default(info), _bounds(info), _text(info, models)
            )
        )
        below += [(child, where, kind_of(child) if len(models) > 1 else None) for child in models]
    yield ConfigSection(path, kind, _summary(model), tuple(rows))
    for child, where, its_kind in below:
        yield from _walk(child, where, its_kind)


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that a value of this type may be, each once."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType):
        for part in get_args(annotation):
            yield from models_of(part)
    elif get_origin(annotation) is tuple:
        yield from models_of(get_args(annotation)[0])


def kind_of(model: type[BaseModel]) -> str | None:
    """The one value of a model's key ``kind``; ``None`` if it has no such key or several values."""
    info = model.model_fields.get("kind")
    values = get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()
    return str(values[0]) if len(values) == 1 else None


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{_yaml(value)}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if all(inspect.isclass(part) and issubclass(part, BaseModel) and kind_of(part) for part in parts):
            return "one of " + ", ".join(f"`kind: {kind_of(part)}`" for part in parts)
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin is tuple:
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return f"mapping of {' to '.join(_type(part) for part in get_args(annotation))}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    names: dict[Any, str] = {
        bool: "`true` or `false`",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
    }
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    return names.get(annotation, str(annotation))


def _default(info: FieldInfo) -> str | None:
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", None)
        other = ", ".join(
            f"{name}: {_yaml(it)}" for name, it in value.model_dump(exclude_defaults=True).items()
        )
        return f"kind: {kind}" if kind else other or "all defaults"
    return _yaml(value)


def _bounds(info: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥", "max_length": "length ≤"}
    found = [
        f"{sign} {getattr(constraint, name):g}"
        for constraint in info.metadata
        for name, sign in signs.items()
        if getattr(constraint, name, None) is not None
    ]
    return ", ".join(found)


def _text(info: FieldInfo, models: list[type[BaseModel]]) -> str:
    if info.description:
        return " ".join(info.description.split())
    return _summary(models[0]) if len(models) == 1 else ""


def _summary(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split("\n\n", maxsplit=1)[0].split())


def _yaml(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(part) for part in value) + "]"
    return str(value)
