"""Who must not take part does not, and what must not leave a site is not at the server: real processes, real TLS."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.consortium import REGISTERED, Consortium, until

from privet.deploy.hardening import CONTROLLER, EXECUTOR
from privet.deploy.project import make_project
from privet.deploy.starting import command
from privet.engines.flare.job import write_job
from privet.engines.homes import FOLDER, KEYS, ROSTER
from privet.sealing.enrolment import assemble, init_keys, sign_file

CANARY = "xyzzycanary"
SITES = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("flare")]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Iterator[Consortium]:
    """Every record, and every path of a site's data, has a word that must not turn up at the server."""
    made = Consortium(tmp_path_factory.mktemp("consortium"), SITES, mark=CANARY, phases=True)
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


def leaks(folder: Path, *words: bytes) -> tuple[list[Path], int]:
    """Files with one of the words in their name, inside, or inside them as an archive; and how many were read."""
    found, searched = [], 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        texts = [str(path.relative_to(folder)).encode(), path.read_bytes()]
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            texts += [archive.read(name) for name in archive.namelist()]
        searched += 1
        if any(word in text for word in words for text in texts):
            found.append(path)
    return found, searched


def test_the_search_for_leaks_finds_them(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(f"a {CANARY} b", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "job", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log", CANARY * 100)
    (tmp_path / f"{CANARY}.txt").touch()
    (tmp_path / "nothing").write_bytes(b"x")
    found, searched = leaks(tmp_path, CANARY.encode())
    assert sorted(path.name for path in found) == sorted(["plain", "job", f"{CANARY}.txt"])
    assert searched == 4


def test_a_site_that_fails_tells_its_errors_type_and_nothing_else(consortium: Consortium) -> None:
    """One site's file is gone, another's training raises in a round, each with a canary in its message: nothing of it
    is at the server, and the sites' own people have all of it."""
    path = consortium.data("hosp-d")
    path.rename(path.with_suffix(".gone"))
    order = consortium.order("hosp-b", "round", "before", number=1, do="raise")
    assert finish(consortium, "broken") == "finished"
    assert order.exists()
    assert "'site': 'hosp-b', 'op': 'round', 'reason': 'failed: RuntimeError'" in consortium.run_log("broken")
    assert f"RuntimeError: {CANARY} in" in consortium.site_log("hosp-b")
    assert "'site': 'hosp-d', 'op': 'join', 'reason': 'failed: PrivetError'" in consortium.run_log("broken")
    assert CANARY in consortium.site_log("hosp-d"), "the site's own people see what is wrong"
    found, searched = leaks(consortium.server_kit, CANARY.encode(), b"records.jsonl", b"sitecustomize.py")
    assert not found
    assert searched > 30
    stdout = (consortium.base / "server.out").read_text(encoding="utf-8")
    assert "ended" in stdout or "INFO" in stdout
    assert CANARY not in stdout
    assert "records.jsonl" not in stdout
    path.with_suffix(".gone").rename(path)
    # Nor do the sites' kits, FLARE's logs among them, have another site's.
    for name in SITES[:3]:
        for path in consortium.site_kit(name).rglob("*.txt"):
            assert (
                CANARY not in path.read_text(encoding="utf-8", errors="replace") or path.parent.name == FOLDER
            )


def test_anothers_key_and_a_run_over_a_sites_policy_are_refused(consortium: Consortium) -> None:
    """With another's key the site's own command refuses to start; without that command its worker does. Another site's
    policy allows less than the same run spends."""
    consortium.settings("hosp-a", policy={"max_epsilon": 0.01})
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
        path = consortium.base / "forced.out"
        out = path.open("wb")
        kit = consortium.site_kit("hosp-c")
        forced = subprocess.Popen(command(kit), cwd=kit, stdout=out, stderr=out, start_new_session=True)
        out.close()
        until("its registration", lambda: REGISTERED in path.read_bytes())
        consortium.submit("refused", config(consortium))
        for site, reason in (("hosp-c", "roster-or-key"), ("hosp-a", "policy-epsilon")):
            line = f"'site': '{site}', 'op': 'join', 'reason': 'refused: {reason}'"
            until("the refusal", lambda line=line: line in consortium.run_log("refused"))  # type: ignore[misc]  # bound now
        assert "stands in the roster under another name" in consortium.site_log("hosp-c")
        assert "this site allows 0.01" in consortium.site_log("hosp-a")
        consortium.operator().stop("refused")
    finally:
        consortium.settings("hosp-a", policy={"max_epsilon": None})
        consortium.kill("hosp-c")
        forced.wait()
        shutil.rmtree(keys)
        shutil.move(mine, keys)


def test_a_foreign_certificate_gets_no_connection(consortium: Consortium, tmp_path: Path) -> None:
    """The same names and ports, from another authority: neither side gets through the handshake, and both say why."""
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
        assert REGISTERED.decode() not in text
        assert "UNAUTHENTICATED" in text or "CERTIFICATE_VERIFY_FAILED" in text or "Not Connected" in text
    finally:
        process.kill()
        process.wait()
    # It did not believe the server. Somebody who does, and shows that certificate, is not believed either.
    log, at = consortium.base / "server.out", (consortium.base / "server.out").stat().st_size
    context = ssl.create_default_context(cafile=str(consortium.site_kit("hosp-c") / "startup" / "rootCA.pem"))
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
    context.set_alpn_protocols(["h2"])
    # With TLS 1.3 a client learns that it was refused when it reads.
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        raw = socket.create_connection(("127.0.0.1", consortium.project.port), 10)
        with context.wrap_socket(raw, server_hostname="localhost") as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert connection.recv(100) == b""
    said = until("the server's reason", lambda: log.read_bytes()[at:], seconds=20).decode()
    assert "Handshake failed" in said
    assert "certificate" in said
    consortium.start("hosp-c")
    consortium.connected("hosp-c")


def test_a_replayed_question_is_refused_at_the_site_and_told_at_the_server(consortium: Consortium) -> None:
    """The server, or who can make it, sends a question of round 0 again in round 1; others go on without that site."""
    order = consortium.order("server", "send recover.survivors 1", "before", do="replay")
    assert finish(consortium, "replay") == "finished"
    assert order.exists()
    line = "'site': 'hosp-b', 'op': 'recover.survivors', 'reason': 'refused: replayed'"
    assert line in consortium.run_log("replay")
    assert "recover.survivors: refused: replayed: round (0, 0) after round (1, 0)" in consortium.site_log(
        "hosp-b"
    )


def test_a_server_that_changes_the_roster_is_refused_by_every_site(consortium: Consortium) -> None:
    """Keys of the server's own making under the sites' names, signed by those keys: in order by itself."""
    path = consortium.server_kit / FOLDER / ROSTER
    true = path.read_bytes()
    forged = consortium.base / "forged"
    cards = [init_keys(forged / name, name) for name in SITES]
    assemble(cards, "trial", path)
    for name in SITES:
        sign_file(forged / name, path)
    try:
        assert finish(consortium, "roster") == "failed"
    finally:
        path.write_bytes(true)
    log = consortium.run_log("roster")
    told = [
        name for name in SITES if f"'site': '{name}', 'op': 'join', 'reason': 'refused: bad-signature'" in log
    ]
    assert len(told) >= 3, "a job begins with three sites"
    assert all("run roster, join: refused: bad-signature" in consortium.site_log(name) for name in told)


def test_a_server_that_turned_against_a_site_reads_runs_and_deletes_nothing(consortium: Consortium) -> None:
    """FLARE by itself does all but run the code: it leaves it to the server to say what needs a right."""
    assert consortium.phases is not None
    write_job(consortium.base / "job", "turned", 3, (CONTROLLER, {}), (EXECUTOR, {"run": "turned"}))
    shutil.move(consortium.base / "job" / "app", consortium.phases / "app")
    home = consortium.site("hosp-b")
    before = home.ledger.runs().keys()
    order = consortium.order("server", "turn", "before", number=1, do=f"hosp-b {consortium.data('hosp-b')}")
    assert finish(consortium, "turned") == "finished"
    assert order.exists()
    answers = {line["attack"]: line["answer"] for line in consortium.journal() if line["kind"] == "turned"}
    assert len(answers) == 7
    assert "a cookie" in answers["a cookie"], "FLARE answers with what it was sent"
    assert all(answers[each] == "invalid_request" for each in ("read a file", "where is it", "delete"))
    assert "a job has two files of configuration" in answers["run code"]
    assert "exception" in answers["forget"]
    assert not any(CANARY in answer for answer in answers.values())
    assert home.ledger.runs().keys() == before | {"turned"}
    assert not list(consortium.site_kit("hosp-b").rglob("custom"))
    assert "hosp-b" in consortium.server.status("turned")["in"], "the site is as well as before"


def test_a_site_has_nothing_of_anothers_and_ends_nothing_at_the_server(consortium: Consortium) -> None:
    """FLARE by itself gives it all tokens, hands its messages on as another's, and stops beginning jobs at its word."""
    rounds = consortium.config(
        schedule={"rounds": 400, "min_survivors": 3, "round_attempts": 2}, engine={"site_timeout": 20}
    )
    consortium.submit("watched", rounds)
    until("a round", lambda: consortium.round_of("watched") >= 1)
    consortium.pace(0.5)
    (job,) = consortium.server.orders("watched")["jobs"]
    script = Path(__file__).parent.parent / "support" / "hostile_site.py"
    words = [consortium.site_kit("hosp-d"), "hosp-d", consortium.project.port, job, "hosp-a"]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers.pop("its own").startswith("ok"), "it is connected, and says what a job at a site says"
    assert answers.pop("in another") == "nothing"
    assert all(answer.startswith("timeout") for answer in answers.values()), answers
    said = (consortium.base / "server.out").read_text(encoding="utf-8")
    lines = [line for line in said.splitlines() if "refused a message of hosp-d.evil" in line]
    for why in ("get_clients", "'aux_communication', 'fed.event'", "'hci_channel'", "for another site"):
        assert any(why in line for line in lines), why
    assert any("to be passed on as the server's" in line for line in lines)
    assert "__do_task__" not in consortium.site_log("hosp-a")
    since = consortium.round_of("watched")
    until("another round", lambda: consortium.round_of("watched") > since)
    consortium.operator().stop("watched")
    consortium.pace(0)
    until("the end of its server job", lambda: not consortium.processes("server", "runner_process"))
    assert finish(consortium, "after") == "finished", "the server begins jobs as before"


def test_a_reading_that_no_site_approved_is_refused(consortium: Consortium) -> None:
    words = {"kind": "classification", "verbalisers": {"0": " negative", "17": " positive"}}
    text = consortium.config(data={"template": words}, schedule={"rounds": 2, "min_survivors": 3})
    consortium.submit("reading", text)
    assert consortium.operator().follow("reading")["state"] == "failed"
    assert consortium.run_log("reading").count("'op': 'join', 'reason': 'refused: policy-reading'") >= 3
    assert "how the run reads records was not approved at this site" in consortium.site_log("hosp-a")
