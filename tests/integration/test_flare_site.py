"""A site's FLARE, narrowed, against deploys of a server that turned: FLARE's own processors, no other process."""

from __future__ import annotations

import io
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.workspace import Workspace
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import load_private_key_file, sign_folders
from nvflare.private.admin_defs import Message
from nvflare.private.fed.client.client_engine import ClientEngine
from nvflare.private.fed.client.scheduler_cmds import StartJobProcessor
from nvflare.private.fed.client.training_cmds import DeployProcessor
from nvflare.private.fed.utils import app_deployer
from nvflare.utils.job_launcher_utils import refresh_custom_dir_import_path

from privet.deploy.hardening import CONTROLLER, EXECUTOR
from privet.deploy.project import Kits
from privet.engines.flare import executor
from privet.engines.flare.fields import RAW, WHY
from privet.engines.flare.job import packed_fault, write_job

SITE, JOB = "hosp-a", "11111111-1111-1111-1111-111111111111"
PLAIN = {"config/config_fed_server.json": b"{}", "config/config_fed_client.json": b"{}"}


@pytest.fixture
def job(kits: Kits, tmp_path: Path) -> Path:
    """The folder of an honest job, signed by the operator."""
    write_job(tmp_path / "job", "run", 2, (CONTROLLER, {"run": "run"}), (EXECUTOR, {"run": "run"}))
    return signed(kits, tmp_path / "job" / "app")


def signed(kits: Kits, app: Path) -> Path:
    """The server has the operator's key too."""
    startup = kits.server / "operator" / "startup"
    sign_folders(str(app), load_private_key_file(str(startup / "client.key")), str(startup / "client.crt"))
    return app


def evil(kits: Kits, job: Path, tmp_path: Path) -> bytes:
    """The same with code, which comes last out of the archive."""
    shutil.copytree(job, tmp_path / "evil")
    (tmp_path / "evil" / "custom").mkdir()
    (tmp_path / "evil" / "custom" / "brotlicffi.py").write_text("print('taken over')", encoding="utf-8")
    return packed(signed(kits, tmp_path / "evil"))


def packed(app: Path) -> bytes:
    """As FLARE's server packs it."""
    return bytes(zip_directory_to_bytes(str(app), ""))


class Site:
    """FLARE's engine of a site without its connection."""

    def __init__(self, kit: Path) -> None:
        self.engine = object.__new__(ClientEngine)
        self.engine.args = SimpleNamespace(workspace=str(kit))
        self.engine.get_client_name = lambda: SITE
        self.engine.get_component = lambda name: None
        self.engine.new_context = FLContext
        self.app = kit / JOB / f"app_{SITE}"

    def _ask(self, processor: Any, topic: str, body: Any, job: str) -> str:
        message = Message(topic, body)
        meta = {"job_id": job, "submitter_name": "x", "submitter_org": "x", "submitter_role": "super"}
        for name, value in {"job_id": job, "job_meta": meta, "app_name": "app"}.items():
            message.set_header(name, value)
        return str(processor.process(message, self.engine).body)

    def deploy(self, data: Any, job: str = JOB) -> str:
        return self._ask(DeployProcessor(), "train.deploy", data, job)

    def start(self) -> str:
        return self._ask(StartJobProcessor(), "train.start_job", {}, JOB)

    def files(self) -> set[str]:
        return {path.relative_to(self.app).as_posix() for path in self.app.rglob("*.*")}


@pytest.fixture
def site(kit: Path) -> Site:
    return Site(kit)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What FLARE unpacked, anywhere."""
    seen: list[bytes] = []
    extract = ZipFile.extractall

    def extractall(self: ZipFile, *arguments: Any) -> None:
        assert isinstance(self.fp, io.BytesIO)
        seen.append(self.fp.getvalue())
        extract(self, *arguments)

    monkeypatch.setattr(ZipFile, "extractall", extractall)
    return seen


def test_our_own_job_is_deployed_once(site: Site, job: Path) -> None:
    assert site.deploy(packed(job)) == f"deployed app to {SITE}"
    before = site.files()
    assert site.deploy(packed(job)) == "this job is here already"
    assert site.files() == before


def test_a_job_with_code_is_refused_before_anything_is_unpacked(
    site: Site, kits: Kits, job: Path, tmp_path: Path, unpacked: list[bytes]
) -> None:
    assert "two files of configuration" in site.deploy(evil(kits, job, tmp_path))
    assert not unpacked
    assert not site.app.parent.exists()


def test_a_deploy_that_arrives_while_another_is_unpacked_changes_nothing(
    site: Site, kits: Kits, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLARE by itself takes the good job and lets the other one put its code beside it."""
    good, bad, unpack = packed(job), evil(kits, job, tmp_path), app_deployer.unzip_all_from_bytes
    begun, second = threading.Event(), threading.Event()
    answers: dict[str, str] = {}

    def slowly(data: bytes, folder: str) -> None:
        begun.set()
        second.wait(0.5)
        unpack(data, folder)

    def other() -> None:
        begun.wait(10)
        answers["same"] = site.deploy(good)
        answers["evil"] = site.deploy(bad)
        second.set()

    monkeypatch.setattr(app_deployer, "unzip_all_from_bytes", slowly)
    thread = threading.Thread(target=other)
    thread.start()
    answers["first"] = site.deploy(good)
    thread.join()
    assert answers == dict.fromkeys(("same", "evil"), "this job is here already") | {
        "first": f"deployed app to {SITE}"
    }
    assert not (site.app / "custom").exists()


def test_a_job_that_no_operator_signed_is_refused(site: Site, kits: Kits, job: Path, tmp_path: Path) -> None:
    """To FLARE any certificate of the project is an operator's, a site's too."""
    startup = kits.sites["hosp-b"] / "startup"
    forged = shutil.copytree(job, tmp_path / "forged")
    for path in [*forged.rglob(".__nvfl*")]:
        path.unlink()
    sign_folders(str(forged), load_private_key_file(str(startup / "client.key")), str(startup / "client.crt"))
    assert "a job is signed by an operator" in site.deploy(packed(forged))
    assert not site.app.parent.exists()
    assert site.deploy(packed(job)) == f"deployed app to {SITE}"


def test_a_job_does_not_begin_with_anything_but_what_was_checked(site: Site, job: Path) -> None:
    assert "two files of configuration" in site.start(), "nothing was deployed yet"
    site.deploy(packed(job))
    with pytest.raises(
        ValueError, match="resource_manager"
    ):  # past the check, FLARE wants more of its engine
        site.start()
    (site.app / "custom").mkdir()
    assert "two files of configuration" in site.start()


def test_no_folder_of_a_job_is_where_python_looks_for_modules(site: Site, kit: Path) -> None:
    (site.app / "custom").mkdir(parents=True)
    before = list(sys.path)
    refresh_custom_dir_import_path(Workspace(str(kit), SITE).get_app_custom_dir(JOB))
    assert sys.path == before


def archive(entries: dict[str, bytes], change: Callable[[ZipInfo], None] = lambda entry: None) -> bytes:
    out = io.BytesIO()
    with ZipFile(out, "w") as made:
        for name, data in entries.items():
            entry = ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            change(entry)
            made.writestr(entry, data)
    return out.getvalue()


def _link(entry: ZipInfo) -> None:
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16


def _twice() -> bytes:
    out = io.BytesIO()
    with ZipFile(out, "w") as made:
        for name, data in PLAIN.items():
            made.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("config/config_fed_client.json", b"[]")
    return out.getvalue()


BAD: dict[str, Callable[[], Any]] = {
    "a whole number": lambda: 1 << 30,
    "no archive": lambda: b"PK\3\4 and no more",
    "nothing": lambda: archive({}),
    "a file less": lambda: archive({"config/config_fed_client.json": b"{}"}),
    "a file more": lambda: archive({**PLAIN, "config/more.json": b"{}"}),
    "a folder more": lambda: archive({**PLAIN, "custom/": b""}),
    "a way out": lambda: archive({**PLAIN, "../meta.json": b"{}"}),
    "an absolute path": lambda: archive({**PLAIN, "/config/config_fed_client.json": b"{}"}),
    "another way to write a name": lambda: archive({**PLAIN, "config/./config_fed_client.json": b"[]"}),
    "a file twice": _twice,
    "a link": lambda: archive(PLAIN, _link),
    "a large archive": lambda: archive({**PLAIN, ".__nvfl_sig.json": b"x" * (1 << 16)}),
    "large when unpacked": lambda: archive(
        {**PLAIN, ".__nvfl_sig.json": bytes(1 << 24)},
        lambda entry: setattr(entry, "compress_type", ZIP_DEFLATED),
    ),
    "another way to pack": lambda: archive(PLAIN, lambda entry: setattr(entry, "compress_type", ZIP_BZIP2)),
}


def test_an_archive_as_flare_writes_it_is_let_through(job: Path) -> None:
    assert packed_fault(packed(job)) == ""
    assert packed_fault(archive(PLAIN)) == ""


@pytest.mark.parametrize("what", BAD)
def test_other_archives_are_refused_by_their_list(what: str) -> None:
    assert packed_fault(BAD[what]())


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        *((value, "refused: wrong-type") for value in (10**7, "text", None)),
        *((value, "refused: too-large") for value in (b"12345", bytearray(5))),
    ],
)
def test_an_executor_hands_on_bytes_of_a_bounded_length(
    question: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: Any) -> bytes:
        raise AssertionError("it was handed on")

    monkeypatch.setattr(executor, "LARGEST_QUESTION", 4)
    monkeypatch.setattr(executor.PrivetExecutor, "_of", lambda self, fl_ctx: SimpleNamespace(ask=ask))
    asked = Shareable()
    asked[RAW] = question
    answer = executor.PrivetExecutor("run").execute("round", asked, FLContext(), SimpleNamespace())
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert answer[WHY] == reason
