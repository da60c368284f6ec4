"""The folder of a run: whole files, cut-off lines, one process, and nothing thrown away by mistake."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from privet.errors import PrivetError
from privet.run_folder import CLAIM, MARK, SIGN, RunFolder, describe_environment


def settled(path: Path) -> RunFolder:
    """A folder in which a run has settled its configuration."""
    folder = RunFolder.create(path)
    folder.write_json(CLAIM, "hash")
    folder.write(MARK, "system: {}\n")
    return folder


def test_a_new_folder_is_a_run_and_an_old_one_is_not_taken(tmp_path: Path) -> None:
    folder = settled(tmp_path / "a" / "run")
    assert RunFolder.open(folder.path) == folder
    with pytest.raises(PrivetError, match="a run is there already"):
        RunFolder.create(folder.path)
    with pytest.raises(PrivetError, match="not the folder of a run"):
        RunFolder.open(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty")


def test_a_run_that_was_never_settled_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json("env.json", {})
    folder.write_json("checkpoints/clip_norm.json", 1.0)
    RunFolder.create(folder.path).clear()
    assert [path.name for path in folder.path.iterdir()] == [SIGN]


@pytest.mark.parametrize("name", ["clients", "thesis.txt", MARK])
def test_what_may_be_lost_is_in_the_way(tmp_path: Path, name: str) -> None:
    """Clients' memories, strangers' files, and runs of a version that left no claim."""
    folder = RunFolder.create(tmp_path / "run")
    (folder / name).write_text("x", encoding="utf-8")
    with pytest.raises(PrivetError):
        RunFolder.create(folder.path)
    assert (folder / name).exists()


def test_only_a_run_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").write_text("x", encoding="utf-8")
    with pytest.raises(PrivetError, match="not thrown away"):
        RunFolder.create(tmp_path / "home", fresh=True)
    folder = settled(tmp_path / "run")
    (folder.path / "link").symlink_to(tmp_path / "home")
    RunFolder.create(folder.path, fresh=True).clear()
    assert [path.name for path in folder.path.iterdir()] == [SIGN]
    assert (tmp_path / "home" / "letters").exists(), "links are cut, not followed"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = settled(tmp_path / "run")
    with folder.alone():
        with pytest.raises(PrivetError, match="another process"), folder.alone():
            pass
        folder.clear()
        with pytest.raises(PrivetError, match="another process"), folder.alone():
            pass
    with folder.alone():
        pass


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = settled(tmp_path / "run")
    folder.write("a.bin", b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(PrivetError) as caught:
            folder.write("a.bin", b"new")
    assert caught.value.field == str(folder / "a.bin")
    assert caught.value.given == "No space left on device"
    assert (folder / "a.bin").read_bytes() == b"old"
    assert not [path for path in folder.path.iterdir() if path.name.endswith(".new")]


def test_a_line_that_a_kill_cut_off_is_left_out_and_mended(tmp_path: Path) -> None:
    folder = settled(tmp_path / "run")
    assert folder.rows("rounds.jsonl") == []
    for number in range(3):
        folder.append("rounds.jsonl", {"round": number})
    with open(folder / "rounds.jsonl", "a", encoding="utf-8") as file:
        file.write('{"round": 3, "surv')
    rows = folder.rows("rounds.jsonl")
    assert [row["round"] for row in rows] == [0, 1, 2]
    folder.keep_rows("rounds.jsonl", rows)
    folder.append("rounds.jsonl", {"round": 3})
    assert [row["round"] for row in folder.rows("rounds.jsonl")] == [0, 1, 2, 3]


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    """A run that diverged still ends with files that any JSON reader takes."""
    folder = settled(tmp_path / "run")
    folder.append("m.jsonl", {"nll": math.nan, "rows": [math.inf, 1.5], "in": {"a": -math.inf}})
    assert folder.rows("m.jsonl") == [{"nll": None, "rows": [None, 1.5], "in": {"a": None}}]
    folder.write_json("r.json", {"nll": math.nan})
    assert folder.read_json("r.json") == {"nll": None}


def test_a_missing_or_damaged_file_names_the_next_step(tmp_path: Path) -> None:
    folder = settled(tmp_path / "run")
    folder.write("result.json", '{"cut')
    for name in ("result.json", "nothing.json"):
        with pytest.raises(PrivetError, match="missing or damaged") as caught:
            folder.read_json(name)
        assert caught.value.field == str(folder / name)
        assert "--resume" in str(caught.value.hint)


def test_the_environment_names_no_host(tmp_path: Path) -> None:
    import platform

    text = str(describe_environment())
    assert platform.node() not in text or not platform.node()
    assert str(tmp_path) not in text


def test_a_folder_from_somebody_else_leads_nowhere(tmp_path: Path) -> None:
    """A link in it would have a file of the reader's overwritten by a report, or published with an export."""
    mine = tmp_path / "authorized_keys"
    mine.write_text("mine", encoding="utf-8")
    for name in ("dp_event.json", ".report.html.new", "adapter"):
        folder = settled(tmp_path / name.strip("."))
        (folder / name).symlink_to(mine)
        with pytest.raises(PrivetError, match="is a link"):
            RunFolder.open(folder.path)
        if name.startswith("."):
            folder.write("report.html", "theirs")
        elif name.endswith("json"):
            with pytest.raises(PrivetError, match="cannot be written"):
                folder.append(name, {"row": 1})
    assert mine.read_text(encoding="utf-8") == "mine"


def test_rows_end_at_the_first_that_is_none(tmp_path: Path) -> None:
    folder = settled(tmp_path / "run")
    folder.append("rounds.jsonl", {"text": "one line\u2028of text"})
    for broken in (b"5\n", b'{"a": "\xff"}\n', b"[" * 100_000 + b"\n"):
        whole = (folder / "rounds.jsonl").read_bytes()
        (folder / "rounds.jsonl").write_bytes(whole + broken)
        assert folder.rows("rounds.jsonl") == [{"text": "one line\u2028of text"}]
        (folder / "rounds.jsonl").write_bytes(whole)
