"""A site's FLARE, narrowed, against deploys of a server that turned: FLARE's own processors, no other process."""

from __future__ import annotations

import io
import json
import logging
import shlex
import shutil
import stat
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile, ZipInfo

import msgpack
import pytest
from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FedEventHeader, FLContextKey, ReservedKey, ReservedTopic, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers.flare_decomposers import register as register_decomposers
from nvflare.apis.workspace import Workspace
from nvflare.fuel.f3.cellnet import cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey
from nvflare.fuel.f3.cellnet.fqcn import FqcnInfo
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.sec.authz import Authorizer
from nvflare.fuel.utils.admin_name_utils import new_admin_client_name
from nvflare.fuel.utils.fobs import fobs, lobs
from nvflare.fuel.utils.fobs.datum import Datum, DatumManager, DatumType
from nvflare.fuel.utils.fobs.decomposer import DictDecomposer
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import load_private_key_file, sign_folders
from nvflare.private.admin_defs import Message
from nvflare.private.aux_runner import AuxRunner
from nvflare.private.fed.client.client_engine import ClientEngine
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.client_runner import ClientRunner
from nvflare.private.fed.client.scheduler_cmds import StartJobProcessor
from nvflare.private.fed.client.training_cmds import DeployProcessor
from nvflare.private.fed.server.fed_server import FederatedServer
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.private.fed.utils import app_deployer
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST
from nvflare.utils.job_launcher_utils import get_server_job_args, refresh_custom_dir_import_path
from nvflare.widgets.fed_event import (
    FED_EVENT_TOPIC,
    ClientFedEventRunner,
    FedEventRunner,
    ServerFedEventRunner,
)

from privet.deploy.hardening import CONTROLLER, EXECUTOR
from privet.deploy.project import Kits, Project, make_project
from privet.deploy.starting import command
from privet.engines.flare import executor
from privet.engines.flare.fields import RAW, WHY
from privet.engines.flare.guarded import guard_server
from privet.engines.flare.job import packed_fault, write_job
from privet.engines.flare.launcher import GuardedLauncher
from privet.engines.flare.site import narrow

SITE, JOB = "hosp-a", "11111111-1111-1111-1111-111111111111"
PLAIN = {"config/config_fed_server.json": b"{}", "config/config_fed_client.json": b"{}"}


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    project = Project(name="trial", server="localhost", sites=(SITE, "hosp-b", "hosp-c"))
    return make_project(project, tmp_path_factory.mktemp("project"))


@pytest.fixture
def kit(kits: Kits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's kit, with FLARE narrowed to it in this process until the test is over."""
    for owner, name in (
        *((Workspace, "_check_job_id"), (Workspace, "get_app_custom_dir"), (Authorizer, "authorize")),
        *((AppAuthzService, "validate_app"), (AppAuthzService, "authorize_app_info")),
        *((DeployProcessor, "process"), (StartJobProcessor, "process"), (NetAgent, "__init__")),
        *((DatumManager, "add_datum"), (lobs, "get_datum_dir"), (CoreCell, "_add_adhoc_connector")),
        *((cell, "_is_server_job_cell"), (ServerEngine, "_handle_aux_message"), (fobs.Packer, "unpack")),
        *((FedEventRunner, "_receive"), (ClientRunner, "_handle_do_task")),
        (FederatedServer, "_validate_auth_headers"),
    ):
        monkeypatch.setattr(owner, name, vars(owner)[name])
    fobs._register_decomposers()
    monkeypatch.setattr(fobs, "_type_name_whitelist", set(fobs._type_name_whitelist))
    monkeypatch.setattr(fobs, "_decomposers", dict(fobs._decomposers))
    all_ = ClientRequestProcessors.request_processors
    monkeypatch.setattr(ClientRequestProcessors, "request_processors", list(all_))
    kit = tmp_path / "kit"
    shutil.copytree(kits.sites[SITE], kit)
    narrow(kit)
    return kit


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


def test_the_network_agent_of_a_site_takes_no_requests(kit: Path) -> None:
    """Of a process it would tell configuration and state, end it, or have it connect to another server."""

    class Cell:
        registered: list[str]

        def register_request_cb(self, channel: str, topic: str, cb: Any) -> None:
            self.registered.append(topic)

    cell = Cell()
    cell.registered = []
    agent = NetAgent(cell)
    assert cell.registered == []
    agent.close()


def in_message(body: Any, *files: tuple[uuid.UUID, bytes]) -> bytes:
    """A message of FLARE's as anybody may put it together."""
    main = msgpack.packb(body)
    parts = [lobs._Header(lobs.MARKER_MAIN, 0, len(main)).to_bytes() + main]
    for name, data in files:
        parts.append(lobs._Header(lobs.MARKER_DATUM_FILE, 0, 16 + len(data)).to_bytes() + name.bytes + data)
    return b"".join(parts)


def a_file(path: Path) -> dict[str, Any]:
    """A value of a message that says that it is a file of the receiver's."""
    facts = {"datum_id": str(uuid.uuid4()), "datum_type": DatumType.FILE.value, "dot": 0, "value": str(path)}
    return {
        "__fobs_type__": "nvflare.fuel.utils.fobs.datum.Datum",
        "__fobs_dc__": "nvflare.fuel.utils.fobs.decomposer.DataClassDecomposer",
        "__fobs_data__": {"data": facts},
    }


def shareable(cookies: dict[str, Any]) -> dict[str, Any]:
    return {
        "__fobs_type__": "nvflare.apis.shareable.Shareable",
        "__fobs_dc__": "nvflare.fuel.utils.fobs.decomposer.DictDecomposer",
        "__fobs_data__": {"__headers__": {"__cookie_jar__": cookies}},
    }


def test_a_message_reads_no_file(kit: Path) -> None:
    """FLARE answers any message with its cookies, and would open what they say is a file: a row, a key."""
    secret = kit / "privet" / "records.jsonl"
    secret.write_text("a patient's record", encoding="utf-8")
    fobs.register(DictDecomposer(Shareable))

    def answered() -> bytes:
        request = lobs.load_from_bytes(in_message(shareable({"x": a_file(secret)})))
        reply = AuxRunner(SimpleNamespace()).dispatch("no.such.topic", request, FLContext())
        return bytes(lobs.dump_to_bytes(reply))

    with pytest.raises((RuntimeError, ValueError), match=r"text and bytes only|no message holds"):
        answered()
    # Nor where the value itself would be let in.
    with pytest.raises(RuntimeError, match="text and bytes only"):
        DatumManager().add_datum(Datum(DatumType.FILE, str(secret)))
    honest = lobs.load_from_bytes(in_message(shareable({"x": "a cookie"})))
    assert b"a cookie" in lobs.dump_to_bytes(AuxRunner(SimpleNamespace()).dispatch("no", honest, FLContext()))


def test_a_message_writes_no_file(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor over a file of the site's that somebody on its machine has put a link to where FLARE would write."""
    monkeypatch.setenv("NVFLARE_DATUM_DIR", str(tmp_path / "datums"))
    name, ledger = uuid.UUID(int=7), kit / "ledger.json"
    ledger.write_text("what was spent", encoding="utf-8")
    (tmp_path / "datums").mkdir()
    (tmp_path / "datums" / f"{name}.dat").symlink_to(ledger)
    with pytest.raises(RuntimeError, match="no files"):
        lobs.load_from_bytes(in_message({"a": 1}, (name, b"nothing was spent")))
    assert ledger.read_text(encoding="utf-8") == "what was spent"


def test_messages_of_bytes_of_any_length_still_pass(kit: Path) -> None:
    sent = {"payload": b"7" * (11 << 20), "text": "8" * (11 << 20), "small": 9}
    assert lobs.load_from_bytes(lobs.dump_to_bytes(sent)) == sent


def an_object(kind: str, decomposer: str, data: Any) -> dict[str, Any]:
    """A value of a message that says what is to be made of it."""
    return {"__fobs_type__": kind, "__fobs_dc__": decomposer, "__fobs_data__": data}


NUMPY, HE = "nvflare.app_common.decomposers.numpy_decomposers", "nvflare.app_opt.he.decomposers"
ENUMS = "nvflare.fuel.utils.fobs.decomposer.EnumTypeDecomposer"


@pytest.mark.parametrize(
    "value",
    [
        an_object("numpy.ndarray", f"{NUMPY}.NumpyArrayDecomposer", b"\x93NUMPY"),
        an_object("numpy.float64", f"{NUMPY}.Float64ScalarDecomposer", b"\0" * 8),
        an_object("tenseal.CKKSVector", f"{HE}.CKKSVectorDecomposer", b"a ciphertext"),
        an_object("nvflare.apis.shareable.Shareable", f"{HE}.CKKSVectorDecomposer", b"a ciphertext"),
        an_object("nvflare.apis.dxo.DataKind", ENUMS, "WEIGHTS"),
        an_object("argparse.Namespace", "nvflare.fuel.utils.fobs.decomposer.DataClassDecomposer", {}),
        {"__fobs_type__": "nvflare.apis.dxo.DataKind", "__fobs_data__": "WEIGHTS"},
    ],
)
def test_a_message_holds_nothing_that_ours_do_not(kit: Path, value: dict[str, Any]) -> None:
    """FLARE makes it in any process that gets it, before a login, by whatever reads that kind of bytes."""
    fobs.register(DictDecomposer(Shareable))
    for body in (value, shareable({"x": value})):
        with pytest.raises(ValueError, match="no message holds such an object"):
            lobs.load_from_bytes(in_message(body))


def test_what_ours_hold_is_made(kit: Path) -> None:
    """The kinds that messages of whole runs held, at sites, at the server, and at the operator's."""
    fobs.register(DictDecomposer(Shareable))
    register_decomposers()
    context = FLContext()
    context.set_prop("name", SITE, private=False, sticky=False)
    request = Message("train.deploy", b"job")
    request.set_header(JobMetaKey.JOB_ID, JOB)
    large = Shareable()
    large[RAW] = b"7" * (11 << 20)
    for sent in (context, request, Client(SITE, "token"), large, {"a": (1, {2})}):
        made = lobs.load_from_bytes(lobs.dump_to_bytes(sent))
        assert type(made) is type(sent)
    assert made == {"a": (1, {2})}


@pytest.mark.parametrize("runner", [ServerFedEventRunner, ClientFedEventRunner])
def test_a_message_fires_no_event(kit: Path, runner: type[Any]) -> None:
    """FLARE fires whatever event it names, in the server's main process too; some end a component for good."""
    event = Shareable()
    event.set_peer_props({ReservedKey.IDENTITY_NAME: "hosp-b"})
    event.set_header(FedEventHeader.TIMESTAMP, 1.0)
    event.set_header(FedEventHeader.EVENT_TYPE, EventType.SYSTEM_END)
    handlers = AuxRunner(SimpleNamespace())
    receiver = runner()
    engine = SimpleNamespace(register_aux_message_handler=handlers.register_aux_message_handler)
    context = FLContext()
    context.get_engine = lambda: engine
    context.get_run_abort_signal = Signal
    receiver.handle_event(EventType.SYSTEM_BOOTSTRAP, context)
    reply = handlers.dispatch(FED_EVENT_TOPIC, event, FLContext())
    receiver.asked_to_stop = True
    assert reply.get_return_code() == ReturnCode.TOPIC_UNKNOWN
    assert receiver.in_events == []


def test_a_job_at_a_site_answers_no_question_that_it_did_not_fetch(kit: Path) -> None:
    """FLARE has it answered for whoever sends one and replies to him: another site, with the question of this one."""
    asked: list[Any] = []
    handlers = AuxRunner(SimpleNamespace())
    job = object.__new__(ClientRunner)
    job._process_task = lambda task, fl_ctx: asked.append(task)
    job.log_info = lambda *said: None
    job._register_aux_message_handlers(
        SimpleNamespace(register_aux_message_handler=handlers.register_aux_message_handler)
    )
    question = Shareable()
    question.set_peer_props({ReservedKey.IDENTITY_NAME: "hosp-b"})
    reply = handlers.dispatch(ReservedTopic.DO_TASK, question, FLContext())
    assert asked == []
    assert reply.get_return_code() == ReturnCode.TOPIC_UNKNOWN


def test_a_message_has_a_process_connect_nowhere(kit: Path) -> None:
    cell = object.__new__(CoreCell)  # whatever it did would need a connector manager, which this one lacks
    assert cell._add_adhoc_connector("hosp-b", "tcp://10.0.0.5:22") is None


def test_files_are_uploaded_to_the_server_by_operators_alone(kit: Path) -> None:
    """FLARE takes them from anybody, before a login, and keeps them for good."""
    taken: list[str] = []

    class Engine(ServerEngine):  # type: ignore[misc]  # nvflare is untyped
        def __init__(self) -> None:
            self.run_manager = SimpleNamespace(aux_runner=SimpleNamespace(dispatch=self.dispatch))
            self.new_context = FLContext

        def dispatch(self, topic: str, **what: Any) -> Shareable:
            taken.append(topic)
            return Shareable()

    def ask(topic: str, origin: str) -> Any:
        headers = {MessageHeaderKey.TOPIC: topic, MessageHeaderKey.ORIGIN: origin}
        return Engine()._handle_aux_message(new_cell_message(headers, Shareable()))

    guard_server()
    for topic in (TOPIC_STREAM_REQUEST, TOPIC_STREAM_ABORT):
        assert ask(topic, "hosp-b").payload.get_return_code() == ReturnCode.TOPIC_UNKNOWN
    assert taken == []
    ask("another topic", "hosp-b")
    ask(TOPIC_STREAM_REQUEST, new_admin_client_name())
    assert taken == ["another topic", TOPIC_STREAM_REQUEST]


def test_the_server_asks_whose_message_it_is_and_who_signed_a_job(
    kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it then lets through: `unit/test_flare_admitted.py`."""
    monkeypatch.setattr(FederatedServer, "_validate_auth_headers", lambda self, message: None)
    monkeypatch.setattr(
        AppAuthzService, "authorize_app_info", staticmethod(lambda **asked: (True, "FLARE's own"))
    )
    guard_server()
    server = object.__new__(FederatedServer)
    server.logger = logging.getLogger("test")
    headers = {MessageHeaderKey.ORIGIN: SITE, MessageHeaderKey.DESTINATION: "server"}
    message = new_cell_message({**headers, MessageHeaderKey.MSG_TYPE: "reply"})
    message.set_prop(MessagePropKey.ENDPOINT, Endpoint(SITE))
    assert server._validate_auth_headers(message) is None
    message.set_prop(MessagePropKey.ENDPOINT, Endpoint("hosp-b"))
    assert server._validate_auth_headers(message) is not None
    assert not AppAuthzService.authorize_app_info(app_info={}, submitter_role="")[0]
    assert AppAuthzService.authorize_app_info(app_info={}, submitter_role="lead") == (True, "FLARE's own")


def test_a_message_that_cannot_be_read_ends_no_job(kit: Path) -> None:
    server_job = FqcnInfo(f"server.{JOB}")
    assert not cell._is_server_job_cell(server_job)


def test_the_server_s_processes_are_guarded_too(kits: Kits) -> None:
    at = command(kits.server).index("-m")
    assert command(kits.server)[at + 1] == "privet.engines.flare.guarded"
    resources = json.loads((kits.server / "local" / "resources.json").read_text(encoding="utf-8"))
    paths = {each["id"]: each["path"] for each in resources["components"]}
    assert paths["process_launcher"] == f"{GuardedLauncher.__module__}.{GuardedLauncher.__name__}"
    context = FLContext()
    named = dict.fromkeys(get_server_job_args(), ("-x", "y")) | {
        JobProcessArgs.EXE_MODULE: ("-m", "flare.job")
    }
    context.set_prop(FLContextKey.JOB_PROCESS_ARGS, named, private=True, sticky=False)
    words = shlex.split(GuardedLauncher().get_command({}, context))
    at = words.index("-m")
    assert words[at + 1 : at + 3] == ["privet.engines.flare.guarded", "flare.job"]


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
