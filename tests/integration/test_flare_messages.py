"""What FLARE does at a message's word, undone in all of its processes: files, objects, events, connections."""

from __future__ import annotations

import json
import logging
import shlex
import uuid
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from nvflare.fuel.f3.cellnet import cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey
from nvflare.fuel.f3.cellnet.fqcn import FqcnInfo
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN, Prefix
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.utils.admin_name_utils import new_admin_client_name
from nvflare.fuel.utils.fobs import fobs, lobs
from nvflare.fuel.utils.fobs.datum import Datum, DatumManager, DatumType
from nvflare.fuel.utils.fobs.decomposer import DictDecomposer
from nvflare.private.admin_defs import Message
from nvflare.private.aux_runner import AuxRunner
from nvflare.private.fed.client.client_runner import ClientRunner
from nvflare.private.fed.server.fed_server import FederatedServer
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST
from nvflare.utils.job_launcher_utils import get_server_job_args
from nvflare.widgets.fed_event import (
    FED_EVENT_TOPIC,
    ClientFedEventRunner,
    ServerFedEventRunner,
)

from privet.deploy.project import Kits
from privet.deploy.starting import command
from privet.engines.flare.fields import RAW
from privet.engines.flare.guarded import guard_server
from privet.engines.flare.launcher import GuardedLauncher

SITE, JOB = "hosp-a", "11111111-1111-1111-1111-111111111111"


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
    engine = SimpleNamespace(
        register_aux_message_handler=handlers.register_aux_message_handler,
        # For a thread of FLARE's, which would have nothing to fire here but that it runs into an error.
        new_context=lambda: nullcontext(FLContext()),
        fire_event=lambda **what: None,
    )
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


@pytest.mark.parametrize(("mode", "said"), [(Mode.PASSIVE, Types.HELLO), (Mode.ACTIVE, Types.READY)])
def test_nobody_is_greeted_before_it_is_known_who_he_is(kit: Path, mode: Mode, said: int) -> None:
    """FLARE said that he may go on first; a message that came before his name was known was lost."""
    greeted: list[tuple[int, str]] = []

    class Connection:
        name, connector = "CN1", SimpleNamespace(mode=mode, params={})

        def get_conn_properties(self) -> dict[str, Any]:
            return {}

        def send_frame(self, frame: Any) -> None:
            greeted.append((Prefix.from_bytes(frame).type, between.sfm_endpoint.endpoint.name))

    manager = ConnManager(Endpoint("server"))
    between = SfmConnection(Connection(), manager.local_endpoint)
    facts = msgpack.packb({"endpoint_name": SITE, "timestamp": 0.0})
    frame = bytearray(PREFIX_LEN) + facts
    Prefix(len(frame), 0, said, 0, 0, 0, 1, 0).to_buffer(frame, 0)
    manager.process_frame_task(between, bytes(frame))
    assert between.sfm_endpoint.endpoint.name == SITE
    assert greeted == ([(Types.READY, SITE)] if mode == Mode.PASSIVE else [])
    manager.stop()
