"""How a job's process is started: narrowed at a site, and again when it was killed; guarded at the server."""

from __future__ import annotations

import os
import shlex
import time
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import JOB_RETURN_CODE_MAPPING
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_credential_env
from nvflare.utils.process_utils import ProcessAdapter, spawn_process

from privet.deploy.hardening import guarded, narrowed

MOST_STARTS = 20
_PAUSE_SECONDS = 1.0


class GuardedLauncher(ServerProcessJobLauncher):  # type: ignore[misc]  # nvflare is untyped
    """FLARE's launcher of the server's job processes, with `privet.engines.flare.guarded` before FLARE's module."""

    def get_command(self, job_meta: dict[str, Any], fl_ctx: Any) -> str:
        """The command line."""
        return shlex.join(guarded(shlex.split(super().get_command(job_meta, fl_ctx))))


class RestartingLauncher(ClientProcessJobLauncher):  # type: ignore[misc]  # nvflare is untyped
    """FLARE's launcher of a site's job processes, with a handle that outlives one that was killed by a signal.

    A job that is killed at one site goes on there, instead of failing for all.
    """

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: Any) -> JobHandleSpec:
        """Start the job's process."""
        environment = os.environ.copy()
        environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
        return _Handle(narrowed(shlex.split(self.get_command(job_meta, fl_ctx), True)), environment)


class _Handle(JobHandleSpec):  # type: ignore[misc]  # nvflare is untyped
    """One job's process, whichever it is at the moment."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        super().__init__()
        self._command, self._environment = command, environment
        self._ending, self._starts = False, 0
        self._process = self._start()

    def _start(self) -> ProcessAdapter:
        self._starts += 1
        return spawn_process(self._command, self._environment)

    def terminate(self) -> None:
        """End it for good."""
        self._ending = True
        self._process.terminate()

    def poll(self) -> int:
        """FLARE's code of how it ended; unknown while it runs."""
        code = self._process.poll()
        if code is None:
            return int(JobReturnCode.UNKNOWN)
        return int(JOB_RETURN_CODE_MAPPING.get(code, JobReturnCode.EXECUTION_ERROR))

    def wait(self) -> None:
        """Until it has ended by itself, was ended on purpose, or was killed too often."""
        while True:
            self._process.wait()
            code = self._process.poll()
            killed = code is not None and code < 0
            if killed:
                time.sleep(_PAUSE_SECONDS)  # who kills it on purpose says so first or meanwhile
            if not killed or self._ending or self._starts >= MOST_STARTS:
                return
            self._process = self._start()
