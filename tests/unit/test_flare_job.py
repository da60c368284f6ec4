"""A site takes no job but the one that the operator's command writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privet.deploy.hardening import ALLOWED, CONTROLLER, ECHO_EXECUTOR, EXECUTOR
from privet.engines.flare.job import fault, write_job

Change = Callable[[Path, dict[str, Any]], None]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    write_job(tmp_path / "job", "first", 3, (CONTROLLER, {"run": "first"}), (EXECUTOR, {"run": "first"}))
    return tmp_path / "job" / "app"


def test_our_own_job_is_taken_with_the_operators_signature(app: Path) -> None:
    for folder in (app, app / "config"):
        (folder / ".__nvfl_sig.json").write_text("{}", encoding="utf-8")
        (folder / ".__nvfl_submitter.crt").touch()
    assert fault(app, list(ALLOWED)) == ""


def _executor(facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = facts["executors"][0]["executor"]
    return found


CHANGES: dict[str, Change] = {
    "code": lambda app, facts: (app / "custom").mkdir(),
    "another file": lambda app, facts: (app / "config" / "comm_config.json").touch(),
    "no file": lambda app, facts: (app / "config" / "config_fed_server.json").unlink(),
    "another class": lambda app, facts: _executor(facts).update(path="nvflare.app_common.executors.Any"),
    "a class of the benchmark": lambda app, facts: _executor(facts).update(path=ECHO_EXECUTOR, args={}),
    "a component": lambda app, facts: facts["components"].append({"id": "x", "path": EXECUTOR, "args": {}}),
    "a filter": lambda app, facts: facts.update(task_data_filters=[]),
    "two executors": lambda app, facts: facts["executors"].append(facts["executors"][0]),
    "another argument": lambda app, facts: _executor(facts)["args"].update(kit="/"),
    "a path for a run": lambda app, facts: _executor(facts)["args"].update(run="../../keys"),
    "other times": lambda app, facts: facts.update(task_check_interval=0),
    "no executor": lambda app, facts: facts.update(executors=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_differs_from_it_is_refused(app: Path, change: str) -> None:
    path = app / "config" / "config_fed_client.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    CHANGES[change](app, facts)
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert fault(app, list(ALLOWED))


def test_what_is_no_json_is_refused(app: Path) -> None:
    (app / "config" / "config_fed_client.json").write_text("{", encoding="utf-8")
    assert fault(app, list(ALLOWED))
