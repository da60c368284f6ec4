"""What a start-up kit holds besides the engine's own files: its folder ``privet/``, at a site and at the server.

consortium.json   both     who takes part, and the server's public signing key
roster.json       both     the sites' keys, signed by every site
site.yaml         site     data, model and the site's limits; only the site writes it
agreed.yaml       both     the configuration that the kits came with, if there was one
approved/         site     how runs may read the site's rows, as its operator saw it
keys/             site     the site's signing key (0700, 0600); made by the site, never sent
ledger/           site     what the site's records were used for (0700, 0600)
runs/             both     a site's secrets of each run (0700, 0600); at the server the runs' folders
keys/             server   the server's signing key; it signs questions and is in no roster
submitted/ status/ server  configurations as submitted, and where each run stands
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from privet import durable
from privet.config import Section, read_yaml
from privet.errors import PrivetError
from privet.keys import SecretStore
from privet.sealing.enrolment import read_roster
from privet.sealing.identity import PUBLIC_KEY_BYTES, Identity
from privet.sealing.roster import Roster, read_hex
from privet.site_ledger import SiteLedger
from privet.site_policy import SitePolicy

FOLDER = "privet"
CONSORTIUM, ROSTER, SITE, AGREED = "consortium.json", "roster.json", "site.yaml", "agreed.yaml"
KEYS, LEDGER, RUNS, SUBMITTED, STATUS = "keys", "ledger", "runs", "submitted", "status"


@dataclass(frozen=True)
class Consortium:
    """Public facts that every kit holds.

    Attributes:
        name: Name of the group, the same as in the roster.
        server: Host name of the server, as its certificate says.
        server_key: The server's Ed25519 public key, in hex.
        sites: Names of the sites; a site's name is that of its certificate and in the roster.
        port: Port that sites and operators connect to.
    """

    name: str
    server: str
    server_key: str
    sites: tuple[str, ...]
    port: int

    @classmethod
    def read(cls, home: Path) -> Consortium:
        """The facts in a kit's folder.

        Raises:
            PrivetError: if they are missing or damaged.
        """
        path = home / CONSORTIUM
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            found = cls(**{**facts, "sites": tuple(facts["sites"])})
            read_hex(found.server_key, PUBLIC_KEY_BYTES, "server_key")
        except (OSError, ValueError, TypeError, KeyError):
            raise PrivetError(
                "is no start-up kit of privet",
                field=str(home.parent),
                hint="name the folder that `privet deploy init` made for this machine with --kit",
            ) from None
        return found

    def write(self, home: Path) -> None:
        """Write the facts into a kit's folder."""
        text = json.dumps({**asdict(self), "sites": list(self.sites)}, indent=2)
        (home / CONSORTIUM).write_text(text + "\n", encoding="utf-8")


class SiteSettings(Section):
    """A site's own file: its data and its limits. Nothing that a server sends changes it."""

    data: str | None = Field(
        None, description="File with this site's records; `privet site start --data` goes before."
    )
    model: str | None = Field(
        None, description="Where the base model is here, if not under the name that the run gives it."
    )
    threads: int | None = Field(None, ge=1, description="Torch threads; all cores when absent.")
    cache_mebibytes: int = Field(2048, ge=0, description="Memory for what the frozen layers compute.")
    policy: SitePolicy = Field(default_factory=SitePolicy, description="What runs may ask of this site.")


@dataclass(frozen=True)
class SiteHome:
    """The folder ``privet/`` of a site's kit.

    Attributes:
        path: The folder.
        name: The site's name in certificate and roster.
    """

    path: Path
    name: str

    @property
    def consortium(self) -> Consortium:
        """Who takes part."""
        return Consortium.read(self.path)

    @property
    def settings(self) -> SiteSettings:
        """The site's own file.

        Raises:
            PrivetError: if it is missing or says what is not understood.
        """
        path = self.path / SITE
        try:
            return SiteSettings.model_validate(read_yaml(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PrivetError(
                f"{where}: {first['msg']}", field=str(path), hint="docs/deploy.md lists every key"
            ) from None

    @property
    def identity(self) -> Identity:
        """The site's signing key."""
        return Identity.load(self.path / KEYS)

    @property
    def ledger(self) -> SiteLedger:
        """What the site's records were used for."""
        return SiteLedger(SecretStore(self.path / LEDGER), self.settings.policy, self.path / RUNS)

    def roster(self) -> tuple[Roster, int]:
        """The roster that this site accepts, and its party number.

        Raises:
            PrivetError: if a member has not signed it, or it does not have this site under this name and key.
        """
        roster = read_roster(self.path / ROSTER)
        party = roster.accept(self.identity.public_key)
        if roster.members[party].name != self.name:
            raise PrivetError(
                "this site's key stands in the roster under another name",
                field=str(self.path / ROSTER),
                given=roster.members[party].name,
                allowed=self.name,
                hint="a site's name in the roster is the one in its kit",
            )
        return roster, party

    def run_folder(self, run: str) -> Path:
        """Where the site's secrets of a run lie, for a name that was checked."""
        runs = self.path / RUNS
        runs.mkdir(mode=0o700, exist_ok=True)
        return runs / run


@dataclass(frozen=True)
class ServerHome:
    """The folder ``privet/`` of the server's kit."""

    path: Path

    @property
    def consortium(self) -> Consortium:
        """Who takes part."""
        return Consortium.read(self.path)

    @property
    def identity(self) -> Identity:
        """The key that the server signs its questions with."""
        return Identity.load(self.path / KEYS)

    def roster(self) -> Roster:
        """The roster with every member's signature.

        Raises:
            PrivetError: if a signature is missing or its members are not the consortium's sites.
        """
        roster = read_roster(self.path / ROSTER)
        if roster.unsigned_by():
            raise PrivetError(
                "not every member has signed this roster",
                field=str(self.path / ROSTER),
                hint="collect the signatures with `privet keys merge`",
            )
        names = tuple(member.name for member in roster.members)
        if sorted(names) != sorted(self.consortium.sites):
            raise PrivetError(
                "the roster's members are not the consortium's sites",
                field=str(self.path / ROSTER),
                given=", ".join(names),
                allowed=", ".join(self.consortium.sites),
                hint="a site's name in the roster is the one in its kit",
            )
        return roster

    def run_folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.path / RUNS / run

    def submitted(self, run: str) -> Path:
        """The configuration of a run as it was submitted."""
        return self.path / SUBMITTED / f"{run}.yaml"

    def status(self, run: str) -> dict[str, Any]:
        """Where a run stands, as its job last told; empty for one that never began."""
        return _read(self.path / STATUS / f"{run}.json")

    def tell(self, run: str, facts: Mapping[str, Any]) -> None:
        """Bring the status of a run up to date, atomically; only its job does."""
        _update(self.path / STATUS / f"{run}.json", facts)

    def orders(self, run: str) -> dict[str, Any]:
        """What the operator wants of a run: its job's id (``job``), and whether it is to ``stop`` or ``rejoin``."""
        return _read(self.path / STATUS / f"{run}.orders.json")

    def order(self, run: str, facts: Mapping[str, Any]) -> None:
        """Bring the orders of a run up to date, atomically; only the operator's commands do."""
        _update(self.path / STATUS / f"{run}.orders.json", facts)

    def runs(self) -> list[str]:
        """Names of all submitted runs, oldest first."""
        files = sorted((self.path / SUBMITTED).glob("*.yaml"), key=lambda path: path.stat().st_mtime)
        return [path.stem for path in files]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _update(path: Path, facts: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    durable.replace(path, json.dumps({**_read(path), **facts}, indent=2) + "\n")


def site_template() -> str:
    """The text of a new ``site.yaml``, with every key and what it means."""
    lines = [
        "# This site's data and limits. A run that asks for more is refused; only this site writes this file."
    ]

    def entries(section: type[Section], values: Mapping[str, Any], indent: str) -> None:
        for name, info in section.model_fields.items():
            lines.append(f"{indent}# {' '.join((info.description or '').split())}")
            if name == "policy":
                lines.append("policy:")
                entries(SitePolicy, values[name], "  ")
            else:
                lines.append(f"{indent}{name}: {_flow(values[name])}")

    entries(SiteSettings, SiteSettings().model_dump(mode="json"), "")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
