"""An operator's connection to a server that is slow, silent or gone: waited for, and told in a sentence."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.flare_api.api_spec import AuthenticationError, NoConnection, NoReply, SessionClosed

from privet.deploy.operating import OPERATOR, OPERATOR_KIT
from privet.deploy.project import Project, make_project
from privet.engines.flare import operator
from privet.errors import PrivetError

SILENT = FLCommunicationError("failed to challenge server: timeout: ")


class Opened:
    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An operator's kit whose server has an open port, and who waits a moment only."""
    with socket.create_server(("localhost", 0)) as listening:
        port = listening.getsockname()[1]
        project = Project(name="trial", server="localhost", sites=("hosp-a", "hosp-b"), admin_port=port)
        monkeypatch.setattr(operator, "guard", lambda: None)
        monkeypatch.setattr(operator, "_AGAIN_SECONDS", 0.01)
        yield make_project(project, tmp_path / "project").server / OPERATOR_KIT


def answers(monkeypatch: pytest.MonkeyPatch, *replies: Any) -> Opened:
    """What FLARE does when it is asked for a session, the last for ever after."""
    left, opened = list(replies), Opened()

    def ask(*_: Any, **__: Any) -> Opened:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if reply is not None:
            raise reply
        return opened

    monkeypatch.setattr(operator, "new_secure_session", ask)
    return opened


def test_a_server_that_answers_late_is_asked_again(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = answers(monkeypatch, SILENT, SILENT, None)
    with operator.session(kit, OPERATOR) as given:
        assert given is opened
        assert not opened.closed
        assert not logging.root.manager.disable
    assert opened.closed


@pytest.mark.parametrize("reply", [SILENT, NoConnection("none"), AuthenticationError("no", auth_code=1)])
def test_a_server_that_lets_nobody_in_is_no_stack_trace(
    kit: Path, monkeypatch: pytest.MonkeyPatch, reply: Exception
) -> None:
    answers(monkeypatch, reply)
    monkeypatch.setattr(operator, "_LOGIN_SECONDS", 0.05)
    with pytest.raises(PrivetError, match="no server answers"), operator.session(kit, OPERATOR):
        pass
    assert not logging.root.manager.disable


@pytest.mark.parametrize("reply", [NoConnection("gone"), SessionClosed("gone"), NoReply("gone")])
def test_a_server_that_goes_while_it_is_asked_is_no_stack_trace(
    kit: Path, monkeypatch: pytest.MonkeyPatch, reply: Exception
) -> None:
    opened = answers(monkeypatch, None)
    with (
        pytest.raises(PrivetError, match="did not do as it was asked: gone"),
        operator.session(kit, OPERATOR),
    ):
        raise reply
    assert opened.closed
