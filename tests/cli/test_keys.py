"""``privet keys``: cards, a roster, signatures; private keys stay in their folder."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from typer.testing import CliRunner

from privet.cli import app


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_from_cards_to_a_roster_that_everybody_signed(tmp_path: Path) -> None:
    sites = ("north", "south", "west")
    prints = {}
    for site in sites:
        code, out, _ = invoke("keys", "init", tmp_path / site, "--name", site, "--json")
        assert code == 0
        prints[site] = json.loads(out)["fingerprint"]
        shown = json.loads(invoke("keys", "show", tmp_path / site, "--json")[1])
        assert shown["fingerprint"] == prints[site]
    roster = tmp_path / "roster.json"
    cards = [tmp_path / site / "card.json" for site in reversed(sites)]
    code, out, _ = invoke("keys", "roster", *cards, "--consortium", "clinics", "--out", roster)
    assert code == 0
    assert "3 of 3 signatures are missing" in out
    for site in sites:
        assert invoke("keys", "sign", tmp_path / site, roster)[0] == 0
    shown = json.loads(invoke("keys", "show", roster, "--json")[1])
    assert shown["complete"]
    assert {row["name"]: row["fingerprint"] for row in shown["members"]} == prints
    assert "signed" in invoke("keys", "show", roster)[1]


def test_copies_are_merged(tmp_path: Path) -> None:
    for site in ("a", "b"):
        invoke("keys", "init", tmp_path / site, "--name", site)
    cards = [tmp_path / site / "card.json" for site in ("a", "b")]
    for copy, site in (("one.json", "a"), ("two.json", "b")):
        invoke("keys", "roster", *cards, "--consortium", "c", "--out", tmp_path / copy)
        invoke("keys", "sign", tmp_path / site, tmp_path / copy)
    copies = [tmp_path / "one.json", tmp_path / "two.json"]
    code, out, _ = invoke("keys", "merge", *copies, "--out", tmp_path / "both.json", "--json")
    assert code == 0
    assert json.loads(out)["complete"]


def test_nothing_of_a_private_key_is_shown_or_left_open(tmp_path: Path) -> None:
    outputs = list(invoke("keys", "init", tmp_path / "site", "--name", "site")[1:])
    outputs += invoke("keys", "show", tmp_path / "site")[1:]
    pem = (tmp_path / "site" / "identity.pem").read_text(encoding="ascii")
    body = "".join(pem.splitlines()[1:-1])
    assert not any(body[:20] in text or "PRIVATE" in text for text in outputs)
    assert stat.S_IMODE((tmp_path / "site" / "identity.pem").stat().st_mode) == 0o600


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    code, _, told = invoke("keys", "show", other)
    assert code == 2
    assert f"{other}: this is not a roster" in told
    assert "privet keys roster" in told


def test_an_identity_is_never_replaced(tmp_path: Path) -> None:
    invoke("keys", "init", tmp_path / "site", "--name", "site")
    code, _, err = invoke("keys", "init", tmp_path / "site", "--name", "site")
    assert code == 2
    assert "already holds an identity" in err


def test_a_roster_that_was_changed_after_signing_is_told_and_not_signed(tmp_path: Path) -> None:
    for site in ("a", "b", "other"):
        invoke("keys", "init", tmp_path / site, "--name", site)
    roster = tmp_path / "roster.json"
    cards = [tmp_path / site / "card.json" for site in ("a", "b")]
    invoke("keys", "roster", *cards, "--consortium", "c", "--out", roster)
    assert invoke("keys", "sign", tmp_path / "a", roster)[0] == 0
    document = json.loads(roster.read_text(encoding="utf-8"))
    key = json.loads((tmp_path / "other" / "card.json").read_text(encoding="utf-8"))["public_key"]
    document["members"][1]["public_key"] = key
    roster.write_text(json.dumps(document), encoding="utf-8")
    out = invoke("keys", "show", roster)[1]
    assert "SIGNATURE DOES NOT MATCH" in out
    assert "changed after it was signed" in out
    shown = json.loads(invoke("keys", "show", roster, "--json")[1])
    assert [row["signature"] for row in shown["members"]] == ["wrong", "missing"]
    before = roster.read_bytes()
    for site in ("a", "other"):
        code, _, err = invoke("keys", "sign", tmp_path / site, roster)
        assert code == 2
        assert "was changed after it was signed" in err
    assert roster.read_bytes() == before
