"""kill -9 of every process of a consortium in the midst of its rounds: what dropped out comes back, and the run ends.

Four sites, of which any three make a sum. Real processes and real TLS; `make test-distributed`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.consortium import Consortium, local_adapter, until
from support.openings import faults

SITES = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
ROUNDS = 10
FLOOR = 3
VICTIM = "hosp-b"
PHASES = (("round", "before"), ("round", "after"), ("recover.unmask", "before"))
"""Before an answer; after a contribution was sealed, before it is sent; and when masks are to be taken off."""

SITE_PHASES = PHASES[1:]
"""A whole site's death costs more than a minute; before an answer it is to all others what its child's death is."""

SERVER_PHASES = ("round", "apply")
"""The server dies after each, before it writes anything down: with all answers in; with the sum open and the new
adapter in its memory alone. A death takes most of a minute of two cores, so these stand for the others, which
`test_kill_resume.py` kills in one process."""

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("flare")]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path_factory.mktemp("consortium"), SITES, phases=True)
    try:
        made.start_all()
        yield made
    finally:
        made.close()


def config(consortium: Consortium, rounds: int = ROUNDS, **engine: Any) -> str:
    return consortium.config(
        schedule={"rounds": rounds, "min_survivors": 3, "round_attempts": 4},
        engine={"site_timeout": 15, **engine},
    )


class Follower(threading.Thread):
    """The operator's command that follows a run, beside a test that kills processes."""

    def __init__(self, consortium: Consortium, run: str) -> None:
        super().__init__(daemon=True)
        self.operator, self.run_name = consortium.operator(self._note), run
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.status: dict[str, Any] = {}
        self.error: Exception | None = None

    def _note(self, kind: str, facts: dict[str, Any]) -> None:
        self.events.append((kind, facts))

    def run(self) -> None:
        try:
            self.status = self.operator.follow(self.run_name)
        except Exception as error:
            self.error = error

    def end(self, seconds: float = 600.0) -> dict[str, Any]:
        self.join(seconds)
        assert not self.is_alive(), "the run did not end"
        assert self.error is None, self.error
        return self.status


def rows(consortium: Consortium, run: str) -> list[dict[str, Any]]:
    from privet.run_folder import RunFolder

    return RunFolder(consortium.server.run_folder(run)).rows("rounds.jsonl")


def check_rounds(consortium: Consortium, run: str, rounds: int | None = ROUNDS) -> list[dict[str, Any]]:
    """Every round once, each with the declared floor, and every release of a site in its own ledger."""
    found = rows(consortium, run)
    assert [row["round"] for row in found] == list(range(len(found) if rounds is None else rounds))
    assert all(len(row["survivors"]) >= 3 for row in found)
    for number, name in enumerate(SITES):
        answers = sum(number in row["survivors"] for row in found)
        assert consortium.charged(name, run) >= answers, "an answer without a charge"
    return found


def check_openings(consortium: Consortium) -> None:
    """No contribution was ever opened with two survivor sets, and none below the floor: see `support.openings`."""
    journal = consortium.journal()
    assert {"sealed", "shares", "charged", "opened"} <= {line["kind"] for line in journal}
    assert faults(journal, SITES, FLOOR) == []


def answered(consortium: Consortium, run: str, site: str, since: int) -> bool:
    """Whether a site's contribution is in a round after number ``since``."""
    party = SITES.index(site)
    return any(row["round"] > since and party in row["survivors"] for row in rows(consortium, run))


def back(consortium: Consortium, run: str, site: str = VICTIM) -> None:
    """Wait until a site is in a later round than the one that just ended."""
    since = consortium.round_of(run)
    until(f"{site} in a round again", lambda: answered(consortium, run, site, since), pause=0.2)


def end_early(consortium: Consortium, follower: Follower) -> None:
    """Stop a run that has shown what it was for, and wait until no job process of it is in the next one's way."""
    follower.operator.stop(follower.run_name)
    assert follower.end()["state"] == "stopped"
    until(
        "the end of its processes", lambda: not any(consortium.processes(s, "worker_process") for s in SITES)
    )
    until("the end of its server job", lambda: not consortium.processes("server", "runner_process"))
    consortium.pace(0)


def wait_for_round(consortium: Consortium, run: str, number: int) -> None:
    until(f"round {number}", lambda: consortium.round_of(run) >= number, seconds=400, pause=0.01)


def test_a_child_killed_at_any_phase_is_one_lost_answer(consortium: Consortium) -> None:
    orders = [
        consortium.order(VICTIM, op, when, number=2 + 4 * i, kill=VICTIM, part="privet.engines.worker")
        for i, (op, when) in enumerate(PHASES)
    ]
    consortium.submit("child", config(consortium, 16))
    follower = Follower(consortium, "child")
    follower.start()
    assert follower.end()["state"] == "finished"
    assert all(order.exists() for order in orders), "all of them were killed"
    found = check_rounds(consortium, "child", 16)
    check_openings(consortium)
    log = consortium.run_log("child")
    assert log.count("'site': 'hosp-b', 'op': 'round', 'reason': 'crashed'") == 2
    assert log.count("'site': 'hosp-b', 'op': 'recover.unmask', 'reason': 'crashed'") == 1
    lost = [row["round"] for row in found if 1 not in row["survivors"]]
    assert {2, 6} <= set(lost), "its contributions to these rounds were never sent"
    # Sealed, sent, and in the set that all signed: the others' shares open the sum with it.
    assert 10 not in lost
    assert found[-1]["survivors"] == [0, 1, 2, 3], "it came back"
    assert len(consortium.server.orders("child")["jobs"]) == 1, "within the same job"


def test_a_job_process_comes_back_in_its_job_and_a_whole_site_in_another(consortium: Consortium) -> None:
    """Both die at each phase, in one run; what nobody answers costs the others a short time limit."""
    consortium.submit("site", config(consortium, 1000, site_timeout=8))
    follower = Follower(consortium, "site")
    follower.start()
    consortium.pace(0.5)
    for op, when in PHASES:
        back(consortium, "site")
        order = consortium.order(VICTIM, op, when, kill=VICTIM, part="worker_process")
        until(f"the kill {when} {op}", order.exists)
    back(consortium, "site")
    assert consortium.run_log("site").count("'site': 'hosp-b'") >= len(PHASES)
    assert len(consortium.server.orders("site")["jobs"]) == 1, "within the same job"
    for op, when in SITE_PHASES:
        back(consortium, "site")
        order = consortium.order(VICTIM, op, when, kill=VICTIM)
        until(f"the kill {when} {op}", order.exists)
        until("its processes' end", lambda: not consortium.processes(VICTIM))
        until("the round without it", lambda: VICTIM in consortium.server.status("site").get("out", {}))
        consortium.start(VICTIM)
    back(consortium, "site")
    end_early(consortium, follower)
    found = check_rounds(consortium, "site", None)
    check_openings(consortium)
    assert sum(1 not in row["survivors"] for row in found) >= len(SITE_PHASES)
    assert len(consortium.server.orders("site")["jobs"]) == 1 + len(SITE_PHASES)


def test_the_server_killed_at_each_phase_goes_on_to_the_same_adapter(
    consortium: Consortium, tmp_path: Path
) -> None:
    """No site drops out of a round, so after these deaths the adapter is that of one process, bit by bit."""
    orders = [
        consortium.order("server", op, "after", number=i, kill="server") for i, op in enumerate(SERVER_PHASES)
    ]
    text = config(consortium)
    consortium.submit("server", text)
    for op, order in zip(SERVER_PHASES, orders, strict=True):
        until(f"the kill after {op}", order.exists)
        until("the server's end", lambda: not consortium.processes("server"))
        consortium.start("server")
        consortium.connected(*SITES)
        if order is not orders[-1]:
            consortium.operator().start_job("server")
    go_on = [sys.executable, "-m", "privet.cli", "submit", "--continue", "server", "--kit"]
    done = subprocess.run(
        [*go_on, str(consortium.server_kit)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "server: finished\n"
    found = check_rounds(consortium, "server")
    check_openings(consortium)
    assert all(row["survivors"] == [0, 1, 2, 3] and row["attempt"] == 0 for row in found)
    assert len(consortium.server.orders("server")["jobs"]) == 1 + len(SERVER_PHASES)
    adapter = consortium.server.run_folder("server") / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == local_adapter(text, tmp_path / "local")
    for name in SITES:
        assert consortium.charged(name, "server") == ROUNDS, "no release twice"


def test_below_the_floor_a_round_aborts_and_nothing_is_opened(consortium: Consortium) -> None:
    """Two of four sealed and were killed; then two of four are gone when the masks are to be taken off."""
    consortium.submit("floor", config(consortium, 12))
    follower = Follower(consortium, "floor")
    part = "privet.engines.worker"
    sealed = [consortium.order(each, "round", "after", number=2, kill=each, part=part) for each in SITES[1:3]]
    silent = [
        consortium.order(each, "recover.unmask", "before", number=6, kill=each, part=part)
        for each in SITES[1:3]
    ]
    follower.start()
    assert follower.end()["state"] == "finished"
    assert all(order.exists() for order in (*sealed, *silent))
    found = check_rounds(consortium, "floor", 12)
    check_openings(consortium)
    assert found[2]["attempt"] > 0, "the first attempt opened nothing"
    log = consortium.run_log("floor")
    assert "'round': 2, 'attempt': 0, 'reason': '2 of 3 demanded contributions came" in log
    slots = {
        (line["number"], line["attempt"])
        for line in consortium.journal()
        if line["kind"] in ("opened", "shares") and line["run"] == "floor"
    }
    assert (2, 0) not in slots


def test_who_follows_goes_on_after_a_killed_server_job_and_who_asks_after_a_stop(
    consortium: Consortium,
) -> None:
    consortium.submit("stopped", config(consortium, 16))
    follower = Follower(consortium, "stopped")
    follower.start()
    wait_for_round(consortium, "stopped", 2)
    assert len(consortium.kill("server", "runner_process")) == 1
    wait_for_round(consortium, "stopped", 5)
    assert len(consortium.server.orders("stopped")["jobs"]) == 2
    end_early(consortium, follower)
    assert consortium.server.status("stopped")["state"] == "interrupted"
    assert consortium.round_of("stopped") < 16
    again = Follower(consortium, "stopped")
    again.operator.start_job("stopped")
    again.start()
    assert again.end()["state"] == "finished"
    check_rounds(consortium, "stopped", 16)
    assert len(consortium.server.orders("stopped")["jobs"]) == 3
