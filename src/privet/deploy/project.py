"""``privet deploy init``: one start-up kit for the server and one for each site, hardened, out of a list of sites.

    PROJECT/kits/server/          for the server's machine, with the operator's kit in operator/
    PROJECT/kits/SITE/            for one site
    PROJECT/authority/            the project's certificate authority; secret, belongs offline once kits are made

A kit holds the private key of its TLS certificate, which is made here: hand it over like a password. The keys that seal
contributions are not in it; each site makes its own (`privet keys init`), so neither this machine nor the server can
take part as a site.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from privet.config import Config, Section, read_yaml
from privet.config_problems import problems_of_fields
from privet.deploy.hardening import harden_operator, harden_server, harden_site, take_out
from privet.engines.homes import AGREED, FOLDER, KEYS, SITE, Consortium, site_template
from privet.errors import PrivetError
from privet.resolve import trust_model
from privet.sealing.base import FEWEST_PARTIES, check_cohort
from privet.sealing.identity import Identity

SERVER_KIT, OPERATOR_KIT, OPERATOR = "server", "operator", "operator@privet.local"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
SECRET_SUFFIXES = (".key", ".pem")
AUTHORITY_KEY = "cert.json"
_EXAMPLE = "docs/deploy.md has an example"
FEW_SITES = (
    f"fewer than {FEWEST_PARTIES} sites: no seal hides a contribution among them (with two, each learns the other's "
    "from the sum), so only `sealing: {kind: none}` runs, and a site's own policy refuses that unless it is changed"
)


class Project(Section):
    """What ``privet deploy init`` needs to know."""

    name: str = Field("consortium", description="Name of the consortium, as in the roster.")
    server: str = Field(description="Host name that sites reach the server by.")
    sites: tuple[str, ...] = Field(min_length=2, description="Names of the sites.")
    port: int = Field(8002, gt=0, le=65535, description="Port of the server that sites connect to.")
    admin_port: int = Field(
        8003, gt=0, le=65535, description="Port for the operator, on the server itself only."
    )
    valid_days: int = Field(360, ge=1, le=3650, description="Days until the certificates end.")


def read_project(path: Path) -> Project:
    """A project out of a YAML file.

    Raises:
        PrivetError: for what is missing or not understood.
    """
    return checked(read_raw(path), str(path))


def read_raw(path: Path) -> dict[str, Any]:
    """The keys in a project's file, which may lack what is asked for or given otherwise.

    Raises:
        PrivetError: if it cannot be read or has none.
    """
    return read_yaml(path, hint=_EXAMPLE)


def check_agreed(config: Config, sites: int) -> None:
    """Refuse a configuration that these sites could never run.

    Raises:
        PrivetError: if the seal hides nothing among so few, or more survivors or colluders are counted on than there
            are sites.
    """
    trust = trust_model(config, sites)
    check_cohort(config.sealing.kind, sites, trust.min_survivors)


def checked(raw: dict[str, Any], where: str) -> Project:
    """A project out of its parts.

    Raises:
        PrivetError: for what is missing or not understood, and for names that cannot name folders and certificates.
    """
    try:
        project = Project.model_validate(raw)
    except ValidationError as error:
        first = problems_of_fields(error, Project)[0]
        raise PrivetError(
            first.message,
            field=f"{where}: {first.path}",
            given=first.given,
            allowed=first.allowed,
            hint=_EXAMPLE,
        ) from None
    for name in (project.name, *project.sites):
        if not _NAME.fullmatch(name) or name in {SERVER_KIT, "authority"}:
            raise PrivetError(
                "cannot name a site or a consortium",
                field=where,
                given=ascii(name[:60]),
                allowed="1 to 40 of a-z 0-9 and -, with a letter or digit at both ends",
            )
    if len(set(project.sites)) != len(project.sites):
        raise PrivetError("two sites have the same name", field=where, given=", ".join(project.sites))
    if not _HOST.fullmatch(project.server):
        raise PrivetError("is no host name", field=f"{where}: server", given=ascii(project.server[:60]))
    if project.port == project.admin_port:
        raise PrivetError("the two ports must differ", field=where, given=project.port)
    return project


@dataclass(frozen=True)
class Kits:
    """Where the kits are."""

    server: Path
    sites: dict[str, Path]
    authority: Path


def make_project(project: Project, out: Path, agreed: str | None = None) -> Kits:
    """Provision, harden, and lay out the kits.

    Args:
        project: Who takes part.
        out: New or empty folder.
        agreed: Text of the configuration that the members agreed on, for sites to check their data against.

    Raises:
        PrivetError: if something is there, or FLARE is not installed or cannot provision.
    """
    if out.exists() and any(out.iterdir()):
        raise PrivetError("is not empty", field="DIR", given=out, hint="name a new folder")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    out.chmod(0o700)
    made = _provision(project, out / "authority")
    kits = Kits(
        out / "kits" / SERVER_KIT, {name: out / "kits" / name for name in project.sites}, out / "authority"
    )
    (out / "kits").mkdir(mode=0o700)
    shutil.move(made / project.server, kits.server)
    shutil.move(made / OPERATOR, kits.server / OPERATOR_KIT)
    harden_server(kits.server, admin_port=project.admin_port)
    harden_operator(kits.server / OPERATOR_KIT, host="localhost", port=project.admin_port)
    home = kits.server / FOLDER
    home.mkdir(mode=0o700)
    key = Identity.create(home / KEYS)
    facts = Consortium(project.name, project.server, key.public_key.hex(), project.sites, project.port)
    facts.write(home)
    for name, kit in kits.sites.items():
        shutil.move(made / name, kit)
        harden_site(kit)
        (kit / FOLDER).mkdir(mode=0o700)
        facts.write(kit / FOLDER)
        (kit / FOLDER / SITE).write_text(site_template(), encoding="utf-8")
    if agreed is not None:
        for kit in (kits.server, *kits.sites.values()):
            (kit / FOLDER / AGREED).write_text(agreed, encoding="utf-8")
    shutil.rmtree(made)
    for kit in (kits.server, *kits.sites.values()):
        take_out(kit)
    _close([kits.server, *kits.sites.values(), kits.authority])
    return kits


def _provision(project: Project, workspace: Path) -> Path:
    """FLARE's own provisioning; returns the folder with the packages."""
    workspace.mkdir(mode=0o700)
    lighter = "nvflare.lighter.impl"
    participants: list[dict[str, Any]] = [
        {
            "name": project.server,
            "type": "server",
            "org": "server",
            "fed_learn_port": project.port,
            "admin_port": project.admin_port,
            # The operator's port is on the loopback, so the certificate must hold for it too.
            "host_names": sorted({"localhost", "127.0.0.1"} - {project.server}),
        },
        *({"name": name, "type": "client", "org": name.replace("-", "_")} for name in project.sites),
        {"name": OPERATOR, "type": "admin", "org": "server", "role": "lead"},
    ]
    description = {
        "api_version": 3,
        "name": project.name,
        "description": "made by privet deploy init",
        "participants": participants,
        "builders": [
            {
                "path": f"{lighter}.workspace.WorkspaceBuilder",
                "args": {"template_file": ["master_template.yml"]},
            },
            {
                "path": f"{lighter}.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc"},
            },
            {"path": f"{lighter}.cert.CertBuilder", "args": {}},
            {"path": f"{lighter}.signature.SignatureBuilder", "args": {}},
        ],
    }
    path = workspace / "project.yml"
    path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "nvflare.cli", "provision", "-p", str(path), "-w", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    made = workspace / project.name / "prod_00"
    if done.returncode or not made.is_dir():
        missing = "No module named 'nvflare'" in done.stderr
        raise PrivetError(
            "NVIDIA FLARE is not installed" if missing else "NVIDIA FLARE could not make the kits",
            field="deploy init",
            given="; ".join((done.stdout + done.stderr).strip().splitlines()[-3:])[:400],
            hint="pip install 'privet[distributed]'" if missing else "see its message",
        )
    return made


def _close(folders: Iterable[Path]) -> None:
    """Keys are for their owner's eyes, whatever the umask was; FLARE keeps the authority's in a JSON file."""
    for folder in folders:
        folder.chmod(0o700)
        for path in folder.rglob("*"):
            if path.is_file() and (path.suffix in SECRET_SUFFIXES or path.name == AUTHORITY_KEY):
                path.chmod(0o600)
