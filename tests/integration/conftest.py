"""Start-up kits, and a process that is narrowed to one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nvflare.apis.utils.decomposers.flare_decomposers import register as register_decomposers
from nvflare.apis.workspace import Workspace
from nvflare.fuel.f3.cellnet import cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.net_agent import NetAgent
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.sfm_conn import SfmConnection
from nvflare.fuel.sec.authz import Authorizer
from nvflare.fuel.utils.fobs import fobs, lobs
from nvflare.fuel.utils.fobs.datum import DatumManager
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.client_runner import ClientRunner
from nvflare.private.fed.client.scheduler_cmds import StartJobProcessor
from nvflare.private.fed.client.training_cmds import DeployProcessor
from nvflare.private.fed.server.fed_server import FederatedServer
from nvflare.private.fed.server.server_engine import ServerEngine
from nvflare.private.fed.utils.app_authz import AppAuthzService
from nvflare.widgets.fed_event import (
    FedEventRunner,
)

from privet.deploy.project import Kits, Project, make_project
from privet.engines.flare.site import narrow

SITE = "hosp-a"


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    project = Project(name="trial", server="localhost", sites=(SITE, "hosp-b", "hosp-c"))
    return make_project(project, tmp_path_factory.mktemp("project"))


@pytest.fixture
def kit(kits: Kits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's kit, with FLARE narrowed to it in this process until the test is over."""
    for owner, name in (
        *((Workspace, "_check_job_id"), (Workspace, "get_app_custom_dir"), (Authorizer, "authorize")),
        *((AppAuthzService, "validate_app"), (AppAuthzService, "authorize_app_info")),
        *((DeployProcessor, "process"), (StartJobProcessor, "process"), (NetAgent, "__init__")),
        *((DatumManager, "add_datum"), (lobs, "get_datum_dir"), (CoreCell, "_add_adhoc_connector")),
        *((cell, "_is_server_job_cell"), (ServerEngine, "_handle_aux_message"), (fobs.Packer, "unpack")),
        *((FedEventRunner, "_receive"), (ClientRunner, "_handle_do_task")),
        *((FederatedServer, "_validate_auth_headers"), (ConnManager, "update_endpoint")),
        (SfmConnection, "send_handshake"),
    ):
        monkeypatch.setattr(owner, name, vars(owner)[name])
    fobs._register_decomposers()
    # With the list of what was registered, so that a consortium later in this process registers it again.
    monkeypatch.setattr(register_decomposers, "registered", register_decomposers.registered)
    monkeypatch.setattr(fobs, "_type_name_whitelist", set(fobs._type_name_whitelist))
    monkeypatch.setattr(fobs, "_decomposers", dict(fobs._decomposers))
    all_ = ClientRequestProcessors.request_processors
    monkeypatch.setattr(ClientRequestProcessors, "request_processors", list(all_))
    kit = tmp_path / "kit"
    shutil.copytree(kits.sites[SITE], kit)
    narrow(kit)
    return kit
