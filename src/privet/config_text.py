"""A configuration's text: YAML that says each thing once, and assignments from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from privet.errors import PrivetError


class _Once(yaml.SafeLoader):
    """Plain YAML in which a key stands once; the usual loader silently lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue  # what `<<` brings may be said anew
            name = self.construct_object(key, deep=True)
            if isinstance(name, str | int | float):
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {name!r} stands in line {seen[name]} already",
                        problem_mark=key.start_mark,
                    )
                seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, *, hint: str = "`privet init` writes an example") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: The file.
        hint: What a person is told whose file has nothing in it.

    Raises:
        PrivetError: if it is missing, no YAML, or no mapping.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Once)  # a SafeLoader
    except OSError as e:
        raise PrivetError(
            "cannot be read", field=str(path), given=e.strerror, hint="check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        where, what = getattr(e, "problem_mark", None), getattr(e, "problem", None)
        if where is None:
            raise PrivetError(
                "is not valid YAML", field=str(path), given="not UTF-8 text", hint="save the file as UTF-8"
            ) from None
        line = f"line {where.line + 1}, column {where.column + 1}" + (f": {what}" if what else "")
        hint = "indent with spaces, not tabs" if what and "\\t" in what else "mend that line or the one above"
        raise PrivetError("is not valid YAML", field=str(path), given=line, hint=hint) from None
    except (ValueError, RecursionError) as e:  # a date that is none, brackets without end
        what = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise PrivetError(
            "is not valid YAML", field=str(path), given=what, hint="mend or quote that value"
        ) from None
    if not isinstance(loaded, dict):
        raise PrivetError("has no sections", field=str(path), hint=hint)
    return loaded


def with_overrides(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``raw`` with ``a.b=value`` assignments applied; values are YAML.

    Raises:
        PrivetError: if an assignment has no ``=``, is no YAML, or goes through something that is no section.
    """
    merged: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(raw)))
    for assignment in overrides:
        path, separator, text = assignment.partition("=")
        if not separator or not path:
            raise PrivetError(
                "is no assignment", field="--set", given=assignment, allowed="section.key=value"
            )
        *parents, last = path.split(".")
        section = merged
        for name in parents:
            if section.get(name) is None:
                section[name] = {}
            if not isinstance(section[name], dict):
                raise PrivetError(
                    "is no section", field="--set", given=assignment, allowed="section.key=value"
                )
            section = section[name]
        try:
            section[last] = yaml.load(text, _Once)
        except (yaml.YAMLError, ValueError, RecursionError) as e:
            raise PrivetError(
                f"the value is not valid YAML: {getattr(e, 'problem', None) or 'it cannot be read'}",
                field="--set",
                given=assignment,
                hint="quote it for the shell; text with [ ] { } : or # needs quotes of its own",
            ) from None
    return merged
