"""A site's worker: one at a time, ended only if it is one; what comes in is bounded, and a log line is one line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privet.engines import worker
from privet.engines.homes import FOLDER, RUNS
from privet.engines.joining import joining
from privet.engines.worker import (
    LARGEST_QUESTION,
    LOCK,
    LOG,
    MODULE,
    read_answer,
    read_question,
    site_log,
    take_over,
    write_question,
)

HOLD = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
if sys.argv[2] == "tells":
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""
ANSWERS = """
import sys
from privet.engines import party, worker

class Stub:
    def __init__(self, home, run, log):
        pass

    def answer(self, op, question):
        return question

party.Party = Stub
worker.main(*sys.argv[1:])
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[subprocess.Popen[bytes]] = []

    def start(*words: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", *map(str, words)]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        with process:  # closes its pipes and waits
            pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder in a kit, beside a lock that an earlier worker left."""
    folder = tmp_path / FOLDER / RUNS / "first"
    folder.parent.mkdir(parents=True)
    lock_of(folder).touch()
    return folder


def lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def holds(start: Start, folder: Path, tells: str, seconds: float, kit: Path) -> subprocess.Popen[bytes]:
    """A process that has the lock and looks like the worker of the run ``first`` in a kit."""
    process = start(HOLD, lock_of(folder), tells, seconds, MODULE, kit, "first", "hosp-a")
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_worker_of_the_same_run_is_ended(folder: Path, start: Start, tmp_path: Path) -> None:
    older = holds(start, folder, "tells", 60, tmp_path)
    os.close(take_over(folder))
    assert older.wait(60) == -9
    assert lock_of(folder).read_text() == str(os.getpid())


def test_a_process_that_only_has_an_old_workers_number_lives_on(
    folder: Path, start: Start, tmp_path: Path
) -> None:
    """The new worker has the lock and has not written its number yet; the one before it is long gone."""
    innocent = start("import time; time.sleep(60)")
    lock_of(folder).write_text(str(innocent.pid))
    holds(start, folder, "does not tell", 0.5, tmp_path)
    os.close(take_over(folder))
    assert innocent.poll() is None


def test_a_worker_of_another_kit_lives_on(
    folder: Path, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_TAKEOVER_SECONDS", 0.3)
    other = holds(start, folder, "tells", 60, tmp_path / "other")
    with pytest.raises(BlockingIOError):
        take_over(folder)
    assert other.poll() is None


def test_a_worker_that_ended_before_it_was_ended_is_no_error(
    folder: Path, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = start("")
    gone.wait()
    lock_of(folder).write_text(str(gone.pid))
    monkeypatch.setattr(worker, "_works_on", lambda process, folder: True)
    holds(start, folder, "does not tell", 0.5, tmp_path)
    os.close(take_over(folder))


def test_a_worker_whose_engine_is_gone_leaves_no_number(folder: Path, start: Start, tmp_path: Path) -> None:
    process = start(ANSWERS, tmp_path, "first", "hosp-a")
    assert process.stdin is not None
    assert process.stdout is not None
    write_question(process.stdin, "round", b"a question")
    assert read_answer(process.stdout) == (worker.ANSWERED, b"a question")
    assert lock_of(folder).read_text() == str(process.pid)
    process.stdin.close()
    assert process.wait(60) == 0
    assert lock_of(folder).read_text() == ""


def test_questions_are_asked_one_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two on the same pipes would have each other's answers, and the end of one would end the watch over the other."""
    asked: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    class Process:
        stdin = stdout = io.BytesIO()
        killed = False

        def poll(self) -> int | None:
            return None

        def kill(self) -> None:
            self.killed = True

    process = Process()

    def write(pipe: object, op: str, question: bytes) -> None:
        asked.append(op)

    def read(pipe: object) -> tuple[int, bytes]:
        if asked == ["first"]:
            begun.set()
            go_on.wait(10)
        return worker.ANSWERED, asked[-1].encode()

    monkeypatch.setattr(worker, "write_question", write)
    monkeypatch.setattr(worker, "read_answer", read)
    both = worker.Worker(tmp_path, "run", "hosp-a")
    monkeypatch.setattr(both, "start", lambda: process)
    answers: dict[str, bytes] = {}

    def ask(op: str) -> None:
        answers[op] = both.ask(op, b"")

    threads = [threading.Thread(target=ask, args=(op,)) for op in ("first", "second")]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    threads[1].join(0.3)
    assert asked == ["first"]
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert answers == {"first": b"first", "second": b"second"}
    assert not process.killed


def test_what_no_question_can_be_is_not_read() -> None:
    asked: list[int] = []

    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    with pytest.raises(EOFError):
        read_question(Pipe(b"\x05round" + struct.pack("<Q", LARGEST_QUESTION + 1)))
    assert max(asked) == 8
    assert joining().request.max_bytes() < LARGEST_QUESTION


def test_a_line_of_the_log_is_one_line_whatever_it_says(tmp_path: Path) -> None:
    site_log(tmp_path)(
        "versions differ: 1\n2026-11-29T00:00:00+00:00 all is well \x1b[2K\r\u2028\u202e\ud800 ä"
    )
    text = (tmp_path / LOG).read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert r"1\n2026-11-29T00:00:00+00:00 all is well \x1b[2K\r\u2028\u202e\ud800 ä" in text
