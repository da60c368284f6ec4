"""How a run reads a site's rows: approved by the site, and no row decides about another or about taking part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.records import config
from support.tiny_tokenizer import make_tokenizer

from privet.data.each_alone import load_each_alone
from privet.data.load import load
from privet.data_config import ClassificationTemplate
from privet.errors import PrivetError
from privet.material import answer_tokens
from privet.reading import Reading
from privet.sealing.base import SealingRefused
from privet.site_policy import SitePolicy
from privet.tokenise import tokenise_each_alone

TEMPLATE = {
    "kind": "classification",
    "prompt": "Text: {text}\nSentiment:",
    "verbalisers": {"0": " bad", "1": " good"},
}
BASE: dict[str, Any] = {"kind": "jsonl", "path": "server.jsonl", "template": TEMPLATE}
ROWS = [{"text": f"words number {i}", "label": i % 2, "patient": i // 2} for i in range(20)]


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "csv"},
        {"template": {**TEMPLATE, "prompt": "Text: {text} {name}\nSentiment:"}},
        {"template": {**TEMPLATE, "prompt": "text: {text}\nSentiment:"}},
        {"template": {**TEMPLATE, "label": "diagnosis"}},
        {"template": {**TEMPLATE, "verbalisers": {"0": " bad", "HIV": " good"}}},
        {"template": {**TEMPLATE, "compare": "vocabulary"}},
        {"split": {"group": "name"}},
        {"split": {"test": 0.5}},
        {"split": {"seed": 1}},
        {"max_length": 8},
    ],
)
def test_a_server_cannot_choose_how_rows_are_read(other: dict[str, Any]) -> None:
    """Each choice is a question about the rows: which of them render, which are held out, what the gradients are of."""
    approved = Reading.of(config(**BASE))
    asked = Reading.of(config(**{**BASE, **other}))
    policy = SitePolicy(readings=(approved.fingerprint,))
    approved.check(policy)
    with pytest.raises(SealingRefused, match="policy-reading"):
        asked.check(policy)


def test_nothing_is_approved_before_the_site_has_looked() -> None:
    with pytest.raises(SealingRefused, match="policy-reading"):
        Reading.of(config(**BASE)).check(SitePolicy())


def test_what_plays_no_part_at_a_site_changes_no_fingerprint() -> None:
    named = {"path": "/etc/passwd", "test_path": "t.jsonl", "public_path": "p.jsonl", "test_public": True}
    partition = {"partition": {"kind": "file"}}
    found = Reading.of(config(**{**BASE, **named, **partition, "split": {"public": 0.3}}))
    assert found.fingerprint == Reading.of(config(**BASE)).fingerprint
    assert found.columns == ("label", "text")
    assert "passwd" not in "".join(found.lines())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({**BASE, "remove_near_duplicates": True}, "near-duplicates"),
        ({"kind": "sentiment"}, "data-kind"),
        ({"kind": "huggingface", "name": "x"}, "data-kind"),
    ],
)
def test_what_no_site_reads_is_refused_whatever_its_policy(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(SealingRefused, match=reason):
        Reading.of(config(**data))


BAD_LINES = {
    "no JSON": '{"text": "half',
    "no object": "[1, 2]",
    "no column": '{"label": 1, "patient": 1}',
    "no verbaliser": '{"text": "t", "label": 7, "patient": 1}',
    "half a character": '{"text": "\\ud800", "label": 1, "patient": 1}',
    "too deep": "[" * 100_000,
    "no group": '{"text": "t", "label": 1}',
    "an empty group": '{"text": "t", "label": 1, "patient": ""}',
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_row_that_cannot_be_read_changes_nothing_else(name: str, tmp_path: Path) -> None:
    """With it, before all others, the same records come out, and nobody refuses; the strict reader does."""
    path = tmp_path / "site.jsonl"
    rows = [json.dumps(row) for row in ROWS]
    data = config(**{**BASE, "path": str(path), "split": {"group": "patient", "test": 0.2}})
    path.write_text("\n".join(["", *rows]), encoding="utf-8")
    without, left_out = load_each_alone(data)
    assert not left_out
    path.write_text("\n".join([BAD_LINES[name], *rows]), encoding="utf-8")
    found, left_out = load_each_alone(data)
    assert found.silos == without.silos
    assert len(found.silos[0]) > 10
    (told,) = left_out
    assert told.startswith(("line 1", "site.jsonl line 1"))
    if name not in ("half a character", "too deep"):
        with pytest.raises(PrivetError):
            load(data)


def test_a_bad_byte_spoils_its_own_row_only(tmp_path: Path) -> None:
    path = tmp_path / "site.jsonl"
    data = config(**{**BASE, "path": str(path), "split": {"test": 0.0}})
    path.write_bytes(b'{"text": "\xff\xfe", "label": 1}\n' + "\n".join(map(json.dumps, ROWS)).encode())
    (silo,) = load_each_alone(data)[0].silos
    assert [record.fields["text"] for record in silo.records[1:]] == [row["text"] for row in ROWS]


def test_a_file_without_a_usable_row_is_no_reason_to_stay_away(tmp_path: Path) -> None:
    path = tmp_path / "site.jsonl"
    path.write_text("", encoding="utf-8")
    dataset, _ = load_each_alone(config(**{**BASE, "path": str(path)}))
    assert [len(silo) for silo in dataset.silos] == [0]
    path.unlink()
    with pytest.raises(PrivetError, match="no such file"):
        load_each_alone(config(**{**BASE, "path": str(path)}))


class Panic(BaseException):
    """What a tokenizer in Rust raises that a file of its own made panic on some text."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_record_that_the_tokenizer_refuses_is_left_out_by_itself(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "site.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS[:3])), encoding="utf-8")
    data = config(**{**BASE, "path": str(path), "split": {"test": 0.0}})
    records = load_each_alone(data)[0].silos[0].records

    class Moody:
        def __init__(self) -> None:
            self._inner = make_tokenizer()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __call__(self, text: str, **options: Any) -> Any:
            if "number 1" in text:
                raise kind(text)
            return self._inner(text, **options)

    examples, left_out = tokenise_each_alone(records, Moody(), data.template, 64)
    assert [example.id for example in examples] == [records[0].id, records[2].id]
    assert left_out == [f"{records[1].id}: not tokenised ({kind.__name__})"]


def test_no_record_decides_what_all_others_are_compared_with() -> None:
    """The verbalisers' tokens follow from template and tokenizer; no record is looked at, not even the first."""

    class Model:
        tokenizer = make_tokenizer()

    words = {**TEMPLATE, "prompt": "{text}", "verbalisers": {"0": "x", "1": "z"}}
    found = answer_tokens(ClassificationTemplate(**words), Model())  # type: ignore[arg-type]  # what is used of a model
    assert found is not None
    assert Model.tokenizer.convert_ids_to_tokens(list(found)) == ["x", "z"]


def test_what_an_operator_is_shown_moves_no_cursor_and_hides_nothing() -> None:
    prompt = "Text: {a\n\x1b[2K\u202eb} {text}\nSentiment:"
    lines = Reading.of(config(**{**BASE, "template": {**TEMPLATE, "prompt": prompt}})).lines()
    assert all(line.isprintable() for line in lines)
    assert r"a\n\x1b[2K\u202eb" in lines[0]


def test_approving_adds_a_fingerprint_and_keeps_the_files_comments(tmp_path: Path) -> None:
    from privet.deploy import approving
    from privet.engines.homes import SITE, SiteHome, site_template

    home = SiteHome(tmp_path / "privet", "a")
    home.path.mkdir()
    (home.path / SITE).write_text(site_template(), encoding="utf-8")
    before = (home.path / SITE).read_text(encoding="utf-8").count("#")
    found = pytest.MonkeyPatch()
    found.setattr(approving, "site_home", lambda kit: home)
    try:
        reading = Reading.of(config(**BASE))
        assert approving.approve(tmp_path, reading)
        assert not approving.approve(tmp_path, reading)
        other = Reading.of(config(**{**BASE, "max_length": 8}))
        assert approving.approve(tmp_path, other)
    finally:
        found.undo()
    assert home.settings.policy.readings == (reading.fingerprint, other.fingerprint)
    assert (home.path / SITE).read_text(encoding="utf-8").count("#") == before
    kept = yaml.safe_load(
        (home.path / "approved" / f"{other.fingerprint[:12]}.yaml").read_text(encoding="utf-8")
    )
    assert kept == other.section
