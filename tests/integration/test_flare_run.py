"""One consortium over NVIDIA FLARE with mutual TLS: the run of one process, bit by bit, also after a server's death."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.consortium import SITES, Consortium, local_adapter, until

pytestmark = pytest.mark.xdist_group("flare")


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path_factory.mktemp("consortium"))
    try:
        made.start_all()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def local(consortium: Consortium, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return local_adapter(consortium.config(), tmp_path_factory.mktemp("local") / "run")


def adapter(consortium: Consortium, run: str) -> bytes:
    return (consortium.server.run_folder(run) / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_over_flare_is_the_run_of_one_process(consortium: Consortium, local: bytes) -> None:
    consortium.submit("happy", consortium.config())
    rounds: list[dict[str, Any]] = []
    operator = consortium.operator(lambda kind, facts: rounds.append(facts) if kind == "round" else None)
    assert operator.follow("happy")["state"] == "finished", consortium.server.status("happy")
    assert adapter(consortium, "happy") == local
    assert rounds[-1]["in"] == list(SITES)
    for name in SITES:
        assert consortium.charged(name, "happy") == 3


def test_a_server_that_is_busy_for_seconds_is_waited_for(consortium: Consortium) -> None:
    """FLARE gives it two for its first answer, and then ends with a stack trace."""
    server = consortium.main_process("server")
    os.kill(server, signal.SIGSTOP)
    on = threading.Timer(4.0, os.kill, (server, signal.SIGCONT))
    on.start()
    try:
        assert consortium.operator().sites() == sorted(SITES)
    finally:
        on.join()


def killed_in_a_round(consortium: Consortium) -> str:
    """The name of a run whose server was killed after its first round and before its last; it runs again."""
    for attempt in range(
        3
    ):  # rounds take less than a second: a machine that is held up for longer kills too late
        run = f"killed-{attempt}"
        until("the end of the last job", lambda: not consortium.processes("server", "runner_process"))
        consortium.submit(run, consortium.config())
        until("a round", lambda: consortium.round_of(run) >= 1, pause=0.01)  # noqa: B023 - called at once
        dead = consortium.kill("server")
        consortium.start("server")
        consortium.connected(*SITES)
        if len(dead) == 2 and consortium.round_of(run) < 3:  # the server and its job's process
            return run
    raise AssertionError("killed too late to show anything, three times")


def test_a_server_that_is_killed_in_a_round_goes_on_as_another_job(
    consortium: Consortium, local: bytes
) -> None:
    run = killed_in_a_round(consortium)
    operator = consortium.operator()
    operator.start_job(run)
    assert operator.follow(run)["state"] == "finished"
    assert adapter(consortium, run) == local
    rows = consortium.server.run_folder(run) / "dp_event.json"
    assert '"count": 3' in rows.read_text(encoding="utf-8"), "the ledger goes on where it was"
    for name in SITES:
        assert consortium.charged(name, run) == 3, "no release twice"
