"""At the server: what the operator asks of FLARE, through its admin interface on the loopback."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    CommandError,
    InternalError,
    NoConnection,
    NoReply,
    SessionClosed,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.fuel.hci.proto import MetaKey, MetaStatusValue

from privet.deploy.hardening import CONTROLLER, EXECUTOR
from privet.engines.flare.guarded import guard
from privet.engines.flare.job import write_job
from privet.errors import PrivetError

_CONNECT_SECONDS, _LOGIN_SECONDS, _AGAIN_SECONDS = 10.0, 60.0, 0.5
_REFUSED = (NoConnection, AuthenticationError, AuthorizationError, InternalError, OSError)
_NOT_DONE = (NoConnection, SessionClosed, AuthorizationError, NoReply, CommandError, InternalError)
_ENDED = ("FINISHED", "ABORTED", "ABANDONED", "FAILED")


@contextlib.contextmanager
def session(kit: Path, user: str) -> Iterator[Session]:
    """A connection to the running server.

    Args:
        kit: The operator's kit.
        user: The operator's name in its certificate.

    Raises:
        PrivetError: if no server answers, or it does not do what is asked of it within.
    """
    _check_port(kit)
    guard()
    opened = _sign_in(kit, user)
    try:
        yield opened
    except _NOT_DONE as fault:
        raise PrivetError(
            f"the server did not do as it was asked: {fault}",
            field="--kit",
            given=kit.parent,
            hint="see whether it still runs, and do it again",
        ) from None
    finally:
        with contextlib.suppress(Exception):  # the connection may be gone already
            opened.close()


def _sign_in(kit: Path, user: str) -> Session:
    """Sign in to a server whose port is open: one that is busy takes long, or loses the question, and is there."""
    end = time.monotonic() + _LOGIN_SECONDS
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            while True:
                try:
                    return new_secure_session(user, str(kit), timeout=_LOGIN_SECONDS)
                except FLCommunicationError as fault:
                    if "failed to challenge server" not in str(fault) or time.monotonic() > end:
                        raise _nobody(kit, str(fault)) from None
                    time.sleep(_AGAIN_SECONDS)
    except _REFUSED as fault:
        raise _nobody(kit, str(fault)) from None
    finally:
        logging.disable(logging.NOTSET)


def _check_port(kit: Path) -> None:
    """FLARE waits long for a server that is not there; a closed port tells at once."""
    facts = json.loads((kit / "startup" / "fed_admin.json").read_text(encoding="utf-8"))["admin"]
    try:
        socket.create_connection((facts["host"], facts["port"]), _CONNECT_SECONDS).close()
    except OSError:
        raise _nobody(kit) from None


def _nobody(kit: Path, why: str = "") -> PrivetError:
    return PrivetError(
        f"no server answers{f' this kit: {why}' if why else ''}",
        field="--kit",
        given=kit.parent,
        hint="start it first, on this machine: privet server start --kit DIR",
    )


def connected(opened: Session) -> list[str]:
    """Names of the sites that are connected now."""
    return sorted(client.name for client in opened.get_connected_client_list())


def outside(opened: Session, job: str) -> list[str]:
    """Names of the sites that are connected and do not work on a job: they were away when it began, or left it."""
    with contextlib.suppress(Exception):  # a site may go while it is asked: then it is not there
        rows = opened.get_client_job_status() or []
        silent = {MetaStatusValue.ERROR, MetaStatusValue.NO_REPLY}
        here = {row[MetaKey.CLIENT_NAME] for row in rows if row.get(MetaKey.STATUS) not in silent}
        return sorted(here - {row[MetaKey.CLIENT_NAME] for row in rows if row.get(MetaKey.JOB_ID) == job})
    return []


def submit(opened: Session, run: str, *, least: int) -> str:
    """Submit a job that runs ``run``, or goes on with it; returns the job's id.

    Args:
        opened: The connection.
        run: Name of the run.
        least: Sites without which it does not start.
    """
    arguments = {"run": run}
    return submit_classes(opened, run, least, (CONTROLLER, arguments), (EXECUTOR, arguments))


def submit_classes(
    opened: Session, name: str, least: int, controller: tuple[str, Any], executor: tuple[str, Any]
) -> str:
    """Submit a job of two classes that every machine has already, each with its arguments."""
    with tempfile.TemporaryDirectory(prefix="privet-job-") as folder:
        job = Path(folder) / name
        write_job(job, name, least, controller, executor)
        return str(opened.submit_job(str(job)))


def state(opened: Session, job: str) -> str | None:
    """FLARE's word for how a job stands; ``None`` if it does not know it."""
    with contextlib.suppress(Exception):  # an unknown job is one of many kinds of errors
        status = opened.get_job_status(job)
        return str(status) if status else None
    return None


def runs_now(opened: Session, job: str) -> bool:
    """Whether the server that answers has a process for a job; a server that was killed leaves its jobs so marked."""
    with contextlib.suppress(Exception):  # a server that cannot say runs nothing
        return any(each.job_id == job for each in opened.get_system_info().job_info)
    return False


def has_ended(status: str | None) -> bool:
    """Whether a job with this status will do nothing more."""
    return status is None or status.startswith(_ENDED)


def abort(opened: Session, job: str) -> None:
    """End a job; whatever matters of its run is on the disks."""
    with contextlib.suppress(Exception):  # it may have ended meanwhile
        opened.abort_job(job)
