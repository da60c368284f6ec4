"""What the server's main process lets through: what a run sends, under the name of the connection that it came by."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")

from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey
from nvflare.fuel.f3.cellnet.identity import CellIdentityResolver
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.endpoint import Endpoint
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.sfm.conn_manager import ConnManager, Mode
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.private.fed.server.fed_server import FederatedServer

from privet.engines.flare.admitted import fault
from privet.engines.flare.guarded import only_admitted

MINE, THEIRS, SERVER = "hosp-a", "hosp-b", "server"
JOB = "11111111-1111-4111-8111-111111111111"
OPERATOR = "_admin_7414cd56-8194-4ea0-89b8-fdbc6f622968"
"""As FLARE makes them; the same in all processes that collect these tests."""


def message(sender: str | None, **facts: Any) -> Message:
    """As FLARE's cell has it when it asks its filters."""
    names = {"name": "client_name", "about": "sm__ch", "about_topic": "sm__tp", "error": "sm__em"}
    headers = {names.get(key, f"cn__{key}"): value for key, value in facts.items()}
    made = Message({"cn__msg_type": "req", "cn__origin": sender, **headers})
    if sender is not None:
        made.set_prop(MessagePropKey.ENDPOINT, Endpoint(sender))
    return made


def piece(channel: Any, topic: Any, **facts: Any) -> dict[str, Any]:
    """Of a message that FLARE cuts into pieces."""
    return {"channel": "sm__STREAM", "topic": "sm__DATA", "about": channel, "about_topic": topic, **facts}


MAIN, OF_JOB = {"destination": SERVER}, {"destination": f"{SERVER}.{JOB}"}
SITE_SENDS = [
    *({**MAIN, "channel": "task", "topic": topic} for topic in ("challenge", "register")),
    *({**MAIN, "channel": "task", "topic": topic} for topic in ("heart_beat", "quit", "report_job_failure")),
    {**MAIN, "channel": "cellnet.channel", "topic": "bye"},
    {**MAIN, "channel": "admin", "topic": "train.deploy", "msg_type": "reply"},
]
JOB_SENDS = [
    {**OF_JOB, **piece("server_command", "get_task")},
    {**OF_JOB, **piece("server_command", "submit_update")},
    *(
        {**OF_JOB, **piece("aux_communication", topic)}
        for topic in ("__sync_runner__", "__job_heartbeat__", "__task_check__")
    ),
    {**OF_JOB, **piece("return_only", "aux_communication:__end_run__")},
    *({**OF_JOB, "channel": "sm__STREAM", "topic": topic} for topic in ("sm__ACK", "sm__ERROR")),
    {**OF_JOB, "channel": "sm__STREAM", "topic": "sm__DATA", "error": "stopped"},
    {**OF_JOB, "msg_type": "return", "original_headers": {"cn__destination": f"{MINE}.{JOB}"}},
]
OPERATOR_SENDS = [
    *({**MAIN, "channel": "task", "topic": topic} for topic in ("challenge", "register")),
    {**MAIN, "channel": "cellnet.channel", "topic": "bye"},
    {**MAIN, **piece("hci_channel", "command")},
    *(
        {**MAIN, **piece("aux_communication", topic)}
        for topic in ("ObjectStreamer.Request", "ObjectStreamer.Abort")
    ),
]


@pytest.mark.parametrize("facts", SITE_SENDS)
def test_what_a_site_sends_is_let_through(facts: dict[str, Any]) -> None:
    assert fault(message(MINE, name=MINE, **facts)) == ""


@pytest.mark.parametrize("facts", JOB_SENDS)
def test_what_a_job_at_a_site_sends_is_let_through_also_by_way_of_its_site(facts: dict[str, Any]) -> None:
    assert fault(message(f"{MINE}.{JOB}", name=MINE, **facts)) == ""
    assert fault(message(MINE, **{"origin": f"{MINE}.{JOB}", "name": MINE, **facts})) == ""


@pytest.mark.parametrize("facts", OPERATOR_SENDS)
def test_what_an_operator_sends_is_let_through(facts: dict[str, Any]) -> None:
    assert fault(message(OPERATOR, name="operator@privet.local", **facts)) == ""


def test_the_operators_name_is_one_as_flare_makes_them() -> None:
    assert is_valid_admin_client_name(OPERATOR)


def test_whatever_the_server_s_own_processes_send_is_let_through() -> None:
    for own in (SERVER, f"{SERVER}.{JOB}"):
        facts = {"channel": "server_parent_listener", "topic": "get_clients", "name": "server_job"}
        assert fault(message(own, destination=SERVER, **facts)) == ""
        assert fault(message(own, destination=THEIRS, channel="admin", topic="admin")) == ""


TASK = {**OF_JOB, **piece("server_command", "get_task")}
BEAT = {**MAIN, "channel": "task", "topic": "heart_beat"}
REFUSED = {
    "another's name": ({**TASK, "origin": f"{THEIRS}.{JOB}"}, "another's name"),
    "a name that begins like mine": ({**TASK, "origin": f"{MINE}b.{JOB}"}, "another's name"),
    "an operator's name": ({**BEAT, "origin": OPERATOR}, "another's name"),
    "the server's name": ({**BEAT, "origin": SERVER}, "another's name"),
    "no name": ({**BEAT, "origin": None}, "another's name"),
    "another's token": ({**TASK, "name": THEIRS}, "another's token"),
    "a token of the server's job": ({**BEAT, "name": "server_job"}, "another's token"),
    "another site": ({**TASK, "destination": f"{THEIRS}.{JOB}"}, "another site"),
    "a task for another site": (
        {"destination": f"{THEIRS}.{JOB}", **piece("aux_communication", "__do_task__")},
        "another site",
    ),
    "a name like the server's": ({**BEAT, "destination": "servers"}, "another site"),
    "nobody": ({**BEAT, "destination": None}, "another site"),
    "messages in a message": ({**OF_JOB, "channel": "cellnet.channel", "topic": "bulk"}, "no such request"),
    "messages in a message, to be passed on": (
        {**OF_JOB, "channel": "cellnet.channel", "topic": "bulk", "server_transit_required": True},
        "passed on",
    ),
    "a reply to be passed on": ({**BEAT, "msg_type": "reply", "server_transit_required": 1}, "passed on"),
    "messages in a message to the main process": (
        {**MAIN, "channel": "cellnet.channel", "topic": "bulk"},
        "no such request",
    ),
    "another's farewell": ({**OF_JOB, "channel": "cellnet.channel", "topic": "bye"}, "no such request"),
    "all tokens": ({**MAIN, "channel": "server_parent_listener", "topic": "get_clients"}, "no such request"),
    "all tokens, in pieces": ({**MAIN, **piece("server_parent_listener", "get_clients")}, "no such request"),
    "an operator's command": ({**MAIN, **piece("hci_channel", "command")}, "no such request"),
    "a whole command": ({**MAIN, "channel": "hci_channel", "topic": "command"}, "no such request"),
    "an upload": ({**MAIN, **piece("aux_communication", "ObjectStreamer.Request")}, "no such request"),
    "an event": ({**MAIN, **piece("aux_communication", "fed.event")}, "no such request"),
    "a whole event": ({**MAIN, "channel": "aux_communication", "topic": "fed.event"}, "no such request"),
    "an event for a job": ({**OF_JOB, **piece("aux_communication", "fed.event")}, "no such request"),
    "another command to a job": ({**OF_JOB, **piece("server_command", "app_command")}, "no such request"),
    "the same in one piece": (
        {**OF_JOB, "channel": "server_command", "topic": "app_command"},
        "no such request",
    ),
    "an exchange of certificates": (
        {**MAIN, "channel": "credential_manager", "topic": "key_exchange"},
        "no such request",
    ),
    "a piece of nothing": ({**OF_JOB, "channel": "sm__STREAM", "topic": "sm__DATA"}, "no such request"),
    "another piece": ({**OF_JOB, "channel": "sm__STREAM", "topic": "sm__CERT"}, "no piece"),
    "a list for a topic": ({**MAIN, "channel": "task", "topic": ["quit"]}, "no such request"),
    "no kind of message": ({**BEAT, "msg_type": "other"}, "no kind"),
    "what another did not get": (
        {**OF_JOB, "msg_type": "return", "original_headers": {"cn__destination": f"{THEIRS}.{JOB}"}},
        "another's reply",
    ),
    "what nobody got": ({**OF_JOB, "msg_type": "return"}, "another's reply"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_whatever_else_a_site_sends_is_refused(what: str) -> None:
    facts, why = REFUSED[what]
    assert why in fault(message(MINE, **{"name": MINE, **facts}))
    if facts.get("origin") is None and "origin" not in facts:
        assert why in fault(message(f"{MINE}.{JOB}", **{"name": MINE, **facts}))


def test_an_operator_has_no_messages_for_jobs_and_sites() -> None:
    for facts in (TASK, {**TASK, "destination": THEIRS}, {**BEAT, "origin": MINE}, BEAT):
        assert fault(message(OPERATOR, **facts))


def test_what_came_by_no_connection_is_refused() -> None:
    assert fault(message(None, **BEAT))
    nameless = message(None, **BEAT)
    nameless.set_prop(MessagePropKey.ENDPOINT, Endpoint(""))
    assert fault(nameless)


def test_the_server_asks_before_it_looks_at_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Message] = []

    class Server(FederatedServer):  # type: ignore[misc]  # nvflare is untyped
        def __init__(self) -> None:
            self.logger = logging.getLogger("test")

        _validate_auth_headers = only_admitted(lambda self, asked: looked.append(asked))

    good, bad = message(MINE, name=MINE, **BEAT), message(MINE, name=THEIRS, **BEAT)
    assert Server()._validate_auth_headers(good) is None
    refused = Server()._validate_auth_headers(bad)
    assert refused is not None
    assert refused.get_header(MessageHeaderKey.RETURN_CODE) == "unauthenticated"
    assert looked == [good]


@pytest.mark.parametrize(
    ("claimed", "port", "taken"),
    [
        *((name, "sites", True) for name in (MINE, f"{MINE}.{JOB}")),
        *((name, "sites", False) for name in (THEIRS, f"{THEIRS}.{MINE}", SERVER + "." + JOB, OPERATOR)),
        (OPERATOR, "operators", True),
    ],
)
def test_flare_holds_the_name_of_a_connection_to_the_certificate(
    claimed: str, port: str, taken: bool
) -> None:
    """On this all of the above rests: the other side showed the certificate of one site."""

    class Connection:
        name, closed = "connection", False

        def __init__(self) -> None:
            secure = {DriverParams.SCHEME.value: "grpc", DriverParams.SECURE.value: True}
            self.connector = SimpleNamespace(
                params={**secure, "admin_listener": port == "operators"}, mode=Mode.PASSIVE
            )

        def get_conn_properties(self) -> dict[str, Any]:
            return {DriverParams.PEER_CN.value: MINE}

        def send_frame(self, frame: Any) -> None:
            """What is said to who is known."""

        def close(self) -> None:
            self.closed = True

    server = CellIdentityResolver(SERVER, {SERVER: "localhost"}, {SERVER: "localhost"})
    manager = ConnManager(Endpoint(SERVER), server)
    connection = Connection()
    between = SfmConnection(connection, manager.local_endpoint)
    try:
        if taken:
            manager.update_endpoint(between, {"endpoint_name": claimed})
            assert between.sfm_endpoint.endpoint.name == claimed
        else:
            with pytest.raises(Exception, match=r"authenticated as|admin listener"):
                manager.update_endpoint(between, {"endpoint_name": claimed})
            assert connection.closed
            assert between.sfm_endpoint is None
    finally:
        manager.stop()
