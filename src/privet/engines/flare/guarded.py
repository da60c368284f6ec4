"""Every process of FLARE that takes messages in, at the server too: what FLARE 2.9 does at a message's word, undone.

A message may say that a value of it is a file: whoever passes that value on, as FLARE does with what it calls cookies,
opens the path and sends what is in it, and whoever takes in a message with a file in it writes one under a name that
the sender chose. So a server read a site's records and keys with one message, and so did any site, through the server,
those of another, and the server's. A message may also name an address, which the receiver then connects to, or ask
FLARE's network agent about the process, or to end it; a message that cannot be read ends a server's job. At the server
anybody may upload files, before a login. None of this is needed but the operator's uploads: our messages are bytes.

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
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.utils.admin_name_utils import is_valid_admin_client_name
from nvflare.fuel.utils.fobs import lobs
from nvflare.fuel.utils.fobs.datum import DatumManager, DatumType
from nvflare.private.stream_runner import TOPIC_STREAM_ABORT, TOPIC_STREAM_REQUEST

_STREAMS = (TOPIC_STREAM_REQUEST, TOPIC_STREAM_ABORT)
_CARRIED = (DatumType.TEXT, DatumType.BLOB)


def guard() -> None:
    """Undo it in this process, once."""
    if DatumManager.add_datum is _add_bytes_only:
        return
    DatumManager.add_datum = _add_bytes_only
    lobs.get_datum_dir = _no_file
    CoreCell._add_adhoc_connector = _connect_nowhere
    NetAgent.__init__ = _listening_to_nobody(NetAgent.__init__)
    cell._is_server_job_cell = _goes_on


def guard_server() -> None:
    """The same, and what only the server does."""
    from nvflare.private.fed.server.server_engine import ServerEngine

    guard()
    ServerEngine._handle_aux_message = _uploading_for_operators(ServerEngine._handle_aux_message)


def _goes_on(info: Any) -> bool:
    """Whether a message that cannot be read is a reason to end this process."""
    return False


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
