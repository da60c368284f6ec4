"""What the operator does with runs, on the server's machine: submit, follow, continue, stop, fetch.

Whoever follows a run keeps it going: when its job ends before the run does (a process was killed, a site came back)
another job goes on from the checkpoint. Nothing is lost when nobody follows; `--continue` then starts the next job.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.config import Config
from privet.deploy.project import OPERATOR, OPERATOR_KIT
from privet.deploy.starting import server_home, site_home
from privet.engines.homes import FOLDER, RUNS, ServerHome
from privet.engines.serving import FINISHED, INTERRUPTED, OVER, RUNNING, STOPPED
from privet.errors import PrivetError
from privet.reading import Reading
from privet.resolve import trust_model
from privet.sealing.base import SealingRefused

MOST_JOBS_WITHOUT_A_ROUND = 5
_POLL_SECONDS, _TEARDOWN_SECONDS = 1.0, 60.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
Tell = Callable[[str, dict[str, Any]], None]


@dataclass
class Operator:
    """The operator at the server's kit.

    Attributes:
        kit: The server's kit.
        tell: Told what happens: ``job``, ``round``, ``dropped``, ``over``.
        poll_seconds: How often a run that is followed is looked at.
    """

    kit: Path
    tell: Tell = lambda kind, facts: None
    poll_seconds: float = _POLL_SECONDS
    _told: int = field(default=0)

    @property
    def home(self) -> ServerHome:
        """The kit's own folder."""
        return server_home(self.kit)

    def submit(self, config: Config, text: str, name: str | None = None) -> str:
        """Take a configuration as a new run; its first job starts as soon as enough sites are there.

        Args:
            config: The checked configuration.
            text: The YAML it came from, with overrides applied.
            name: Name of the run; made of the time and the system when absent.

        Returns:
            The run's name.

        Raises:
            PrivetError: if the name is taken or not allowed, the data cannot lie at sites, or the roster is too small.
        """
        run = name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.system.kind.replace('_', '-')}"
        if not _NAME.fullmatch(run):
            raise PrivetError("cannot name a run", field="--name", given=ascii(run), allowed="a-z, 0-9 and -")
        path = self.home.submitted(run)
        if path.exists():
            raise PrivetError(
                "there is a run of this name", field="--name", given=run, hint="--continue goes on with it"
            )
        try:
            Reading.of(config.data)
        except SealingRefused as refused:
            raise PrivetError(refused.detail, field="data", given=refused.reason) from None
        trust_model(config, self.home.roster().size)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.start_job(run)
        return run

    def start_job(self, run: str) -> str:
        """Submit a job that begins a run or goes on with it from its checkpoint; returns the job's id.

        Raises:
            PrivetError: if there is no such run, it is over, or its job still runs.
        """
        from privet.config import load
        from privet.engines.flare import operator

        home = self.home
        if not home.submitted(run).exists():
            raise PrivetError(
                "there is no such run", field="RUN", given=run, allowed=", ".join(home.runs()) or "none yet"
            )
        if home.status(run).get("state") == FINISHED:
            raise PrivetError(
                "this run is finished", field="RUN", given=run, hint=f"privet fetch-result {run}"
            )
        least = trust_model(load(home.submitted(run)), home.roster().size).min_survivors
        with operator.session(self.kit / OPERATOR_KIT, OPERATOR) as opened:
            before = home.orders(run).get("job")
            # A server that was killed leaves its jobs marked as running for ever: it is asked for their processes.
            if before and operator.runs_now(opened, before):
                self._wait_for_end(opened, run, before)
            job = operator.submit(opened, run, least=least)
        home.order(
            run,
            {"job": job, "stop": False, "rejoin": False, "jobs": [*home.orders(run).get("jobs", []), job]},
        )
        self.tell("job", {"run": run, "job": job})
        return job

    def _wait_for_end(self, opened: Any, run: str, job: str) -> None:
        """A run that is over, or between two jobs, has a job whose processes are still being taken down."""
        from privet.engines.flare import operator

        status = self.home.status(run)
        if status.get("job") == job and status["state"] != RUNNING:
            end = time.monotonic() + _TEARDOWN_SECONDS
            while time.monotonic() < end:
                if not operator.runs_now(opened, job):
                    return
                time.sleep(self.poll_seconds)
        raise PrivetError(
            "its job still runs", field="RUN", given=run, hint=f"privet status {run}, or privet stop {run}"
        )

    def follow(self, run: str) -> dict[str, Any]:
        """Tell of a run until it is over, and keep it going; returns its last status.

        Raises:
            PrivetError: if it gets no further: several jobs in a row ended without a round.
        """

        idle, at = 0, -1
        self._told = int(self.home.status(run).get("round", 0))
        while True:
            status = self._watch(run)
            if status["state"] in OVER:
                self.tell("over", status)
                return status
            number = int(status.get("round", 0))
            idle, at = (idle + 1 if number == at else 0), number
            if idle >= MOST_JOBS_WITHOUT_A_ROUND:
                raise PrivetError(
                    f"{idle} jobs in a row ended without a round",
                    field="RUN",
                    given=run,
                    hint=f"privet logs {run}; then privet submit --continue {run}",
                )
            self.start_job(run)

    def _watch(self, run: str) -> dict[str, Any]:
        """Look on until the run is over or its job has ended, and return the run's status.

        A job is asked to end between two rounds when a site is back that is not in it.
        """
        from privet.engines.flare import operator

        home = self.home
        job, began = home.orders(run)["job"], int(home.status(run).get("round", 0))
        with operator.session(self.kit / OPERATOR_KIT, OPERATOR) as opened:
            while True:
                ended = operator.has_ended(operator.state(opened, job))
                orders, status = home.orders(run), home.status(run)
                if int(status.get("round", 0)) > self._told:
                    self._told = int(status["round"])
                    self.tell("round", status)
                if orders.get("stop"):
                    return {**status, "state": STOPPED, "reason": "stopped by the operator"}
                if status.get("job") == job and status["state"] in OVER:
                    return status
                if ended:
                    return {**status, "state": INTERRUPTED}
                if int(status.get("round", 0)) > began and status.get("out") and not orders.get("rejoin"):
                    back = set(operator.outside(opened, job)) & set(status["out"])
                    if back:
                        home.order(run, {"rejoin": True})
                        self.tell("back", {"sites": sorted(back)})
                time.sleep(self.poll_seconds)

    def stop(self, run: str) -> None:
        """End a run's job; `--continue` can go on with it.

        Raises:
            PrivetError: if there is no such run.
        """
        from privet.engines.flare import operator

        orders = self.home.orders(run)
        if "job" not in orders:
            raise PrivetError(
                "there is no such run", field="RUN", given=run, allowed=", ".join(self.home.runs())
            )
        self.home.order(run, {"stop": True})
        with operator.session(self.kit / OPERATOR_KIT, OPERATOR) as opened:
            operator.abort(opened, orders["job"])

    def sites(self) -> list[str] | None:
        """Names of the sites that are connected; ``None`` if no server answers."""
        from privet.engines.flare import operator

        try:
            with operator.session(self.kit / OPERATOR_KIT, OPERATOR) as opened:
                return operator.connected(opened)
        except PrivetError:
            return None


def fetch_result(kit: Path, run: str, out: Path) -> list[Path]:
    """Copy a run's result out of a kit: at the server, or at a site where only sites know the adapter.

    Args:
        kit: The server's or a site's kit.
        run: Name of the run.
        out: New or empty folder.

    Raises:
        PrivetError: if there is no result here.
    """
    at_server = (kit / "startup" / "server.crt").is_file()
    home = server_home(kit).path if at_server else site_home(kit).path
    folder = home / RUNS / run
    names = ("adapter", "result.json", "privacy.json", "dp_event.json", "rounds.jsonl", "metrics.jsonl")
    found = [folder / name for name in names if (folder / name).exists()]
    if not (folder / "adapter").is_dir():
        elsewhere = at_server and (folder / "result.json").exists()
        hint = f"privet status {run}" if at_server else "unless its sums were encrypted, the server has it"
        raise PrivetError(
            "the server has no adapter of this run: its sums were encrypted"
            if elsewhere
            else "has no result here",
            field="RUN",
            given=run,
            hint="fetch it at a site: privet fetch-result RUN --kit SITE" if elsewhere else hint,
        )
    if out.exists() and any(out.iterdir()):
        raise PrivetError("is not empty", field="--out", given=out, hint="name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    for path in found:
        if path.is_dir():
            shutil.copytree(path, out / path.name)
        else:
            shutil.copyfile(path, out / path.name)
    return [out / path.name for path in found]


def log_of(kit: Path, run: str | None) -> Path:
    """The log of a run at the server, or a site's own.

    Raises:
        PrivetError: if nothing was logged yet.
    """
    if (kit / "startup" / "server.crt").is_file():
        if run is None:
            raise PrivetError(
                "name a run", field="RUN", allowed=", ".join(server_home(kit).runs()) or "none yet"
            )
        path = server_home(kit).run_folder(run) / "log.txt"
    else:
        path = kit / FOLDER / "log.txt"
    if not path.exists():
        raise PrivetError("nothing was logged yet", field=str(path), hint="privet status")
    return path
