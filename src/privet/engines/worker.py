"""The process at a site that holds model and data for a whole job, apart from the engine that talks to the server.

A crash or an out-of-memory kill in here is one error answer; the next question starts a new process. Bytes go over two
pipes; nothing of an exception but its type comes back. Run as ``python -m privet.engines.worker KIT RUN NAME``.

    question: length of the operation (1 byte), operation, length (8 bytes), envelope
    answer:   status (1 byte: 0 answered, 1 not), length (8 bytes), envelope or reason
"""

from __future__ import annotations

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

from privet.engines.homes import FOLDER, SiteHome

ANSWERED, NOT_ANSWERED = 0, 1
LOG, LOCK = "log.txt", ".worker"
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
        self._command = [sys.executable, "-m", "privet.engines.worker", str(kit), run, name]
        self._process: subprocess.Popen[bytes] | None = None

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
        """The answer to one question; starts the process if there is none.

        Args:
            op: Operation.
            question: Envelope.
            given_up: Asked now and then; when it says so, the process is ended.

        Raises:
            WorkerGone: if the process ended, or was ended, without an answer.
            WorkerRefused: if it gave a reason instead.
        """
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Thread(target=self._watch, args=(process, given_up), daemon=True)
        self._asking = True
        watch.start()
        try:
            write_question(process.stdin, op, question)
            status, answer = read_answer(process.stdout)
        except (OSError, EOFError):
            self.close()
            raise WorkerGone from None
        finally:
            self._asking = False
        if status != ANSWERED:
            raise WorkerRefused(answer.decode("ascii", "replace"))
        return answer

    def _watch(self, process: subprocess.Popen[bytes], given_up: Callable[[], bool]) -> None:
        while self._asking and process.poll() is None:
            if given_up():
                process.kill()
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


def write_question(pipe: IO[bytes], op: str, question: bytes) -> None:
    """Put a question into the pipe."""
    name = op.encode("ascii")
    pipe.write(struct.pack("<B", len(name)) + name + struct.pack("<Q", len(question)))
    pipe.write(question)
    pipe.flush()


def read_question(pipe: IO[bytes]) -> tuple[str, bytes]:
    """The next operation and its question; ``EOFError`` when the engine is gone."""
    (size,) = _exactly(pipe, 1)
    op = _exactly(pipe, size).decode("ascii")
    return op, _exactly(pipe, struct.unpack("<Q", _exactly(pipe, 8))[0])


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


def follow_parent() -> None:
    """End this process, at once and without ceremony, when the one that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
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
            # Whoever holds the lock lives, so its number is its own still.
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            if holder.isdigit() and int(holder) != os.getpid():
                os.kill(int(holder), signal.SIGKILL)
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def site_log(home: Path) -> Callable[[str], None]:
    """Appends lines to the site's own log, which stays at the site."""

    def log(line: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        descriptor = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{stamp} {line}\n")

    return log


def main(kit: str, run: str, name: str) -> None:
    """Answer questions until the pipe closes."""
    follow_parent()
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
        except (EOFError, OSError):
            os._exit(0)  # the engine is gone, also in the midst of training

    threading.Thread(target=read, daemon=True).start()
    # Seconds of imports that the first answer needs, while the server is busy with its own.
    import privet.material
    import privet.train  # noqa: F401
    from privet.engines.party import Party, Refused

    party: Party | None = None
    lock = -1
    while True:
        op, question = arrived.get()
        try:
            if party is None:
                found = Party(home, run, log)
                lock = lock if lock >= 0 else take_over(home.run_folder(run))
                party = found
            write_answer(answers, ANSWERED, party.answer(op, question))
        except Refused as refused:
            write_answer(answers, NOT_ANSWERED, refused.reason.encode("ascii", "replace"))
        except Exception as error:  # anything may go wrong in training; only its type may leave
            log(f"run {run}, {op}: {''.join(traceback.format_exception(error))}")
            write_answer(answers, NOT_ANSWERED, f"failed: {type(error).__name__}".encode("ascii", "replace"))


if __name__ == "__main__":
    main(*sys.argv[1:])
