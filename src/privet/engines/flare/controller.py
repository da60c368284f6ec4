"""At the server: FLARE's workflow of a job, which lets a run ask its sites through FLARE's tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.impl.controller import Controller
from nvflare.apis.impl.task_controller import Task
from nvflare.apis.shareable import Shareable

from privet.engines.flare.fields import RAW, WHY
from privet.engines.homes import FOLDER, ServerHome
from privet.engines.remote import Delivery, Interrupted
from privet.engines.worker import follow_parent

POLL_SECONDS = 0.05


class PrivetController(Controller):  # type: ignore[misc]  # nvflare is untyped
    """Runs one submitted run.

    Args:
        run: Its name.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_name = run

    def start_controller(self, fl_ctx: Any) -> None:
        """Nothing to prepare."""

    def stop_controller(self, fl_ctx: Any) -> None:
        """Nothing to tidy: whatever matters is on the disk."""

    def process_result_of_unknown_task(
        self, client: Any, task_name: str, client_task_id: str, result: Any, fl_ctx: Any
    ) -> None:
        """An answer that came too late is not looked at."""
        self.log_info(fl_ctx, f"late answer to {task_name} from {client.name}")

    def control_flow(self, abort_signal: Any, fl_ctx: Any) -> None:
        """The whole run, or as much of it as this job gets done."""
        follow_parent()
        # Controller(task_check_period=...) has no effect in 2.9: the communicator looks at its own attribute.
        self.communicator._task_check_period = POLL_SECONDS
        from privet.engines.serving import serve

        kit = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
        home = ServerHome(kit / FOLDER)
        serve(
            kit,
            self.run_name,
            fl_ctx.get_job_id(),
            FlareTransport(self, home, self.run_name, fl_ctx, abort_signal),
        )


class FlareTransport:
    """Questions as FLARE tasks, one a site.

    Args:
        controller: The workflow whose tasks they are.
        home: The server's folder, with the roster and the operator's orders.
        run: Name of the run.
        fl_ctx: FLARE's context.
        abort_signal: Set when the job is to end.
    """

    def __init__(
        self, controller: Controller, home: ServerHome, run: str, fl_ctx: Any, abort_signal: Any
    ) -> None:
        self._controller, self._home, self._run = controller, home, run
        self._fl_ctx, self._abort = fl_ctx, abort_signal
        self._names = {party: member.name for party, member in enumerate(home.roster().members)}

    def present(self) -> frozenset[int]:
        """Sites that take part in this job."""
        here = {client.name for client in self._fl_ctx.get_engine().get_clients()}
        return frozenset(party for party, name in self._names.items() if name in here)

    def wants_continuation(self) -> bool:
        """Whether the operator's command saw a connected site that is not in this job."""
        return bool(self._home.orders(self._run).get("rejoin"))

    def exchange(
        self, op: str, questions: Mapping[int, bytes], timeout: float, answered: Callable[[], None]
    ) -> Delivery:
        """See `privet.engines.remote.Transport`."""
        answers: dict[int, bytes] = {}
        failures: dict[int, str] = {}
        tasks = [
            self._ask(op, party, raw, timeout, answers, failures, answered)
            for party, raw in questions.items()
        ]
        while any(task.completion_status is None for task in tasks):
            if self._abort.triggered:
                for task in tasks:
                    self._controller.cancel_task(task)
                raise Interrupted
            time.sleep(POLL_SECONDS)
        return Delivery(answers, failures)

    def _ask(
        self,
        op: str,
        party: int,
        raw: bytes,
        timeout: float,
        answers: dict[int, bytes],
        failures: dict[int, str],
        answered: Callable[[], None],
    ) -> Task:
        def received(client_task: Any, fl_ctx: Any) -> None:  # FLARE calls it by these names
            result, client_task.result = client_task.result, None
            reply = result.get(RAW)
            if result.get_return_code() == ReturnCode.OK and isinstance(reply, bytes):
                answers[party] = reply
            else:  # under no signature of the site's: the run's log says so beside it
                failures[party] = str(result.get(WHY, "no answer"))
            answered()

        question = Shareable()
        question[RAW] = raw
        task = Task(op, question, timeout=max(1, int(timeout)), result_received_cb=received)
        self._controller.broadcast(task, self._fl_ctx, targets=[self._names[party]], min_responses=1)
        return task
