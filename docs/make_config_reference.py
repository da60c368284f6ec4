"""Writes ``docs/config.md`` from the schema in ``privet.config``: ``python docs/make_config_reference.py``.

With ``--check`` nothing is written, and the exit code is 1 if the file is not what the schema says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from privet.config_fields import ConfigField, ConfigSection, sections

TARGET = Path(__file__).with_name("config.md")
HEAD = """# Configuration reference

<!-- Generated from the schema by `python docs/make_config_reference.py`; edit the descriptions in the source. -->

A run is one YAML file. `privet init` writes one with comments, `privet validate FILE` lists every mistake in it at
once, each with its path, and `privet plan FILE` says what it would promise and cost. On the command line,
`--set section.key=value` overrides a key.

- An unknown key is a mistake, never ignored.
- *Default* is what holds when a key is absent; **required** keys have none.
- A section with several kinds is told apart by its key `kind`; keys of one kind are no keys of another.
- `privacy`, `sealing`, `codec` and `system` change what a party could learn. `engine` changes only how fast a run is
  and where it happens.
"""


def render() -> str:
    """The whole page."""
    parts = [HEAD, _contents(), *(_section(section) for section in sections())]
    return "\n".join(parts)


def _contents() -> str:
    top = [section for section in sections() if section.path and "." not in section.path]
    names = list(dict.fromkeys(section.path for section in top))
    return "Sections: " + ", ".join(f"[`{name}`](#{name})" for name in names) + "\n"


def _section(section: ConfigSection) -> str:
    nested = "." in section.path
    lines = []
    if not section.path:
        lines.append("## Top level")
    elif _is_first_kind(section):
        lines.append(f"{'###' if nested else '##'} {section.path}")
        if section.kind:
            lines.append("")
    if section.kind:
        lines.append(f"{'####' if nested else '###'} `{section.path}.kind: {section.kind}`")
    lines += ["", section.summary.replace("``", "`"), ""]
    if section.fields:
        lines += ["| key | value | default | what it decides |", "|---|---|---|---|"]
        lines += [_row(row) for row in section.fields]
        lines.append("")
    return "\n".join(lines)


def _is_first_kind(section: ConfigSection) -> bool:
    return next(other for other in sections() if other.path == section.path).kind == section.kind


def _row(row: ConfigField) -> str:
    name, key = row.path.rsplit(".", 1)[-1], f"`{row.path.rsplit('.', 1)[-1]}`"
    if any(section.path == row.path for section in sections()):
        key = f"[{key}](#{row.path.replace('.', '')})"
    plain = row.default in ("absent", "all defaults")
    default = "**required**" if row.default is None else row.default if plain else f"`{row.default}`"
    value = f"{row.type}, {row.bounds}" if row.bounds else row.type
    text = row.description.replace("``", "`") or (
        "Version of this format." if name == "version" else "See below."
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (key, value, default, text)) + " |"


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    current = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text
    if not current:
        print(f"{TARGET.name} is out of date: run `python docs/make_config_reference.py`", file=sys.stderr)
    return 0 if current else 1


if __name__ == "__main__":
    raise SystemExit(main())
