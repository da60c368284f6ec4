"""The rows that describe the configuration, and the reference page made of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from privet.config_fields import descriptions, kinds, sections

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_config_reference", DOCS / "make_config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = (DOCS / "config.md").read_text(encoding="utf-8") == module.render()
    assert current, "run `python docs/make_config_reference.py`"


def test_every_key_says_what_it_decides() -> None:
    silent = [row.path for section in sections() for row in section.fields if not row.description]
    assert set(silent) <= {"version", "system", "data", "codec", "sealing"}, silent


def test_rows_name_type_default_and_bounds() -> None:
    rows = {row.path: row for section in sections() for row in section.fields}
    rounds = rows["schedule.rounds"]
    assert (rounds.type, rounds.default, rounds.bounds) == ("whole number", "40", "≥ 1")
    assert rows["privacy.unit"].type == "`record`, `client`"
    assert rows["privacy.clip_norm"].type == "number or `public`"
    assert rows["system"].default is None
    assert rows["privacy"].default == "absent"
    assert "`kind: masked`" in rows["sealing"].type


def test_kinds_and_descriptions() -> None:
    assert {"fedavg", "dp_lora", "hedge"} <= set(kinds("system"))
    assert descriptions()["schedule.rounds"] == "Rounds T."
