"""The process at a site that holds model and data for a whole job, apart from the engine that talks to the server.

A crash or an out-of-memory kill in here is one error answer; the next question starts a new process. Bytes go over two
pipes; nothing of an exception but its type comes back. Run as ``python -m privet.engines.worker KIT RUN NAME``.

    question: length of the operation (1 byte), operation, length (8 bytes), envelope
    answer:   status (1 byte: 0 answered, 1 not), length (8 bytes), envelope or reason
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from privet.engines.homes import FOLDER, RUNS, SiteHome
from privet.plain import plain

ANSWERED, NOT_ANSWERED = 0, 1
LOG, LOCK = "log.txt", ".worker"
MODULE = "privet.engines.worker"
LARGEST_QUESTION = 1 << 32
"""Bytes. The longest question that does not grow with the model, an invitation with public records and a codec, has at
most 1.3e9; the questions of a round are held to the run's own schema once the process has joined it."""

_POLL_SECONDS, _TAKEOVER_SECONDS = 0.5, 10.0


class WorkerGone(Exception):
    """The process ended before it answered."""


class WorkerRefused(Exception):
    """The process gave a reason instead of an answer.

    Args:
        reason: What may be sent.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Worker:
    """The engine's end of the pipes.

    Args:
        kit: The site's kit.
        run: Name of the run.
        name: The site's name.
    """

    def __init__(self, kit: Path, run: str, name: str) -> None:
        self._command = [sys.executable, "-m", MODULE, str(kit), run, name]
        self._process: subprocess.Popen[bytes] | None = None
        self._one_question = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Its process, if it lives."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process else None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, begun if there is none: before the first question, it is ready by the time that one comes."""
        if self.pid is None or self._process is None:
            self.close()
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def ask(self, op: str, question: bytes, given_up: Callable[[], bool] = lambda: False) -> bytes:
        """The answer to one question; starts the process if there is none, and waits while it is asked another.

        Args:
            op: Operation.
            question: Envelope.
            given_up: Asked now and then; when it says so, the process is ended.

        Raises:
            WorkerGone: if the process ended, or was ended, without an answer.
            WorkerRefused: if it gave a reason instead.
        """
        with self._one_question:
            return self._ask(op, question, given_up)

    def _ask(self, op: str, question: bytes, given_up: Callable[[], bool]) -> bytes:
        process, over = self.start(), threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None
        threading.Thread(target=_watch, args=(process, given_up, over), daemon=True).start()
        try:
            write_question(process.stdin, op, question)
            status, answer = read_answer(process.stdout)
        except (OSError, EOFError):
            self.close()
            raise WorkerGone from None
        finally:
            over.set()
        if status != ANSWERED:
            raise WorkerRefused(answer.decode("ascii", "replace"))
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


def _watch(process: subprocess.Popen[bytes], given_up: Callable[[], bool], over: threading.Event) -> None:
    """End a process when its question is given up."""
    while process.poll() is None and not over.is_set():
        if given_up():
            process.kill()
        over.wait(_POLL_SECONDS)


def write_question(pipe: IO[bytes], op: str, question: bytes) -> None:
    """Put a question into the pipe."""
    name = op.encode("ascii")
    pipe.write(struct.pack("<B", len(name)) + name + struct.pack("<Q", len(question)))
    pipe.write(question)
    pipe.flush()


def read_question(pipe: IO[bytes]) -> tuple[str, bytes]:
    """The next operation and its question; ``EOFError`` when the engine is gone, or sends what no question can be."""
    (size,) = _exactly(pipe, 1)
    op = _exactly(pipe, size).decode("ascii")
    (length,) = struct.unpack("<Q", _exactly(pipe, 8))
    if length > LARGEST_QUESTION:
        raise EOFError
    return op, _exactly(pipe, length)


def write_answer(pipe: IO[bytes], status: int, answer: bytes) -> None:
    """Put an answer into the pipe."""
    pipe.write(struct.pack("<BQ", status, len(answer)))
    pipe.write(answer)
    pipe.flush()


def read_answer(pipe: IO[bytes]) -> tuple[int, bytes]:
    """Status and answer; ``EOFError`` when the process is gone."""
    status, size = struct.unpack("<BQ", _exactly(pipe, 9))
    return status, _exactly(pipe, size)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def follow_parent(last: Callable[[], None] = lambda: None) -> None:
    """End this process, at once and without ceremony, when the one that started it is gone.

    Args:
        last: What is done before.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        last()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def take_over(folder: Path) -> int:
    """Make this process the only one that works on a run at this site; an older one, of a job that is over, is ended.

    Returns:
        The descriptor that holds the lock; it has to stay open.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}{LOCK}"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _TAKEOVER_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            # Who just got the lock may not have written its number yet: then it is that of a process long gone, or of
            # whoever has it now.
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            if holder.isdecimal() and int(holder) != os.getpid() and _works_on(int(holder), folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(holder), signal.SIGKILL)
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _works_on(process: int, folder: Path) -> bool:
    """Whether a process is such a worker, of this run at this site; where the system does not tell, it is believed."""
    if not Path("/proc/self/cmdline").exists():
        return True
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:-1]
        kit, run, _ = map(os.fsdecode, words[words.index(MODULE.encode()) + 1 :])
        theirs = Path(f"/proc/{process}/cwd").readlink() / kit / FOLDER / RUNS / run
    except (OSError, ValueError):
        return False
    return theirs.resolve() == folder.resolve()


def site_log(home: Path) -> Callable[[str], None]:
    """Appends lines to the site's own log, which stays at the site; a server's text in one cannot make another."""

    def log(line: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        descriptor = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{stamp} {plain(line)}\n")

    return log


def main(kit: str, run: str, name: str) -> None:
    """Answer questions until the pipe closes."""
    held: list[int] = []

    def let_go() -> None:
        """So that the next worker finds no number of a process that is gone."""
        with contextlib.suppress(OSError):
            for descriptor in held:
                os.ftruncate(descriptor, 0)

    follow_parent(let_go)
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What libraries print must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    home = SiteHome(Path(kit) / FOLDER, name)
    log = site_log(home.path)
    arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def read() -> None:
        try:
            while True:
                arrived.put(read_question(questions))
        except (EOFError, OSError, ValueError):
            let_go()
            os._exit(0)  # the engine is gone, also in the midst of training

    threading.Thread(target=read, daemon=True).start()
    # Seconds of imports that the first answer needs, while the server is busy with its own.
    import privet.material
    import privet.train  # noqa: F401
    from privet.engines.party import Party, Refused

    party: Party | None = None
    while True:
        op, question = arrived.get()
        try:
            if party is None:
                found = Party(home, run, log)
                if not held:
                    held.append(take_over(home.run_folder(run)))
                party = found
            write_answer(answers, ANSWERED, party.answer(op, question))
        except Refused as refused:
            write_answer(answers, NOT_ANSWERED, refused.reason.encode("ascii", "replace"))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever went wrong, a panic too; only its type may leave
            for line in "".join(traceback.format_exception(error)).splitlines():
                log(f"run {run}, {op}: | {line}")
            write_answer(answers, NOT_ANSWERED, f"failed: {type(error).__name__}".encode("ascii", "replace"))


if __name__ == "__main__":
    main(*sys.argv[1:])
