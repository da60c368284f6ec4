"""What the server's main process lets through: of a site the messages of a run, of an operator the commands.

FLARE 2.9 checks that the token of a message is one that the server signed, but not that the message comes from whom the
token is for, and it passes any site's message on to any process. Nor does it look at messages that lie inside another.
So a site had the others' tokens from the server, fetched their questions, had them answered at their sites and read the
answers; it logged others out, and logged itself in as an operator. What cannot be made up is the name of a connection:
FLARE holds it to the certificate that the other side showed. So each message is held to the connection that it came by,
and to a list of what a run sends. Sites have no messages for each other, and operators have a port of their own, which
listens on the loopback.

The server's other processes listen nowhere: whatever reaches them passed here.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_constant import ReservedTopic, ServerCommandNames
from nvflare.fuel.f3.cellnet.defs import (
    CellChannel,
    CellChannelTopic,
    MessageHeaderKey,
    MessagePropKey,
    MessageType,
)
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.streaming.stream_const import (
    STREAM_ACK_TOPIC,
    STREAM_CHANNEL,
    STREAM_DATA_TOPIC,
    STREAM_ERROR_TOPIC,
    StreamHeaderKey,
)
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.private.defs import CellMessageHeaderKeys
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST

_LOGIN = frozenset(
    {
        (CellChannel.SERVER_MAIN, CellChannelTopic.Challenge),
        (CellChannel.SERVER_MAIN, CellChannelTopic.Register),
        (CellChannel.CELLNET, CellChannelTopic.Bye),
    }
)
_OF_A_SITE = _LOGIN | {
    (CellChannel.SERVER_MAIN, CellChannelTopic.HEART_BEAT),
    (CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE),
    (CellChannel.SERVER_MAIN, CellChannelTopic.Quit),
}
"""To the main process itself: that it is there, how its part of a job ended, and that it goes."""

_OF_A_JOB = frozenset(
    {
        (CellChannel.SERVER_COMMAND, ServerCommandNames.GET_TASK),
        (CellChannel.SERVER_COMMAND, ServerCommandNames.SUBMIT_UPDATE),
        (CellChannel.AUX_COMMUNICATION, ReservedTopic.SYNC_RUNNER),
        (CellChannel.AUX_COMMUNICATION, ReservedTopic.JOB_HEART_BEAT),
        (CellChannel.AUX_COMMUNICATION, ReservedTopic.TASK_CHECK),
    }
)
"""To a job's process: questions fetched, answers brought, and that the job's other end is still there."""

_OF_AN_OPERATOR = frozenset(
    {
        (CellChannel.HCI, "command"),
        (CellChannel.AUX_COMMUNICATION, TOPIC_STREAM_REQUEST),
        (CellChannel.AUX_COMMUNICATION, TOPIC_STREAM_ABORT),
    }
)
"""To the main process: commands, and the files of a job."""


def fault(message: Any) -> str:
    """Why the server must not take in or pass on a message; empty if it may.

    Args:
        message: As FLARE's cell hands it to its filters, with the connection's other end among its properties.
    """
    sender = getattr(message.get_prop(MessagePropKey.ENDPOINT), "name", None)
    if not isinstance(sender, str) or not sender:
        return "it came by no connection"
    if _within(sender, FQCN.ROOT_SERVER):
        return ""
    facts = message.headers or {}
    if not _within(facts.get(MessageHeaderKey.ORIGIN), sender):
        return "it is in another's name"
    if not _within(facts.get(MessageHeaderKey.DESTINATION), FQCN.ROOT_SERVER):
        return "it is for another site"
    if facts.get(MessageHeaderKey.SERVER_TRANSIT_REQUIRED):
        return "it is to be passed on as the server's"
    operator, name = is_valid_admin_client_name(sender), facts.get(CellMessageHeaderKeys.CLIENT_NAME)
    if not operator and name is not None and name != FQCN.get_root(sender):
        return "it has another's token"
    return _kind_fault(facts, operator)


def _kind_fault(facts: Any, operator: bool) -> str:
    """Why no site, or no operator, has a message of this kind for whom it is addressed to."""
    kind = facts.get(MessageHeaderKey.MSG_TYPE)
    if kind == MessageType.REPLY:
        return ""  # it is compared with what was asked, and of whom
    if kind == MessageType.RETURN:
        asked = facts.get(MessageHeaderKey.ORIGINAL_HEADERS)
        of = asked.get(MessageHeaderKey.DESTINATION) if isinstance(asked, dict) else None
        return "" if _within(of, FQCN.get_root(facts[MessageHeaderKey.ORIGIN])) else "it is another's reply"
    if kind != MessageType.REQ:
        return "it is no kind of message"
    to_main = facts[MessageHeaderKey.DESTINATION] == FQCN.ROOT_SERVER
    channel, topic = facts.get(MessageHeaderKey.CHANNEL), facts.get(MessageHeaderKey.TOPIC)
    if channel == STREAM_CHANNEL:
        return _stream_fault(topic, facts, to_main, operator)
    known = _LOGIN if operator else _OF_A_SITE
    return _unknown(channel, topic, known if to_main else frozenset())


def _stream_fault(topic: Any, facts: Any, to_main: bool, operator: bool) -> str:
    """The same for a piece of a message that comes in pieces; every piece says what it is a piece of."""
    if topic in (STREAM_ACK_TOPIC, STREAM_ERROR_TOPIC):
        return ""
    if topic != STREAM_DATA_TOPIC:
        return "it is no piece of a message"
    channel, about = facts.get(StreamHeaderKey.CHANNEL), facts.get(StreamHeaderKey.TOPIC)
    # A piece that tells an error begins nothing; a reply is compared with what was asked.
    if facts.get(StreamHeaderKey.ERROR_MSG) or channel == CellChannel.RETURN_ONLY:
        return ""
    if operator != to_main:
        return _unknown(channel, about, frozenset())
    return _unknown(channel, about, _OF_AN_OPERATOR if operator else _OF_A_JOB)


def _unknown(channel: Any, topic: Any, known: frozenset[tuple[str, str]]) -> str:
    if isinstance(channel, str) and isinstance(topic, str) and (channel, topic) in known:
        return ""
    return f"no such request here: {str((channel, topic))[:80]}"


def _within(name: Any, family: str) -> bool:
    """Whether it names a process, or one below it."""
    return isinstance(name, str) and (name == family or FQCN.is_ancestor(family, name))
