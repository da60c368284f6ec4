"""What is wrong with single keys of a configuration, in words of YAML: the path, the value, what is allowed."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from privet.config_fields import kind_of, models_of

SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
LENGTHS = {"min_length": "at least", "max_length": "at most"}
KINDS = {
    "bool": "`true` or `false`",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "text, in quotes if it looks like something else",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of keys to values",
    "model": "a section, with its keys indented below",
}


_PART = reprlib.Repr()
_PART.maxlevel, _PART.maxdict, _PART.maxlist, _PART.maxstring = 2, 4, 6, 60


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration."""

    path: str
    message: str
    given: object = None
    allowed: str | None = None

    def __str__(self) -> str:
        """One line; the value is cut where it is long."""
        given = "" if self.given is None else f" (given: {_short(self.given)})"
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{self.path}: {self.message}{given}{allowed}"


def _short(value: object) -> str:
    """A value in a line; of a section that stands in others many times, a part."""
    return _PART.repr(value) if isinstance(value, dict | list | tuple) else str(value)[:120]


def problems_of_fields(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every mistake that validation found, each path once, as the path stands in the file.

    Args:
        error: What validating ``model`` raised.
        model: The whole configuration's model.
    """
    found: dict[str, Problem] = {}
    for row in error.errors(include_url=False):
        problem = _problem(row, model)
        before = found.get(problem.path)
        if before is not None and problem.allowed and before.allowed:
            # A key of several types has an error for each of them
            allowed = " or ".join(dict.fromkeys((before.allowed, problem.allowed)))
            problem = Problem(problem.path, before.message, before.given, allowed)
        found[problem.path] = problem
    return list(found.values())


def truths_for_numbers(raw: object, model: type[BaseModel], path: str = "") -> Iterator[Problem]:
    """``rounds: yes`` and the like, which Python would take for 1.

    Args:
        raw: The configuration, or a section of it, as it stands in the file.
        model: Its model.
        path: Where the section is.
    """
    for key, value in raw.items() if isinstance(raw, dict) else ():
        info = model.model_fields.get(key)
        if info is None:
            continue
        where = f"{path}.{key}" if path else str(key)
        takes = (info.annotation, *get_args(info.annotation))
        if isinstance(value, bool) and bool not in takes and (int in takes or float in takes):
            yield Problem(where, "has the wrong type", value, KINDS["int" if int in takes else "float"])
        found = list(models_of(info.annotation))
        kind = value.get("kind") if isinstance(value, dict) else None
        for child in found if len(found) == 1 else [one for one in found if kind_of(one) == kind]:
            yield from truths_for_numbers(value, child, where)


def _problem(error: Any, model: type[BaseModel]) -> Problem:
    where, keys = _place(error["loc"], model)
    path, given, kind = ".".join(where) or "config", error.get("input"), str(error["type"])
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        shown = None if isinstance(given, dict | list) else given
        return Problem(path, "unknown key", shown, _nearest(where[-1], keys))
    if kind == "missing":
        return Problem(path, "is missing")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags, tag = str(context.get("expected_tags", "")).replace("'", "").split(", "), context.get("tag")
        if kind == "union_tag_not_found":
            tags = [name for name in (kind_of(found) for found in _models_at(error["loc"], model)) if name]
            return Problem(f"{path}.kind", "is missing", None, ", ".join(tags))
        return Problem(f"{path}.kind", "there is no such kind", tag, _nearest(str(tag), tags))
    return wrong_value(path, error)


def wrong_value(path: str, error: Any) -> Problem:
    """A mistake of one value: its type, its bounds, or a rule of its section."""
    given, kind, context = error.get("input"), str(error["type"]), error.get("ctx", {})
    if expected := context.get("expected"):
        return Problem(path, "is none of what may stand here", given, expected)
    if bounds := [f"{sign} {context[name]:g}" for name, sign in SIGNS.items() if name in context]:
        return Problem(path, "is out of bounds", given, ", ".join(bounds))
    if bound := next((name for name in LENGTHS if name in context), None):
        what = "characters" if isinstance(given, str) else "entries"
        held = given if isinstance(given, str) else f"{context['actual_length']} in all"
        message = "is too short" if bound == "min_length" else "is too long"
        return Problem(
            path, message, repr(given) if given == "" else held, f"{LENGTHS[bound]} {context[bound]} {what}"
        )
    stem = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    stem = "model" if stem == "model_attributes" else stem
    if stem in KINDS:
        return Problem(path, "has the wrong type", "nothing" if given is None else given, KINDS[stem])
    return Problem(path, str(error["msg"]).removeprefix("Value error, "), _scalar(given))


def _scalar(given: object) -> object:
    """The value, unless it is a whole section, which the path names well enough."""
    return None if isinstance(given, dict | list | tuple | BaseModel) else given


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """What may stand here, the likely ones first."""
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    rest = [other for other in names if other not in near]
    return ", ".join([f"{other} (nearest)" for other in near] + rest) or None


def _models_at(loc: Iterable[Any], model: type[BaseModel]) -> list[type[BaseModel]]:
    return _walk(loc, model)[1]


def _place(loc: Iterable[Any], model: type[BaseModel]) -> tuple[list[str], list[str]]:
    """The path in the file, and the keys that its last section has."""
    where, models = _walk(loc, model)
    return where, list(dict.fromkeys(name for found in models for name in found.model_fields))


def _walk(loc: Iterable[Any], model: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path without the names of kinds and types that validation puts into it, and the sections it ends at."""
    where: list[str] = []
    models, mapping = [model], False
    parts = list(loc)
    for number, part in enumerate(parts):
        kinds = [found for found in models if kind_of(found) == part]
        fields = [found.model_fields[part] for found in models if part in found.model_fields]
        if len(models) > 1 and kinds:
            models = kinds
        elif fields:
            where.append(str(part))
            models = list(dict.fromkeys(found for info in fields for found in models_of(info.annotation)))
            mapping = any(get_origin(info.annotation) is dict for info in fields)
        elif isinstance(part, int) or mapping or (number == len(parts) - 1 and _is_key(part, models)):
            where.append(str(part))
    return where, models


def _is_key(part: Any, models: Sequence[type[BaseModel]]) -> bool:
    """Whether the last part is a key that no section has, rather than the name of a type."""
    names = {found.__name__ for found in models}
    return bool(models) and part not in names and not str(part).startswith(("literal[", "tuple["))
