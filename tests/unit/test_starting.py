"""What a machine checks before it joins, where a mistake must not end in a stack trace or weaken a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from privet import durable
from privet.deploy.starting import _set_data, check_path, common_name
from privet.errors import PrivetError


@pytest.mark.parametrize("name", ["Hospital North", "it's", 'a"b', "a\\b", "a\tb"])
def test_a_kit_whose_path_flare_would_cut_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(PrivetError, match="no blank, quote or backslash"):
        check_path(tmp_path / name)
    check_path(tmp_path)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "client.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n")
    with pytest.raises(PrivetError, match=r"client\.crt: is no certificate"):
        common_name(tmp_path / "client.crt")


def test_the_policy_is_whole_after_the_data_were_set_or_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is cut off would be read with the limits that stand when none is written."""
    path = tmp_path / "site.yaml"
    text = "# ours\ndata: /old\npolicy:\n  max_epsilon: 0.5\n"
    path.write_text(text, encoding="utf-8")

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write", full)
        with pytest.raises(OSError, match="No space"):
            _set_data(path, tmp_path / "rows.jsonl")
    assert path.read_text(encoding="utf-8") == text
    _set_data(path, tmp_path / "rows.jsonl")
    assert path.read_text(encoding="utf-8") == text.replace("data: /old", f'data: "{tmp_path}/rows.jsonl"')
    path.write_bytes(b"data: \xff\n")
    with pytest.raises(PrivetError, match="not UTF-8"):
        _set_data(path, tmp_path / "rows.jsonl")


def test_what_a_server_wrote_moves_no_cursor_in_an_error() -> None:
    shown = str(
        PrivetError("is not a key\x1b[2J", field="a\rb", given="x\x1b[1;1Happroved\u202e", hint="two\nlines")
    )
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "\u202e" not in shown
    assert shown.endswith("two\nlines")
