"""What a FLARE job of ours consists of: two files that name our classes, no code, and nothing else.

The server writes it and a site accepts nothing that differs from it.
"""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from privet.site_ledger import checked_name

CONFIG = "config"
SERVER_FILE, SITE_FILE = "config_fed_server.json", "config_fed_client.json"
_TRANSFER_SECONDS = 600.0
"""For one question or answer on its way. FLARE sends it anew after that, so it must be longer than a large one takes to
many sites over a slow link; a connection that breaks is noticed at once."""
_SIGNATURES = frozenset({".__nvfl_sig.json", ".__nvfl_submitter.crt"})
"""The operator's signature, which FLARE puts into each folder of a job and checks before it asks us."""
_FILES = frozenset({f"{CONFIG}/{SERVER_FILE}", f"{CONFIG}/{SITE_FILE}"})
_MAY_BE_THERE = frozenset({f"{CONFIG}/", *_SIGNATURES, *(f"{CONFIG}/{name}" for name in _SIGNATURES)})
_MOST_BYTES = 1 << 16
"""Of a job, packed and unpacked; ours have about ten thousand."""
_NOTHING_ELSE = "a job has two files of configuration and nothing else"


def write_job(
    folder: Path, name: str, least: int, controller: tuple[str, Any], executor: tuple[str, Any]
) -> None:
    """The job's folder.

    Args:
        folder: Where to; must not exist.
        name: Name of the job.
        least: Sites without which it does not start.
        controller: Class at the server, and its arguments.
        executor: Class at the sites, and its arguments.
    """
    config = folder / "app" / CONFIG
    config.mkdir(parents=True)
    server: dict[str, Any] = {
        "format_version": 2,
        "server": {"task_request_interval": 0.05},
        "dead_client_grace_period": 10.0,
        "dead_client_check_lead_time": 5.0,
        "workflows": [{"id": "privet", "path": controller[0], "args": controller[1]}],
        "components": [],
    }
    meta = {"name": name, "min_clients": least, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}}
    for path, facts in (
        (folder / "meta.json", meta),
        (config / SERVER_FILE, server),
        (config / SITE_FILE, at_site(*executor)),
    ):
        path.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def at_site(executor: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a site's job process is told.

    Args:
        executor: The class.
        arguments: Its arguments.
    """
    return {
        "format_version": 2,
        "task_check_interval": 0.1,
        "get_task_timeout": _TRANSFER_SECONDS,
        "submit_task_result_timeout": _TRANSFER_SECONDS,
        "executors": [{"tasks": ["*"], "executor": {"path": executor, "args": dict(arguments)}}],
        "components": [],
    }


def packed_fault(data: Any) -> str:
    """Why what came from a server cannot be one of our jobs, judged by its list of contents; empty if it can.

    Nothing is unpacked for it, and an entry that it lets through cannot become larger than it says.

    Args:
        data: The job as it came: an archive.
    """
    if not isinstance(data, bytes) or len(data) > _MOST_BYTES:
        return "a job is a small archive"
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception:  # whatever a parser says of foreign bytes
        return "a job is a small archive"
    names = {entry.filename for entry in entries}
    if len(names) < len(entries) or not _FILES <= names <= _FILES | _MAY_BE_THERE:
        return _NOTHING_ELSE
    if not all(map(_plain, entries)) or sum(entry.file_size for entry in entries) > _MOST_BYTES:
        return "a job is a small archive of plain files"
    return ""


def _plain(entry: ZipInfo) -> bool:
    """Whether it is a file, or a folder by its name, and no link or device."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    fits = kind in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG)
    return fits and entry.compress_type in (ZIP_STORED, ZIP_DEFLATED)


def fault(app: Path, allowed: list[str]) -> str:
    """Why a job that came from a server is not one of ours; empty if it is.

    Args:
        app: The job as it was unpacked at a site.
        allowed: Classes that this site's own file allows.
    """
    found = {path.relative_to(app).as_posix() for path in app.rglob("*") if path.name not in _SIGNATURES}
    if found != {CONFIG, f"{CONFIG}/{SERVER_FILE}", f"{CONFIG}/{SITE_FILE}"}:
        return _NOTHING_ELSE
    try:
        asked = json.loads((app / CONFIG / SITE_FILE).read_text(encoding="utf-8"))
        executor = asked["executors"][0]["executor"]
        path, arguments = executor["path"], executor["args"]
        run = arguments.get("run")
        ours = path in allowed and arguments == ({} if run is None else {"run": checked_name(run)})
        if ours and asked == at_site(path, arguments):
            return ""
    except Exception:
        pass
    return "a site runs the executor that its own file allows, as privet configures it"
