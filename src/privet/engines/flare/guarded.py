"""Every process of FLARE that takes messages in, at the server too: what FLARE 2.9 does at a message's word, undone.

A message may say that a value of it is a file: whoever passes that value on, as FLARE does with what it calls cookies,
opens the path and sends what is in it, and whoever takes in a message with a file in it writes one under a name that
the sender chose. So a server read a site's records and keys with one message, and so did any site, through the server,
those of another, and the server's. A message may also name an address, which the receiver then connects to, or ask
FLARE's network agent about the process, or to end it; a message that cannot be read ends a server's job. One fires any
event in any process, as that FLARE ends, and anything may be in one that some decomposer of FLARE's takes: arrays,
ciphertexts for SEAL. At the server anybody may upload files, before a login, and send what is another's
(`privet.engines.flare.admitted`). None of this is needed but the operator's uploads: our messages are bytes.

And one thing that FLARE does in the wrong order: it greets whoever connects before it has looked whose certificate that
is, so his first message could come before his name was known, and was lost.

Run as ``python -m privet.engines.flare.guarded MODULE ARGUMENTS``, where MODULE is FLARE's and the arguments its own.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import make_reply
from nvflare.fuel.f3.cellnet import cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, MessagePropKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.cellnet.utils import make_reply as make_cell_reply
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.f3.drivers.connector_info import Mode
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import Types
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.fuel.utils.fobs import fobs, lobs
from nvflare.fuel.utils.fobs.datum import DatumManager, DatumType
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST
from nvflare.widgets.fed_event import FedEventRunner

from privet.engines.flare.admitted import fault

_STREAMS = (TOPIC_STREAM_REQUEST, TOPIC_STREAM_ABORT)
OPERATORS_ROLE = "lead"
"""As `privet.deploy.project` has it written into the operator's certificate, and into no site's."""

_CARRIED = (DatumType.TEXT, DatumType.BLOB)
_DECOMPOSERS = "nvflare.fuel.utils.fobs.decomposer"
_CORE = "nvflare.fuel.utils.fobs.decomposers.core_decomposers"
READ = frozenset(
    {
        ("nvflare.apis.shareable.Shareable", f"{_DECOMPOSERS}.DictDecomposer"),
        (
            "nvflare.apis.fl_context.FLContext",
            "nvflare.apis.utils.decomposers.flare_decomposers.ContextDecomposer",
        ),
        ("nvflare.apis.job_def.JobMetaKey", f"{_DECOMPOSERS}.EnumTypeDecomposer"),
        ("nvflare.apis.client.Client", f"{_DECOMPOSERS}.DataClassDecomposer"),
        ("nvflare.private.admin_defs.Message", f"{_DECOMPOSERS}.DataClassDecomposer"),
        ("nvflare.fuel.utils.fobs.datum.DatumRef", f"{_DECOMPOSERS}.DataClassDecomposer"),
        ("tuple", f"{_CORE}.TupleDecomposer"),
        ("set", f"{_CORE}.SetDecomposer"),
        ("collections.OrderedDict", f"{_CORE}.OrderedDictDecomposer"),
    }
)
"""What may be in a message besides text, bytes, numbers, lists and dictionaries, and what class of FLARE's makes it."""


def guard() -> None:
    """Undo it in this process, once."""
    if DatumManager.add_datum is _add_bytes_only:
        return
    DatumManager.add_datum = _add_bytes_only
    lobs.get_datum_dir = _no_file
    CoreCell._add_adhoc_connector = _connect_nowhere
    NetAgent.__init__ = _listening_to_nobody(NetAgent.__init__)
    cell._is_server_job_cell = _goes_on
    fobs.Packer.unpack = _making_what_is_known(fobs.Packer.unpack)
    FedEventRunner._receive = no_such_topic
    ConnManager.update_endpoint = _then_greeting(ConnManager.update_endpoint, SfmConnection.send_handshake)
    SfmConnection.send_handshake = _without_greeting(SfmConnection.send_handshake)


def guard_server() -> None:
    """The same, and what only the server does."""
    from nvflare.private.fed.server.fed_server import FederatedServer
    from nvflare.private.fed.server.server_engine import ServerEngine
    from nvflare.private.fed.utils.app_authz import AppAuthzService

    guard()
    ServerEngine._handle_aux_message = _uploading_for_operators(ServerEngine._handle_aux_message)
    FederatedServer._validate_auth_headers = only_admitted(FederatedServer._validate_auth_headers)
    AppAuthzService.authorize_app_info = staticmethod(
        signed_by_an_operator(AppAuthzService.authorize_app_info)
    )


def _goes_on(info: Any) -> bool:
    """Whether a message that cannot be read is a reason to end this process."""
    return False


def no_such_topic(self: Any, topic: str, request: Any, fl_ctx: Any) -> Any:
    """FLARE's way to answer a message that nobody answers."""
    return make_reply(ReturnCode.TOPIC_UNKNOWN)


def only_admitted(validate: Callable[..., Any]) -> Callable[..., Any]:
    """FLARE's look at the token of a message that comes to the server, or through it, for those that may come.

    Args:
        validate: FLARE's own, which gives a reply if it is not content.
    """

    def check(self: Any, message: Any) -> Any:
        why = fault(message)
        if not why:
            return validate(self, message)
        sender = getattr(message.get_prop(MessagePropKey.ENDPOINT), "name", None)
        self.logger.warning(f"refused a message of {sender}: {why}")
        return make_cell_reply(CellReturnCode.UNAUTHENTICATED, why)

    return check


def signed_by_an_operator(authorize: Callable[..., tuple[bool, str]]) -> Callable[..., tuple[bool, str]]:
    """FLARE's or our way to say whether a job may be here, for jobs that an operator's certificate signed.

    FLARE takes the role out of the certificate beside the signature, and refuses jobs without one before it asks.

    Args:
        authorize: What is asked about those.
    """

    def authorized(**asked: Any) -> tuple[bool, str]:
        if asked.get("submitter_role") != OPERATORS_ROLE:
            return False, "a job is signed by an operator"
        return authorize(**asked)

    return authorized


def _making_what_is_known(unpack: Callable[..., Any]) -> Callable[..., Any]:
    """FLARE's way to make an object of what a message says that it is made of, for `READ` alone."""

    def make(self: Any, value: Any) -> Any:
        if type(value) is dict and fobs.FOBS_TYPE in value:
            kind = (value[fobs.FOBS_TYPE], value.get(fobs.FOBS_DECOMPOSER))
            if kind not in READ:
                raise ValueError(f"no message holds such an object: {str(kind)[:160]}")
        return unpack(self, value)

    return make


def _uploading_for_operators(handle: Callable[..., Any]) -> Callable[..., Any]:
    """FLARE's way to take in messages between components, without streams of files from others than operators."""

    def answer(self: Any, request: Any) -> Any:
        stream = request.get_header(MessageHeaderKey.TOPIC) in _STREAMS
        if stream and not is_valid_admin_client_name(request.get_header(MessageHeaderKey.ORIGIN) or ""):
            headers = {MessageHeaderKey.RETURN_CODE: CellReturnCode.OK}
            return new_cell_message(headers, make_reply(ReturnCode.TOPIC_UNKNOWN))
        return handle(self, request)

    return answer


def _add_bytes_only(self: Any, datum: Any) -> None:
    """FLARE's list of what lies beside a message, in and out: no file, and nothing that is fetched elsewhere."""
    if not any(datum.datum_type is kind for kind in _CARRIED) or datum.dot:
        raise RuntimeError("a message carries text and bytes only")
    self.datums[datum.datum_id] = datum


def _no_file() -> NoReturn:
    raise RuntimeError("a message carries no files")


def _then_greeting(name: Callable[..., None], say: Callable[..., None]) -> Callable[..., None]:
    """FLARE's look at who is at the other end of a connection; who connected to us is told only then to go on."""

    def look(self: Any, connection: Any, facts: dict[str, Any]) -> None:
        name(self, connection, facts)
        if connection.conn.connector.mode == Mode.PASSIVE:
            say(connection, Types.READY)

    return look


def _without_greeting(say: Callable[..., None]) -> Callable[..., None]:
    """FLARE's way to say hello, or, as we do elsewhere, that the other side may go on."""

    def hello(self: Any, what: int) -> None:
        if what != Types.READY:
            say(self, what)

    return hello


def _connect_nowhere(self: Any, to_cell: str, url: str) -> None:
    """FLARE's connector to where a message says that its sender listens."""


def _listening_to_nobody(begin: Callable[..., None]) -> Callable[..., None]:
    """FLARE's network agent, which takes no requests then: no process watches another."""

    class Nobody:
        def register_request_cb(self, **what: Any) -> None:
            pass

    def begin_deaf(self: Any, cell: Any, *arguments: Any, **more: Any) -> None:
        begin(self, Nobody(), *arguments, **more)
        self.cell = cell

    return begin_deaf


def become(module: str, *arguments: str) -> None:
    """FLARE's module in this process."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    guard_server()
    become(*sys.argv[1:])
