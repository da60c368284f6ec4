"""For ``privet bench engine``: questions of a given size that sites send back, to see what the engine itself costs.

Kits of a consortium do not allow these classes; the benchmark makes kits of its own.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable, make_reply

from privet import durable
from privet.engines.flare.controller import POLL_SECONDS, FlareTransport
from privet.engines.flare.fields import RAW
from privet.engines.homes import FOLDER, ServerHome
from privet.engines.worker import follow_parent
from privet.protocol import RoundId
from privet.sealing.envelope import SERVER, Address, open_envelope, seal_envelope

OP = "echo"


class EchoController(Controller):  # type: ignore[misc]  # nvflare is untyped
    """Asks all sites for the same bytes again and writes down how long it took.

    Args:
        sizes: Bytes of a question, and how often it is asked.
        out: File for the rows, in JSON.
    """

    def __init__(self, sizes: list[list[int]], out: str) -> None:
        super().__init__()
        self.sizes, self.out = sizes, out

    def start_controller(self, fl_ctx: Any) -> None:
        """Nothing to prepare."""

    def stop_controller(self, fl_ctx: Any) -> None:
        """Nothing to tidy."""

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Any, fl_ctx: Any
    ) -> None:
        """Late answers are of no interest."""

    def control_flow(self, abort_signal: Any, fl_ctx: Any) -> None:
        """All sizes, smallest first."""
        follow_parent()
        self.communicator._task_check_period = POLL_SECONDS
        home = ServerHome(Path(fl_ctx.get_engine().get_workspace().get_root_dir()) / FOLDER)
        transport = FlareTransport(self, home, "bench", fl_ctx, abort_signal)
        roster, identity = home.roster(), home.identity
        rows: list[dict[str, Any]] = []
        for size, times in self.sizes:
            for number in range(times):
                due, payload = RoundId(number), os.urandom(size)
                started = time.monotonic()
                questions = {
                    party: seal_envelope(
                        identity, roster.hash, Address(SERVER, party, "bench", due, OP), payload
                    )
                    for party in range(roster.size)
                }
                delivery = transport.exchange(OP, questions, 600.0, lambda: None)
                for party, answer in delivery.answers.items():
                    # The echo comes back under the server's own signature: as costly to check as a site's.
                    expected = Address(SERVER, party, "bench", due, OP)
                    keys = {SERVER: identity.public_key}
                    open_envelope(
                        answer, expected=expected, keys=keys, roster_hash=roster.hash, max_payload=size
                    )
                seconds = time.monotonic() - started
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                rows.append(
                    {
                        "bytes": size,
                        "seconds": seconds,
                        "answers": len(delivery.answers),
                        "server_peak_bytes": peak,
                    }
                )
                # After each question, so that who gives up waiting has what was measured until then.
                durable.replace(Path(self.out), json.dumps(rows))


class EchoExecutor(Executor):  # type: ignore[misc]  # nvflare is untyped
    """Sends back what it gets."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: Any, abort_signal: Any) -> Shareable:
        """The question, as it came."""
        reply = make_reply(ReturnCode.OK)
        reply[RAW] = shareable[RAW]
        return reply
