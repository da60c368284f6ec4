"""Clients and servers that are killed anywhere in a masked round and go on from what is on their disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.sealing import Cohort, some_values

from privet.keys import SecretStore
from privet.protocol import RoundAborted, RoundId
from privet.sealing.base import Opened, SealingRefused
from privet.sealing.masking_messages import UNMASK
from privet.store import FolderStore, MemoryStore
from privet.wire import Array, Body, Schema, Whole, decode, encode

COUNT = 64
PARTIES = 5
THRESHOLD = 4


class Crash(Exception):
    """The process is gone."""


@dataclass
class CrashingStore(MemoryStore):
    """Ends the process at one of its writes, before or after the write reached the disk."""

    at: int = -1
    after: bool = False
    writes: int = 0
    entries: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, data: bytes) -> None:
        self.writes += 1
        crash = self.writes == self.at
        if crash and not self.after:
            raise Crash
        self.entries[name] = bytes(data)
        if crash:
            raise Crash

    def get(self, name: str) -> bytes | None:
        return self.entries.get(name)


ROUNDS = ((RoundId(0), ()), (RoundId(1), (2,)), (RoundId(1, 1), ()), (RoundId(2), (4,)))


def play(cohort: Cohort) -> list[tuple[tuple[int, ...], bytes]]:
    """Four rounds with dropouts, in which every party that crashes is started again and asked again."""
    results = []
    for index, (round, absent) in enumerate(ROUNDS):
        values = some_values(PARTIES, COUNT, seed=index)
        opened = None
        while opened is None:
            try:
                opened = attempt(cohort, round, values, absent)
            except Crash:
                cohort.restart(server=True)
        assert opened.total is not None
        results.append((opened.survivors, opened.total.tobytes()))
    return results


def attempt(
    cohort: Cohort, round: RoundId, values: np.ndarray[Any, np.dtype[np.int64]], absent: tuple[int, ...]
) -> Opened:
    ready = cohort.drive(cohort.server.prepare(round))
    replies: dict[int, Body] = {}
    for party in set(ready) - set(absent):
        replies |= again(cohort, party, partial(cohort.seal, round, values, [party]))
    opened: Opened = cohort.drive(cohort.server.open(round, COUNT, replies))
    return opened


def again(cohort: Cohort, party: int, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Crash:
        cohort.restart([party])
        return call()


def crashing_cohort(who: str, at: int, after: bool) -> Cohort:
    cohort = Cohort(PARTIES, epoch_rounds=2, fresh_noise=True)
    store = CrashingStore(at=at, after=after)
    if who == "server":
        cohort.server_store = store
    else:
        cohort.stores[1] = store
    cohort.restart([1], server=True)
    ask = cohort.ask
    cohort.ask = lambda op, party, body: again(cohort, party, partial(ask, op, party, body))  # type: ignore[method-assign]  # this cohort's clients crash
    return cohort


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_changes_nothing(who: str, after: bool) -> None:
    """Killed before or after each single write, started from what is on disk: the same survivors, the same sums."""
    undisturbed = crashing_cohort(who, -1, after)
    expected = play(undisturbed)
    store = undisturbed.server_store if who == "server" else undisturbed.stores[1]
    assert isinstance(store, CrashingStore)
    assert store.writes > 15
    for at in range(1, store.writes + 1):
        cohort = crashing_cohort(who, at, after)
        assert play(cohort) == expected, f"crash at write {at}"
        assert not cohort.refusals


@contextmanager
def killable_client(folder: Path, party: int) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(party)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


def test_clients_killed_after_every_answer_and_a_restarted_server_finish_the_round(tmp_path: Path) -> None:
    """One client is a process of its own with its state in files; it is killed with SIGKILL after each operation."""
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    folder = tmp_path / "client"
    secrets = SecretStore(folder)
    kills = []

    class Remote:
        def handle(self, op: str, body: Body) -> Body:
            message = cohort.messages()[op]
            return decode(self._exchange(op, encode(body, message.request)), message.reply)

        def seal(self, round: RoundId, row: np.ndarray[Any, np.dtype[np.int64]]) -> Body:
            data = encode({"number": round.number, "attempt": round.attempt, "values": row})
            return decode(self._exchange("seal", data), cohort.server.sealed(COUNT))

        def _exchange(self, op: str, data: bytes) -> bytes:
            with killable_client(folder, 0) as child:
                assert child.stdin
                assert child.stdout
                child.stdin.write(f"{op} {len(data)}\n".encode() + data)
                child.stdin.flush()
                size = int(child.stdout.readline())
                answer = child.stdout.read(size)
                assert child.poll() is None
            kills.append(op)
            assert child.returncode == -signal.SIGKILL
            return answer

    cohort.clients[0] = Remote()  # type: ignore[call-overload]  # what the cohort uses of a client
    cohort.server_store = FolderStore(SecretStore(tmp_path / "server"))
    cohort.restart(server=True)
    cohort.drive(cohort.server.prepare(RoundId(0)))
    cohort.restart(range(1, PARTIES), server=True)
    replies = cohort.seal(RoundId(0), values, (0, 1, 2, 3))
    # The server settles the survivors, and is gone before it has all the shares.
    steps = cohort.server.open(RoundId(0), COUNT, replies)
    with pytest.raises(RoundAborted):
        cohort.drive(steps, silent=lambda op, party: op == UNMASK and party > 1)
    cohort.restart(range(1, PARTIES), server=True)
    assert cohort.drive(cohort.server.prepare(RoundId(0))) == tuple(range(PARTIES))
    replies = cohort.seal(RoundId(0), values, range(PARTIES))
    opened = cohort.drive(cohort.server.open(RoundId(0), COUNT, replies))
    assert opened.survivors == (0, 1, 2, 3)
    assert cohort.is_sum(opened, values)
    assert len(kills) >= 7
    files = [path for path in folder.iterdir() if path.is_file()]
    assert files
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert secrets.directory == folder


def serve(folder: Path, party: int) -> None:
    """The client's process of the kill test: answers on stdout, state in files."""
    cohort = Cohort(PARTIES)
    cohort.stores[party] = FolderStore(SecretStore(folder))
    cohort.restart([party])
    client = cohort.clients[party]
    while header := sys.stdin.buffer.readline().split():
        op, data = header[0].decode(), sys.stdin.buffer.read(int(header[1]))
        if op == "seal":
            schema = Schema({"number": Whole(), "attempt": Whole(), "values": Array("int64", (COUNT,))})
            body: Any = decode(data, schema)
            reply = client.seal(RoundId(body["number"], body["attempt"]), body["values"])
        else:
            try:
                reply = client.handle(op, decode(data, cohort.messages()[op].request))
            except SealingRefused:
                os._exit(3)
        raw = encode(reply)
        sys.stdout.buffer.write(f"{len(raw)}\n".encode() + raw)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
