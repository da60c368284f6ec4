"""A consortium on this machine: provisioned kits, real FLARE processes, real TLS on the loopback, three sites."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from privet.config import parse
from privet.deploy.operating import Operator
from privet.deploy.project import Project, make_project
from privet.engines.homes import FOLDER, KEYS, ROSTER, SITE, ServerHome, SiteHome
from privet.privacy.events import Release
from privet.reading import Reading
from privet.sealing.enrolment import assemble, init_keys, sign_file

SITES = ("hosp-a", "hosp-b", "hosp-c")
REGISTERED = b"Successfully registered"
GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "poor", "sad")


def _die_with_parent() -> None:
    """Linux: no machine outlives the tests, however they end (PR_SET_PDEATHSIG, kept over exec)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def until(what: str, holds: Callable[[], Any], seconds: float = 300.0, pause: float = 0.05) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"{what} did not come within {seconds} s")


def write_records(path: Path, count: int, seed: int, mark: str = "") -> None:
    """A site's file: sentences of four words, and the mark in each."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.random() < 0.5
        text = " ".join(draw.choices(GOOD if label else BAD, k=4))
        rows.append({"text": f"{text} {mark}".strip(), "label": int(label)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def approved(*configs: str) -> list[str]:
    """Fingerprints of the ways in which these configurations read records, for a site's policy."""
    return [Reading.of(parse(yaml.safe_load(text)).data).fingerprint for text in configs]


def environment(phases: Path | None, mark: str) -> dict[str, str]:
    """The machines' environment."""
    if phases is None:
        return dict(os.environ)
    paths = [str(Path(__file__).with_name("phases")), os.environ.get("PYTHONPATH", "")]
    hooked = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PRIVET_TEST_PHASES": str(phases),
        "PRIVET_TEST_CANARY": mark,
    }
    return {**os.environ, **hooked}


class Consortium:
    """Server, sites and operator; every process is ended by `close`.

    With ``phases`` its processes do what `order` says at chosen phases and keep a journal: `support.phases`.
    """

    def __init__(
        self, base: Path, sites: Sequence[str] = SITES, mark: str = "", *, phases: bool = False
    ) -> None:
        self.base, self.sites = base, tuple(sites)
        self.phases = base / "phases" if phases else None
        if self.phases is not None:
            self.phases.mkdir()
        self._environment, self._orders = environment(self.phases, mark), 0
        port, admin = free_ports(2)
        self.project = Project(
            name="trial", server="localhost", sites=self.sites, port=port, admin_port=admin
        )
        self.kits = make_project(self.project, base / "project")
        (base / "data").mkdir()
        cards = [init_keys(self.site_kit(name) / FOLDER / KEYS, name) for name in self.sites]
        assemble(cards, "trial", base / ROSTER)
        for name in self.sites:
            sign_file(self.site_kit(name) / FOLDER / KEYS, base / ROSTER)
        for kit in (self.server_kit, *self.kits.sites.values()):
            shutil.copy(base / ROSTER, kit / FOLDER / ROSTER)
        for number, name in enumerate(self.sites):
            write_records(self.data(name), 60 + 10 * number, number, mark)
            limits = {"allow_insecure_test_seed": True, "max_epsilon": None}
            self.settings(name, threads=1, policy={**limits, "readings": approved(self.config())})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, int] = {}

    @property
    def server_kit(self) -> Path:
        return self.kits.server

    @property
    def server(self) -> ServerHome:
        return ServerHome(self.server_kit / FOLDER)

    def site_kit(self, name: str) -> Path:
        return self.kits.sites[name]

    def charged(self, name: str, run: str) -> int:
        """Answers to rounds of a run that a site has charged."""
        releases = self.site(name).ledger.runs()[run].releases
        return sum(release.count for release in releases if isinstance(release, Release))

    def site(self, name: str) -> SiteHome:
        return SiteHome(self.site_kit(name) / FOLDER, name)

    def site_log(self, name: str) -> str:
        path = self.site_kit(name) / FOLDER / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def run_log(self, run: str) -> str:
        path = self.server.run_folder(run) / "log.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def data(self, name: str) -> Path:
        return self.base / "data" / f"{name}.jsonl"

    def settings(self, name: str, policy: dict[str, Any] | None = None, **settings: Any) -> None:
        """Change a site's own file."""
        path = self.site_kit(name) / FOLDER / SITE
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        new = {**old, **settings, "policy": {**old["policy"], **(policy or {})}}
        path.write_text(yaml.safe_dump(new), encoding="utf-8")

    def config(self, **sections: Any) -> str:
        """The text of a configuration that one process could run as well."""
        raw: dict[str, Any] = {
            "insecure_test_seed": 7,
            "system": {"kind": "hedge"},
            "model": {"name": "small", "dtype": "float32"},
            "data": {
                "kind": "jsonl",
                "path": str(self.base / "data" / "*.jsonl"),
                "partition": {"kind": "file"},
                "split": {"test": 0.0},
                "template": {
                    "kind": "classification",
                    "prompt": "Text: {text}\nSentiment:",
                    "verbalisers": {"0": " negative", "1": " positive"},
                },
            },
            "lora": {"rank": 4, "layers": {"top": 1}},
            "schedule": {"rounds": 3, "sampling_rate": 0.2, "expected_batch": 40},
            "privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0},
            "sealing": {"kind": "masked"},
            "engine": {"threads": 1, "deterministic_units": True, "site_timeout": 60},
        }
        for name, value in sections.items():
            raw[name] = {**raw.get(name, {}), **value} if isinstance(value, dict) else value
        parse(raw)
        return yaml.safe_dump(raw)

    def start(self, *names: str) -> None:
        """Start machines: ``server`` or a site's name."""
        for name in names:
            kit = self.server_kit if name == "server" else self.site_kit(name)
            command = [sys.executable, "-m", "privet.cli"]
            command += ["server", "start", "--kit", str(kit)] if name == "server" else []
            command += (
                ["site", "start", "--kit", str(kit), "--data", str(self.data(name))]
                if name != "server"
                else []
            )
            if name in self._processes:
                self._processes[name].wait()
            with open(self.base / f"{name}.out", "ab") as out:
                self._began[name] = out.tell()
                environment = dict(self._environment)
                if name == "server":
                    environment.pop("PRIVET_TEST_CANARY", None)
                self._processes[name] = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing in it takes a lock
                )

    def start_all(self) -> None:
        """The server first, then all sites; returns when all are connected."""
        self.start("server")
        self.start(*self.sites)
        self.connected(*self.sites)

    def connected(self, *names: str) -> None:
        """Wait until these sites are connected."""
        # The server takes a site that was killed for connected for a while, so the site has to say so too.
        until(f"connection of {names}", lambda: all(map(self._registered, names)))
        until(f"connection of {names}", lambda: set(names) <= set(self.operator().sites() or ()), pause=0.2)

    def _registered(self, name: str) -> bool:
        said = (self.base / f"{name}.out").read_bytes()[self._began[name] :]
        return REGISTERED in said

    def operator(self, tell: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None) -> Operator:
        return Operator(self.server_kit, tell, poll_seconds=0.3)

    def submit(self, run: str, text: str) -> str:
        return self.operator().submit(parse(yaml.safe_load(text)), text, run)

    def round_of(self, run: str) -> int:
        return int(self.server.status(run).get("round", 0))

    def processes(self, machine: str, part: str = "") -> list[int]:
        """Ids of a machine's processes whose command line has ``part``; those of this test's own kits alone."""
        kit = str(self.server_kit if machine == "server" else self.site_kit(machine))
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                except OSError:
                    continue
                if kit in line and part in line:
                    found.append(int(entry.name))
        return sorted(found)

    def main_process(self, machine: str) -> int:
        """Id of the process that `start` started."""
        return self._processes[machine].pid

    def kill(self, machine: str, part: str = "") -> list[int]:
        """kill -9 of a machine's processes."""
        found = self.processes(machine, part)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process = self._processes.get(machine)
        if process is not None and process.pid in found:
            process.wait()
        return found

    def order(self, machine: str, op: str, when: str, *, number: int = 0, **what: Any) -> Path:
        """Have something happen once, when a machine reaches a phase; returns the file that says that it did.

        Args:
            machine: Whose phase.
            op: Operation of the protocol, or ``open`` at the server.
            when: ``before`` or ``after``.
            number: First round in which it may happen.
            what: ``kill`` a machine, all of it or the processes with ``part`` in their command; or ``do`` something.
        """
        assert self.phases is not None
        if "kill" in what:
            victim = what["kill"]
            what["kill"] = str(self.server_kit if victim == "server" else self.site_kit(victim))
        self._orders += 1
        path = self.phases / f"order-{self._orders:03}.json"
        temporary = path.with_suffix(".new")
        facts = {"machine": machine, "op": op, "when": when, "number": number, **what}
        temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.rename(path)
        return path.with_suffix(".done")

    def pace(self, seconds: float) -> None:
        """Let rounds begin that much later, so that a test can keep up with them."""
        assert self.phases is not None
        (self.phases / "pace").write_text(str(seconds), encoding="ascii")

    def journal(self) -> list[dict[str, Any]]:
        """What the processes wrote down, oldest first."""
        assert self.phases is not None
        path = self.phases / "journal.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End everything."""
        for machine in ("server", *self.sites):
            while self.kill(machine):
                time.sleep(0.05)
        for process in self._processes.values():
            process.wait()


def local_adapter(config_text: str, folder: Path) -> bytes:
    """The adapter that one process makes of the same configuration."""
    from privet.runs import start

    start(parse(yaml.safe_load(config_text)), config_text, folder)
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()
