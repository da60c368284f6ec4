"""What the engines cost besides training: FLARE with real processes and TLS on this machine, and the local engine.

The FLARE part provisions a consortium of its own, lets sites echo questions of several sizes, and measures seconds of a
question and its answers, and the peak memory of the server's job process. Signing and checking are inside; loading,
training and the pipe to a site's worker are not. The local part runs rounds with a trainer that does nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SIZES: tuple[tuple[int, int], ...] = ((4, 10), (1_000_000, 5), (20_000_000, 3), (200_000_000, 2))
"""Bytes each way, and how often each is asked."""
SITES = (2, 4, 8)
CLIENTS = (100, 1000)
_MEMORY_FACTOR = 12
"""Copies of all questions, at the server and the sites together, that this machine must have room for."""
MOST_SECONDS = 600
"""For all sizes of one number of sites; what is not measured by then stays empty, and says so."""
DIMENSION = 16


def bench_engine(
    observe: Callable[[str], None] = lambda text: None,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    sites: Sequence[int] = SITES,
    clients: Sequence[int] = CLIENTS,
) -> dict[str, Any]:
    """All measurements.

    Args:
        observe: Told what is measured next.
        sizes: Bytes each way, and how often.
        sites: Numbers of sites.
        clients: Numbers of clients of the local engine.
    """
    local = []
    for count in clients:
        observe(f"local engine, {count} clients")
        local.append(local_overhead(count))
    remote: list[dict[str, Any]] = []
    for count in sites:
        observe(f"FLARE on this machine, {count} sites")
        remote += flare_rounds(count, sizes)
    return {"cores": os.cpu_count(), "local": local, "flare": remote}


class _Idle:
    """A trainer that does nothing."""

    dimension = DIMENSION

    def set_flat(self, flat: Any) -> None:
        """Nothing."""

    def per_unit_gradients(self, examples: Any, micro_batch: int) -> Iterator[Any]:
        """No gradient."""
        return iter(())

    def mean_gradient(self, examples: Any) -> Any:
        """Zero."""
        return np.zeros(DIMENSION, np.float32)

    def train_locally(self, flat: Any, examples: Any, local: Any, seed: bytes) -> Any:
        """The values as they were."""
        return flat.copy()


def local_overhead(clients: int, rounds: int = 20) -> dict[str, Any]:
    """Milliseconds a client and round of the local engine, wall and CPU, the median round, without a seal."""
    from privet.codec_schedule import CodecSchedule
    from privet.config import parse
    from privet.federation import Secrets, federate
    from privet.resolve import resolve
    from privet.work import Workplace

    config = parse(
        {
            "insecure_test_seed": 1,
            "system": {"kind": "fedavg"},
            "model": {"name": "small"},
            "data": {"kind": "sentiment"},
            "schedule": {"rounds": rounds},
        }
    )
    resolved = resolve(config, dimension=DIMENSION, parties=clients)
    secrets = [Secrets.of_test_seed(1, party) for party in range(clients)]
    places = [Workplace(f"client-{party}", _Idle(), ["record"], 1) for party in range(clients)]  # type: ignore[list-item]  # nothing looks at the record
    schedule = CodecSchedule(config.codec, [("w", (DIMENSION,))], 0, rounds, private=False, sealed=False)
    times: list[float] = []
    cpu: list[float] = []

    def on_event(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round":
            times.append(facts["seconds"])
            cpu.append(time.process_time())

    initial = np.zeros(DIMENSION, np.float32)
    federation = federate(resolved, places, secrets, initial, schedule, run="bench", observe=on_event)
    federation.engine.run(federation.server.steps())
    each = sorted(1000 * seconds / clients for seconds in times)
    spent = [1000 * (after - before) / clients for before, after in pairwise(cpu)]
    return {
        "clients": clients,
        "rounds": rounds,
        "ms_a_client": median(each),
        "cpu_ms_a_client": median(spent),
        "least_ms": each[0],
        "most_ms": each[-1],
    }


def flare_rounds(sites: int, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Seconds and server memory by size, for one number of sites."""
    from privet.deploy.hardening import ECHO_CONTROLLER, ECHO_EXECUTOR
    from privet.deploy.project import OPERATOR, OPERATOR_KIT
    from privet.engines.flare import operator

    free = _free_memory()
    needed = {size: size * sites * _MEMORY_FACTOR for size, _ in sizes}
    fitting = [list(each) for each in sizes if needed[each[0]] < free]
    with (
        tempfile.TemporaryDirectory(prefix="privet-bench-") as folder,
        _consortium(Path(folder), sites) as server,
    ):
        out = Path(folder) / "rows.json"
        with operator.session(server / OPERATOR_KIT, OPERATOR) as opened:
            end = time.monotonic() + 120
            while len(operator.connected(opened)) < sites and time.monotonic() < end:
                time.sleep(0.5)
            arguments = {"sizes": fitting, "out": str(out)}
            operator.submit_classes(opened, "bench", sites, (ECHO_CONTROLLER, arguments), (ECHO_EXECUTOR, {}))
            rows: list[dict[str, Any]] = []
            end = time.monotonic() + MOST_SECONDS
            while len(rows) < sum(times for _, times in fitting) and time.monotonic() < end:
                time.sleep(0.5)
                rows = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    found = []
    for size, _ in sizes:
        asked = [row for row in rows if row["bytes"] == size]
        mine = [row for row in asked if row["answers"] == sites]
        why = None
        if needed[size] >= free:
            why = f"no memory: {needed[size] / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
        elif not mine:
            most = max((row["answers"] for row in asked), default=None)
            why = f"not done within {MOST_SECONDS} s" if most is None else f"{most} of {sites} answers came"
        found.append(
            {
                "sites": sites,
                "bytes_each_way": size,
                "seconds": median(row["seconds"] for row in mine) if mine else None,
                "server_peak_bytes": max(row["server_peak_bytes"] for row in mine) if mine else None,
                "exchanges": len(mine),
                "slowest_seconds": max(row["seconds"] for row in mine) if mine else None,
                "not_measured": why,
            }
        )
    return found


@contextlib.contextmanager
def _consortium(base: Path, count: int) -> Iterator[Path]:
    """A running consortium of this machine's; yields the server's kit and ends every process."""
    from privet.deploy.hardening import ALLOWED, ECHO_CONTROLLER, ECHO_EXECUTOR, place_stores
    from privet.deploy.project import Project, make_project
    from privet.deploy.starting import command
    from privet.engines.homes import FOLDER, KEYS, ROSTER
    from privet.sealing.enrolment import assemble, init_keys, sign_file

    names = tuple(f"site-{number}" for number in range(count))
    port, admin = _free_ports()
    project = Project(name="bench", server="localhost", sites=names, port=port, admin_port=admin)
    kits = make_project(project, base / "project")
    roster = base / ROSTER
    assemble([init_keys(kits.sites[name] / FOLDER / KEYS, name) for name in names], "bench", roster)
    for name in names:
        sign_file(kits.sites[name] / FOLDER / KEYS, roster)
    place_stores(kits.server)
    everything = (kits.server, *kits.sites.values())
    for kit in everything:
        shutil.copy(roster, kit / FOLDER / ROSTER)
        resources = kit / "local" / "resources.json"
        facts = json.loads(resources.read_text(encoding="utf-8"))
        facts["class_allow_list"] = [*ALLOWED, ECHO_CONTROLLER, ECHO_EXECUTOR]
        resources.write_text(json.dumps(facts), encoding="utf-8")
    processes = []
    try:
        for kit in everything:
            log = open(base / f"{kit.name}.log", "wb")  # noqa: SIM115 - the process keeps it
            processes.append(
                subprocess.Popen(
                    command(kit), cwd=kit, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )
            log.close()
            _wait_for_port(admin)
        yield kits.server
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(1)  # the jobs' processes follow their parents


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)


def _free_memory() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 33
