"""At a site: FLARE's executor of a job, which hands questions to the process that holds model and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from privet.engines.flare.fields import RAW, WHY
from privet.engines.remote import CRASHED
from privet.engines.worker import LARGEST_QUESTION, Worker, WorkerGone, WorkerRefused, follow_parent


class PrivetExecutor(Executor):  # type: ignore[misc]  # nvflare is untyped
    """Answers the questions of one run.

    Args:
        run: Its name.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_name = run
        self._worker: Worker | None = None

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Begin and end the worker with the job."""
        if event_type == EventType.START_RUN:
            follow_parent()
            self._of(fl_ctx).start()
        if event_type in (EventType.END_RUN, EventType.ABORT_TASK) and self._worker is not None:
            self._worker.close()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: Any, abort_signal: Any) -> Shareable:
        """The worker's answer, or a fixed reason: no text of an exception leaves."""
        try:
            question = shareable.get(RAW)
            # A server may put anything there; of a whole number, bytes() would make as many zeros.
            if not isinstance(question, bytes | bytearray):
                return _no_answer("refused: wrong-type")
            if len(question) > LARGEST_QUESTION:
                return _no_answer("refused: too-large")
            answer = self._of(fl_ctx).ask(task_name, bytes(question), lambda: bool(abort_signal.triggered))
        except WorkerGone:
            return _no_answer(CRASHED)
        except WorkerRefused as refused:
            return _no_answer(refused.reason)
        except Exception as error:  # whatever it is, its text stays here
            self.log_exception(fl_ctx, "question not answered")
            return _no_answer(f"failed: {type(error).__name__}")
        reply = make_reply(ReturnCode.OK)
        reply[RAW] = answer
        return reply

    def _of(self, fl_ctx: Any) -> Worker:
        """The worker of this job."""
        if self._worker is None:
            kit = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
            self._worker = Worker(kit, self.run_name, fl_ctx.get_identity_name())
        return self._worker


def _no_answer(reason: str) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply[WHY] = reason
    return reply
