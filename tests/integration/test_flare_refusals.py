"""Who must not take part does not, and what must not leave a site is not at the server: real processes, real TLS."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.consortium import Consortium, until

from privet.deploy.project import make_project
from privet.deploy.starting import command
from privet.engines.homes import FOLDER, KEYS

CANARY = "xyzzycanary"
SITES = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("flare")]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Iterator[Consortium]:
    """Every record, and every path of a site's data, has a word that must not turn up at the server."""
    made = Consortium(tmp_path_factory.mktemp("consortium"), SITES, mark=CANARY)
    private = made.base / "private"
    for name in SITES:
        folder = private / name / CANARY
        folder.mkdir(parents=True)
        shutil.copy(made.data(name), folder / "records.jsonl")
    made.data = lambda name: private / name / CANARY / "records.jsonl"  # type: ignore[method-assign]  # as sites would
    try:
        made.start_all()
        yield made
    finally:
        made.close()


def config(consortium: Consortium) -> str:
    text = consortium.config(
        schedule={"rounds": 2, "min_survivors": 3, "round_attempts": 2},
        data={"path": "sites/*.jsonl"},
        engine={"site_timeout": 20},
    )
    assert CANARY not in text
    return text


def finish(consortium: Consortium, run: str) -> str:
    consortium.submit(run, config(consortium))
    return str(consortium.operator().follow(run)["state"])


def test_a_site_that_fails_tells_its_errors_type_and_nothing_else(consortium: Consortium) -> None:
    """One site's file is gone, with its path in the message; the others go on, and nothing of it is elsewhere."""
    path = consortium.data("hosp-d")
    path.rename(path.with_suffix(".gone"))
    assert finish(consortium, "broken") == "finished"
    assert "'site': 'hosp-d', 'op': 'join', 'reason': 'failed: PrivetError'" in consortium.run_log("broken")
    assert CANARY in consortium.site_log("hosp-d"), "the site's own people see what is wrong"
    searched = 0
    for path in consortium.server_kit.rglob("*"):
        if path.is_file():
            searched += 1
            assert CANARY.encode() not in path.read_bytes(), path
            assert b"records.jsonl" not in path.read_bytes(), path
    assert searched > 30
    stdout = (consortium.base / "server.out").read_text(encoding="utf-8")
    assert "ended" in stdout or "INFO" in stdout
    assert CANARY not in stdout
    # Nor do the sites' kits, FLARE's logs among them, have another site's.
    for name in SITES[:3]:
        for path in consortium.site_kit(name).rglob("*.txt"):
            assert (
                CANARY not in path.read_text(encoding="utf-8", errors="replace") or path.parent.name == FOLDER
            )


def test_a_run_over_a_sites_policy_goes_on_without_it(consortium: Consortium) -> None:
    consortium.settings("hosp-a", policy={"max_epsilon": 0.01})
    try:
        consortium.submit("policy", config(consortium))
        until("the refusal", lambda: "policy-epsilon" in consortium.run_log("policy"))
        assert "'site': 'hosp-a', 'op': 'join', 'reason': 'refused: policy-epsilon'" in consortium.run_log(
            "policy"
        )
        assert "this site allows 0.01" in consortium.site_log("hosp-a")
        consortium.operator().stop("policy")
    finally:
        consortium.settings("hosp-a", policy={"max_epsilon": 1000.0})


def test_a_known_site_with_anothers_key_is_refused(consortium: Consortium) -> None:
    """The site's own command refuses to start; without it the worker does."""
    keys = consortium.site_kit("hosp-c") / FOLDER / KEYS
    mine = keys.with_name("mine")
    consortium.kill("hosp-c")
    shutil.copytree(keys, mine)
    shutil.rmtree(keys)
    shutil.copytree(consortium.site_kit("hosp-b") / FOLDER / KEYS, keys)
    try:
        start = [
            sys.executable,
            "-m",
            "privet.cli",
            "site",
            "start",
            "--kit",
            str(consortium.site_kit("hosp-c")),
        ]
        done = subprocess.run(start, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "stands in the roster under another name" in done.stderr
        out = (consortium.base / "forced.out").open("wb")
        kit = consortium.site_kit("hosp-c")
        forced = subprocess.Popen(command(kit), cwd=kit, stdout=out, stderr=out, start_new_session=True)
        out.close()
        consortium.connected("hosp-c")
        consortium.submit("key", config(consortium))
        until("the refusal", lambda: "roster-or-key" in consortium.run_log("key"))
        assert "'site': 'hosp-c', 'op': 'join', 'reason': 'refused: roster-or-key'" in consortium.run_log(
            "key"
        )
        assert "stands in the roster under another name" in consortium.site_log("hosp-c")
        consortium.operator().stop("key")
    finally:
        consortium.kill("hosp-c")
        forced.wait()
        shutil.rmtree(keys)
        shutil.move(mine, keys)


def test_a_foreign_certificate_gets_no_connection(consortium: Consortium, tmp_path: Path) -> None:
    """The same names and ports, from another authority: neither side gets through the handshake."""
    kits = make_project(consortium.project, tmp_path / "foreign")
    kit = kits.sites["hosp-c"]
    consortium.kill("hosp-c")
    time.sleep(1)
    out = tmp_path / "foreign.out"
    with out.open("wb") as file:
        process = subprocess.Popen(command(kit), cwd=kit, stdout=file, stderr=file, start_new_session=True)
    try:
        until("a refused handshake", lambda: "Retrying" in out.read_text(encoding="utf-8"), seconds=60)
        time.sleep(5)
        text = out.read_text(encoding="utf-8")
        assert "Successfully registered" not in text
        assert "UNAUTHENTICATED" in text or "CERTIFICATE_VERIFY_FAILED" in text or "Not Connected" in text
    finally:
        process.kill()
        process.wait()
