"""What our kits say instead of FLARE's defaults: which code a job may name, who may do what, and where things lie.

- No code travels: ``byoc`` is ``none`` for every role, and a job's components are those of `ALLOWED` alone.
- Logs of a site stay there: no log streaming, and no component that could do it.
- Nobody runs commands at a site, operates it or downloads from it; the operator submits, watches and ends jobs. FLARE
  takes a server's word for who asks, and anybody's message at its word, so a site's processes are narrowed too, and the
  server's guarded: `privet.engines.flare.site`, `privet.engines.flare.guarded`.
- FLARE's own scripts and notes, which would start a machine without our checks, are taken out.
- Jobs, snapshots and transfers lie in the kit, not in a folder that all users of the machine share.
- The operators' port listens on this machine alone; sites' machines listen on no port but the loopback's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONTROLLER = "privet.engines.flare.controller.PrivetController"
EXECUTOR = "privet.engines.flare.executor.PrivetExecutor"
LAUNCHER = "privet.engines.flare.launcher.RestartingLauncher"
SERVER_LAUNCHER = "privet.engines.flare.launcher.GuardedLauncher"
_SITE = "privet.engines.flare.site"
_SERVER = "privet.engines.flare.guarded"
ALLOWED = (CONTROLLER, EXECUTOR)
ECHO_CONTROLLER = "privet.engines.flare.echo.EchoController"
ECHO_EXECUTOR = "privet.engines.flare.echo.EchoExecutor"
"""Classes of the benchmark; no kit of a consortium allows them."""
LOOPBACK = "127.0.0.1"
DEAD_AFTER_SECONDS = 60
_ANSWER_SECONDS = 10.0
"""What a server with jobs and sites to look after may take for its first answer to an operator; FLARE gives it two."""
MOST_SITES = 1000

_RIGHTS = (
    *("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "shell_commands", "byoc"),
    "server-predeployed-flwr",
)
_NOTHING = dict.fromkeys(_RIGHTS, "none")
PERMISSIONS: dict[str, Any] = {
    "project_admin": _NOTHING,
    "org_admin": _NOTHING,
    "lead": {**_NOTHING, "submit_job": "any", "manage_job": "n:submitter", "view": "any"},
    "member": _NOTHING,
}


def harden_server(kit: Path, *, admin_port: int) -> None:
    """Replace the server's defaults.

    Args:
        kit: The server's kit.
        admin_port: Port for the operator, on the loopback alone.
    """
    _rules(kit / "local")
    place_stores(kit)
    path = kit / "startup" / "fed_server.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    for server in facts["servers"]:
        server |= {"admin_host": LOOPBACK, "admin_port": admin_port}
    _write(path, facts)


def place_stores(kit: Path) -> None:
    """Say where the server's stores are, which FLARE wants as absolute paths; to be called where the kit now lies."""
    _write(kit / "local" / "resources.json", _server_resources(kit))


def harden_site(kit: Path) -> None:
    """Replace a site's defaults.

    Args:
        kit: The site's kit.
    """
    local = kit / "local"
    _rules(local)
    _write(local / "resources.json", _site_resources())


def harden_operator(kit: Path, *, host: str, port: int) -> None:
    """Make the operator's kit connect to the port on the loopback, and wait for a busy server.

    Args:
        kit: The operator's kit.
        host: Name of this machine in the server's certificate.
        port: The operators' port.
    """
    path = kit / "startup" / "fed_admin.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["admin"] |= {"host": host, "port": port, "authenticate_msg_timeout": _ANSWER_SECONDS}
    _write(path, facts)


def narrowed(arguments: list[str]) -> list[str]:
    """Python's arguments that start a module of FLARE at a site, such that the module is narrowed first.

    Args:
        arguments: With ``-m`` and the module.
    """
    return _by_way_of(_SITE, arguments)


def guarded(arguments: list[str]) -> list[str]:
    """As `narrowed`, for a module of FLARE at the server."""
    return _by_way_of(_SERVER, arguments)


def _by_way_of(module: str, arguments: list[str]) -> list[str]:
    at = arguments.index("-m") + 1
    return [*arguments[:at], module, *arguments[at:]]


def take_out(kit: Path) -> None:
    """Remove FLARE's scripts and notes from a kit; `privet` starts every machine."""
    for path in kit.rglob("*"):
        if path.is_file() and (path.suffix in (".sh", ".ipynb") or path.name == "readme.txt"):
            path.unlink()


def _rules(local: Path) -> None:
    _write(local / "authorization.json", {"format_version": "1.0", "permissions": PERMISSIONS})
    for name in ("authorization.json.default", "resources.json.default", "privacy.json.sample"):
        (local / name).unlink(missing_ok=True)


def _code() -> dict[str, Any]:
    return {"format_version": 2, "class_list_enforcement_mode": "enforce", "class_allow_list": list(ALLOWED)}


def _site_resources() -> dict[str, Any]:
    manager = "nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager"
    consumer = "nvflare.app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer"
    none = {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300}
    return {
        **_code(),
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "None"},
        "components": [
            {"id": "resource_manager", "path": manager, "args": none},
            {"id": "resource_consumer", "path": consumer, "args": {}},
            {"id": "process_launcher", "path": LAUNCHER, "args": {}},
        ],
    }


def _server_resources(kit: Path) -> dict[str, Any]:
    common = "nvflare.app_common"
    storage = f"{common}.storages.filesystem_storage.FilesystemStorage"
    store = kit.resolve() / "store"
    snapshots = {"root_dir": str(store / "snapshots"), "uri_root": "/"}
    jobs = {"uri_root": str(store / "jobs"), "job_store_id": "job_store"}
    return {
        **_code(),
        "servers": [
            {
                "admin_storage": "transfer",
                "max_num_clients": MOST_SITES,
                "heart_beat_timeout": DEAD_AFTER_SECONDS,
                "download_job_url": "http://not.used/",
                "admin_timeout": 10.0,
            }
        ],
        "snapshot_persistor": {
            "path": f"{common}.state_persistors.storage_state_persistor.StorageStatePersistor",
            "args": {"uri_root": "/", "storage": {"path": storage, "args": snapshots}},
        },
        "components": [
            {
                "id": "job_scheduler",
                "path": f"{common}.job_schedulers.job_scheduler.DefaultJobScheduler",
                "args": {"max_jobs": 16},
            },
            {
                "id": "job_manager",
                "path": "nvflare.apis.impl.job_def_manager.SimpleJobDefManager",
                "args": jobs,
            },
            {"id": "job_store", "path": storage},
            {
                "id": "process_launcher",
                "path": SERVER_LAUNCHER,
                "args": {},
            },
        ],
    }


def _write(path: Path, facts: Any) -> None:
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
