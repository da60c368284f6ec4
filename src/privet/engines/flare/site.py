"""At a site: FLARE's processes, narrowed to what a run needs of them, whatever a server sends.

FLARE 2.9 believes its server: it asks its authorization file only about requests that the server marks as in need of
it, takes the role of a job's submitter from the server's word (``super`` may do anything), and empties and fills the
folder that a job's id names before it looks at what came, be that job just about to begin. A server that turned against
its sites could so read their files, run its own code there, and make them forget what was spent of their budget. Hence:

- what any process of FLARE does at a message's word is undone (`privet.engines.flare.guarded`);
- a job's process fetches its questions, and answers none that somebody sends it;
- a site's main process answers `REQUESTS` and no others;
- a job's id is one as FLARE makes them, so it is the name of no folder in the kit;
- a job is one that `privet submit` writes (`privet.engines.flare.job`), so no code comes with it: its list of contents
  is read before anything is unpacked, and its folder is filled once and looked at again when the job begins;
- jobs are unpacked and begun one at a time, and Python looks for modules in no folder of theirs;
- nobody has more rights than the kit's own file gives, whatever role he is said to have, and a job is one that an
  operator's certificate signed: to FLARE any certificate of the project is as good.

Run as ``python -m privet.engines.flare.site MODULE ARGUMENTS``, where MODULE is FLARE's and the arguments are its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.apis.workspace import Workspace
from nvflare.fuel.sec.authz import Authorizer
from nvflare.private.admin_defs import Message, error_reply
from nvflare.private.defs import RequestHeader
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.client_runner import ClientRunner
from nvflare.private.fed.client.scheduler_cmds import StartJobProcessor
from nvflare.private.fed.client.training_cmds import DeployProcessor
from nvflare.private.fed.utils.app_authz import AppAuthzService

from privet.engines.flare.guarded import become, guard, no_such_topic, signed_by_an_operator
from privet.engines.flare.job import fault, packed_fault

REQUESTS = frozenset(
    {
        *("train.deploy", "train.start_job", "train.abort", "train.abort_task", "train.check_status"),
        *("train.notify_job_status", "scheduler.check_resource", "scheduler.cancel_resource"),
    }
)
"""What a job's life needs: is there room for it, here it is, start it, how does it stand, end it."""

_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def narrow(kit: Path) -> None:
    """Narrow FLARE in this process.

    Args:
        kit: The site's kit; its own file says which classes a job may name.
    """
    guard()
    processors = ClientRequestProcessors.request_processors
    processors[:] = [each for each in processors if set(each.get_topics()) <= REQUESTS]
    allowed = json.loads((kit / "local" / "resources.json").read_text(encoding="utf-8"))["class_allow_list"]

    def check_job_id(job_id: Any) -> str:
        if not isinstance(job_id, str) or not _JOB.fullmatch(job_id):
            raise ValueError("no job of FLARE's has such an id")
        return job_id

    def validate_app(app_path: str) -> tuple[str, dict[str, Any]]:
        return fault(Path(app_path), allowed), {}

    def authorize_app_info(app_info: dict[str, Any], *who: Any, **more: Any) -> tuple[bool, str]:
        return (False, "a job brings nothing of its own") if app_info else (True, "")

    def authorize(self: Any, ctx: Any) -> tuple[bool, str]:
        granted, why = self.evaluate(ctx)
        return granted, "" if granted else why or "no such right at this site"

    def deployable(request: Message, workspace: Workspace) -> str:
        if os.path.lexists(workspace.get_run_dir(request.get_header(RequestHeader.JOB_ID))):
            return "this job is here already"
        return packed_fault(request.body)

    def startable(request: Message, workspace: Workspace) -> str:
        return fault(Path(workspace.get_app_dir(request.get_header(RequestHeader.JOB_ID))), allowed)

    one_at_a_time = threading.Lock()
    for processor, check in ((DeployProcessor, deployable), (StartJobProcessor, startable)):
        processor.process = _checked(processor.process, check, one_at_a_time)
    Workspace.get_app_custom_dir = lambda self, job_id: ""
    Workspace._check_job_id = staticmethod(check_job_id)
    AppAuthzService.validate_app = staticmethod(validate_app)
    AppAuthzService.authorize_app_info = staticmethod(signed_by_an_operator(authorize_app_info))
    ClientRunner._handle_do_task = no_such_topic
    Authorizer.authorize = authorize


def _checked(
    process: Callable[..., Message], check: Callable[[Message, Workspace], str], lock: threading.Lock
) -> Callable[..., Message]:
    """FLARE's way to answer a request, for those that pass a check, and with no other one between the two."""

    def answer(self: Any, request: Message, engine: Any) -> Message:
        with lock:
            why = check(request, Workspace(engine.args.workspace, engine.get_client_name()))
            return error_reply(why) if why else process(self, request, engine)

    return answer


def main(module: str, *arguments: str) -> None:
    """Become FLARE's module in this process, narrowed."""
    narrow(Path(arguments[arguments.index("-m") + 1]))
    become(module, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
