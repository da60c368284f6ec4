"""``kill -9`` at any moment, then resume: the same adapter, nothing noised twice that the ledger does not say.

Every run is a child process on toy data that dies by SIGKILL. Under ``insecure_test_seed`` the secrets repeat, so the
adapter, the ledger and the rounds must come out as if nothing had happened, bit for bit. Without it every draw is
fresh, so two draws that were both sent would differ, and a journal of all that left a client would show it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.killing import Calls, Journal, Killer, calls_of, die, patched
from support.toy import DIMENSION, config
from support.toy_runs import adapter

import privet.cast
import privet.runs
import privet.server
from privet import checkpoint, durable, run_folder
from privet.checkpoint import FILE
from privet.config import Config
from privet.errors import PrivetError
from privet.mechanism import GaussianMechanism
from privet.messages import ROUND
from privet.run_folder import RunFolder
from privet.server import Server
from privet.store import FolderStore
from privet.wire import decode

ROUNDS = 4
SERVER = {"kind": "adam", "learning_rate": 0.3, "warmup_rounds": 1, "decay": "linear"}
LEVELS: dict[str, dict[str, Any]] = {
    "hedge masked": {"schedule": {"server": SERVER}},
    "hedge encrypted+masked": {"schedule": {"server": SERVER}, "sealing": {"kind": "encrypted+masked"}},
    "dp_lora none": {
        "system": {"kind": "dp_lora"},
        "sealing": {"kind": "none"},
        "schedule": {"expected_batch": 10, "local": {"steps": 2, "learning_rate": 0.05}},
    },
}


def toy_run(level: str, **sections: Any) -> Config:
    """A run that measures itself after every round."""
    return config(**LEVELS[level], evaluation={"every": 1}, **sections)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """A forked child must not wait for threads that only its parent has."""
    torch.set_num_threads(1)


class Undisturbed:
    """What a run comes to that nobody kills, once for each level."""

    def __init__(self, level: str, folder: Path) -> None:
        self.level, self.folder = level, folder
        self.killer = Killer(toy_run(level), folder / "undisturbed")
        self.calls = calls_of(self.killer)

    def check(self, folder: Path) -> None:
        """The run in ``folder`` came to the same."""
        assert outcome(folder) == outcome(self.killer.folder)


def outcome(folder: Path) -> tuple[Any, ...]:
    """Adapter, ledger and rounds of a finished run."""
    rows = RunFolder(folder).rows("rounds.jsonl")
    metrics = RunFolder(folder).rows("metrics.jsonl")
    return (
        hashlib.sha256(adapter(folder)).hexdigest(),
        json.loads((folder / "dp_event.json").read_text(encoding="utf-8"))["events"],
        [(row["round"], row["attempt"], row["survivors"], row["direction_norm"]) for row in rows],
        [(row["when"], row["round"], row["silo"], row["nll"]) for row in metrics],
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    made: dict[str, Undisturbed] = {}

    def get(level: str) -> Undisturbed:
        if level not in made:
            made[level] = Undisturbed(level, tmp_path_factory.mktemp("undisturbed"))
        return made[level]

    return get


def test_the_undisturbed_run_is_a_run(undisturbed: Callable[[str], Undisturbed]) -> None:
    """It repeats, it moves, and the three levels do not come to the same by accident."""
    seen = set()
    for level in LEVELS:
        one = undisturbed(level)
        again = Killer(one.killer.config, one.folder / "again")
        assert again.go()
        one.check(again.folder)
        digest, events, rows, metrics = outcome(again.folder)
        seen.add(digest)
        assert [row[0] for row in rows] == list(range(ROUNDS))
        assert events[0]["count"] == ROUNDS * (2 if level == "dp_lora none" else 1)
        assert len(metrics) == 2 * (ROUNDS + 2)
    # Both seals open the same sums.
    assert len(seen) == 2


TRIALS = [(level, seed) for level, count in zip(LEVELS, (8, 6, 6), strict=True) for seed in range(count)]


@pytest.mark.parametrize(("level", "seed"), TRIALS)
def test_killed_at_a_random_instant(
    level: str, seed: int, undisturbed: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    expected = undisturbed(level)
    killer = Killer(expected.killer.config, tmp_path / "run")
    at = random.Random(f"{level}/{seed}").randrange(1, expected.calls)
    assert not killer.go(Calls(at)), "the process was to die"
    assert killer.go()
    expected.check(killer.folder)


@pytest.mark.parametrize("level", LEVELS)
def test_killed_again_and_again(
    level: str, undisturbed: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    """Every process gets a little further than the one before; also a resumed run may be killed."""
    expected = undisturbed(level)
    killer = Killer(expected.killer.config, tmp_path / "run")
    kills, calls = 0, expected.calls // 5
    while not killer.go(Calls(calls)):
        kills, calls = kills + 1, calls + expected.calls // 12
    assert kills >= 4
    expected.check(killer.folder)


@pytest.mark.parametrize("level", LEVELS)
def test_killed_by_the_clock(level: str, undisturbed: Callable[[str], Undisturbed], tmp_path: Path) -> None:
    """The parent kills, whatever the child is in the middle of, inside C code or a system call too."""
    expected = undisturbed(level)
    killer = Killer(expected.killer.config, tmp_path / "run")
    clock, seconds = random.Random(level), 0.05
    while not killer.go(after=seconds * clock.uniform(0.5, 1.0)):
        seconds *= 1.6
    expected.check(killer.folder)


def nth(count: int, when: Callable[..., bool] = lambda *args, **kwargs: True) -> Callable[..., bool]:
    """True at the ``count``-th call that ``when`` agrees to."""
    seen = Counter[str]()

    def due(*args: Any, **kwargs: Any) -> bool:
        seen["calls"] += bool(when(*args, **kwargs))
        return seen["calls"] == count and bool(when(*args, **kwargs))

    return due


def after_the_noise_draw(count: int) -> None:
    """A share of the noise exists, and no answer on the disk has it."""
    due = nth(count)

    def share(original: Any, *args: Any) -> Any:
        drawn = original(*args)
        return die() if due() else drawn

    patched(GaussianMechanism, "share", share)


def before_the_answer_leaves(count: int) -> None:
    """An answer is on the client's disk, and nobody has seen it."""
    due = nth(count, lambda store, name, data: name == "answered.round")

    def put(original: Any, *args: Any) -> None:
        original(*args)
        if due(*args):
            die()

    patched(FolderStore, "put", put)


def after_the_charge(count: int) -> None:
    """The ledger on the disk has the release, and nothing was opened."""
    due = nth(count)

    def charge(original: Any, *args: Any) -> None:
        original(*args)
        if due():
            die()

    patched(Server, "_charge", charge)


def between_row_and_checkpoint(count: int) -> None:
    """``rounds.jsonl`` tells of a round that the checkpoint does not know."""
    due = nth(count, lambda folder, name, row: name == "rounds.jsonl")

    def append(original: Any, *args: Any) -> None:
        original(*args)
        if due(*args):
            die()

    patched(RunFolder, "append", append)


def amid_a_row(count: int) -> None:
    """The last line of ``rounds.jsonl`` is cut off."""
    due = nth(count, lambda folder, name, row: name == "rounds.jsonl")

    def append(original: Any, folder: RunFolder, name: str, row: Any) -> None:
        if due(folder, name, row):
            with open(folder / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(row)[:40])
            die()
        original(folder, name, row)

    patched(RunFolder, "append", append)


def amid_a_checkpoint(count: int) -> None:
    """Half of a checkpoint is on the disk."""
    due = nth(count, lambda path, data: Path(FILE).name in path.name)

    def write(original: Any, path: Path, data: bytes) -> None:
        if due(path, data):
            path.write_bytes(data[: len(data) // 2])
            die()
        original(path, data)

    patched(durable, "write", write)


def before_a_checkpoint_takes_its_place(count: int) -> None:
    """The new checkpoint is whole, and the old one still in its place."""
    due = nth(count, lambda source, target: str(target).endswith(FILE))

    def replace(original: Any, *args: Any) -> None:
        if due(*args):
            die()
        original(*args)

    patched(os, "replace", replace)


INSTANTS = [
    (after_the_noise_draw, (1, 6, 11)),
    (before_the_answer_leaves, (1, 7, 16)),
    (after_the_charge, (1, 3)),
    (between_row_and_checkpoint, (1, 4)),
    (amid_a_row, (2,)),
    (amid_a_checkpoint, (1, 2, 6)),
    (before_a_checkpoint_takes_its_place, (3,)),
]
CASES = [(prepare, count) for prepare, counts in INSTANTS for count in counts]


@pytest.mark.parametrize("level", LEVELS)
def test_killed_at_the_instants_that_matter(
    level: str, undisturbed: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    """Between drawing, writing down, sending, charging, telling and saving; the old bytes are sent again."""
    expected = undisturbed(level)
    for index, (prepare, count) in enumerate(CASES):
        killer = Killer(expected.killer.config, tmp_path / f"run{index}")
        assert not killer.go(lambda prepare=prepare, count=count: prepare(count)), prepare.__name__  # type: ignore[misc]  # mypy knows no defaults in lambdas
        assert killer.go()
        expected.check(killer.folder)


def journaling(journal: Journal, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Writes down every draw of noise, every answer that leaves a client and every sum that is opened."""

    def prepare() -> None:
        def with_tap(federate: Any, *args: Any, **kwargs: Any) -> Any:
            def tap(op: str, party: int, question: bytes, answer: bytes) -> None:
                if op == ROUND:
                    asked = decode(question, f.server.messages[op].request)
                    where = (party, asked["number"], asked["attempt"])
                    journal.write(kind="sent", where=where, answer=hashlib.sha256(answer).hexdigest())

            f = federate(*args, **kwargs, tap=tap)
            return f

        patched(privet.cast, "federate", with_tap)

        def share(original: Any, mechanism: Any, key: bytes) -> Any:
            journal.write(kind="draw", key=hashlib.sha256(key).hexdigest())
            return original(mechanism, key)

        patched(GaussianMechanism, "share", share)

        def step(original: Any, server: Server, opened: Any) -> Any:
            due = server.progress.round
            journal.write(kind="opened", where=(due.number, due.attempt), survivors=opened.survivors)
            return original(server, opened)

        patched(Server, "_step", step)
        then()

    return prepare


def check_promises(journal: Journal, folder: Path, steps: int = 1) -> tuple[int, int]:
    """One answer an attempt, one survivor set an attempt, no key twice, and a charge for whatever could be opened.

    Returns:
        Draws of noise and rounds charged.
    """
    answers: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for line in journal.lines("sent"):
        answers[tuple(line["where"])].add(line["answer"])
    assert all(len(different) == 1 for different in answers.values()), "an attempt was answered twice"
    keys = [line["key"] for line in journal.lines("draw")]
    assert len(set(keys)) == len(keys), "a key was drawn from twice"
    opened: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for line in journal.lines("opened"):
        opened[tuple(line["where"])].add(tuple(line["survivors"]))
    assert all(len(sets) == 1 for sets in opened.values()), (
        "a contribution was opened under two survivor sets"
    )
    event = json.loads((folder / "dp_event.json").read_text(encoding="utf-8"))["events"]
    assert len(event) == 1
    charged = event[0]["count"] // steps
    assert charged >= len(opened)
    return len(keys), charged


def charged_on_disk(folder: Path) -> int:
    """Releases in the ledger that a killed run has left."""
    if not (folder / FILE).exists():
        return 0
    content = (folder / FILE).read_bytes()[checkpoint.HEADER_BYTES :]
    body: dict[str, Any] = dict(decode(content, checkpoint.schema(DIMENSION)))
    return sum(event["count"] for event in json.loads(body["ledger"])["events"])


@pytest.mark.parametrize("level", LEVELS)
def test_trap_10_real_secrets_noise_no_reply_twice(level: str, tmp_path: Path) -> None:
    """Killed at all instants that matter, in one run after another, and by the clock; then held against the ledger."""
    real: Config = toy_run(level, insecure_test_seed=None)
    steps = 2 if level == "dp_lora none" else 1
    for index, (prepare, count) in enumerate(CASES):
        journal = Journal(tmp_path / f"{index}.jsonl")
        killer = Killer(real, tmp_path / f"run{index}")
        assert not killer.go(journaling(journal, lambda prepare=prepare, count=count: prepare(count)))  # type: ignore[misc]  # mypy knows no defaults in lambdas
        opened = {tuple(line["where"]) for line in journal.lines("opened")}
        assert charged_on_disk(killer.folder) >= len(opened) * steps, "charged before it can be opened"
        assert killer.go(journaling(journal))
        draws, charged = check_promises(journal, killer.folder, steps)
        assert charged == ROUNDS, "bytes that are sent again cost nothing"
        undisturbed = ROUNDS * killer.parties * steps
        if prepare is after_the_noise_draw:
            assert undisturbed < draws <= undisturbed + steps, "a draw that no answer has is drawn anew"
        else:
            assert draws == undisturbed


def test_a_retry_after_shares_were_given_is_a_second_release(tmp_path: Path) -> None:
    """Two clients go silent while round 1 is being unmasked: charged. The resumed run tries it again: charged again."""
    silent = [{"round": 1, "party": party, "before": "recover"} for party in (0, 1)]
    real = config(insecure_test_seed=None, schedule={"min_survivors": 4})
    failing = config(insecure_test_seed=None, schedule={"min_survivors": 4}, engine={"dropouts": silent})
    killer, journal = Killer(real, tmp_path / "run", parties=5), Journal(tmp_path / "journal.jsonl")
    assert killer.go(journaling(journal), config=failing)
    assert "round 1 failed 3 times" in json.loads((killer.folder / "result.json").read_text())["stopped"]
    _, charged = check_promises(journal, killer.folder)
    assert charged == 2, "round 0, and round 1, whose shares were asked for"
    assert killer.go(journaling(journal))
    draws, charged = check_promises(journal, killer.folder)
    assert charged == ROUNDS + 1
    assert draws >= 5 * (ROUNDS + 1)
    sent = {tuple(line["where"]): line["answer"] for line in journal.lines("sent")}
    attempts = {where[2] for where in sent if where[1] == 1}
    assert len(attempts) >= 2
    of_party_3 = [answer for where, answer in sent.items() if where[:2] == (3, 1)]
    assert len(set(of_party_3)) == len(of_party_3), "fresh noise for a new attempt"


def test_a_run_that_was_thrown_away_half_is_not_resumed(tmp_path: Path) -> None:
    """Without its clients' memories a run would answer the same round again."""
    killer = Killer(config(), tmp_path / "run")
    assert killer.go()
    folder = RunFolder.create(killer.folder, fresh=True)

    class Killed(Exception):
        """Stands for the kill."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", _raise(Killed))
        with pytest.raises(Killed):
            folder.clear()
    with pytest.raises(PrivetError, match="no longer whole") as caught:
        RunFolder.open(killer.folder)
    assert "--fresh" in str(caught.value.hint)
    RunFolder.create(killer.folder, fresh=True).clear()
    assert [path.name for path in killer.folder.iterdir()] == [run_folder.SIGN]


def _raise(error: type[Exception]) -> Callable[..., None]:
    def function(*args: Any, **kwargs: Any) -> None:
        raise error

    return function
