"""``privet server start`` and ``privet site start``: what is checked before a machine joins, and what it becomes."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import NoReturn

from privet import durable
from privet.deploy.hardening import guarded, narrowed, place_stores
from privet.deploy.project import SECRET_SUFFIXES
from privet.engines.homes import AGREED, FOLDER, RUNS, SITE, ServerHome, SiteHome
from privet.engines.joining import installed
from privet.errors import PrivetError
from privet.sealing.identity import check_mode
from privet.site_policy import refusals

_APP = "nvflare.private.fed.app"
_ANY_RUN = "0" * 64
"""Longer than the name of a run can be."""


def site_home(kit: Path) -> SiteHome:
    """The folder of a site's kit.

    Raises:
        PrivetError: if this is no site's kit.
    """
    certificate = kit / "startup" / "client.crt"
    if not certificate.is_file():
        raise PrivetError(
            "is no site's start-up kit",
            field="--kit",
            given=kit,
            hint="name the folder that `privet deploy init` made for this site",
        )
    return SiteHome(kit / FOLDER, common_name(certificate))


def server_home(kit: Path) -> ServerHome:
    """The folder of the server's kit.

    Raises:
        PrivetError: if this is not the server's kit.
    """
    if not (kit / "startup" / "server.crt").is_file():
        raise PrivetError(
            "is not the server's start-up kit",
            field="--kit",
            given=kit,
            hint="name the folder that `privet deploy init` made for the server",
        )
    return ServerHome(kit / FOLDER)


def common_name(certificate: Path) -> str:
    """The name that a certificate is for."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        (attribute,) = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        raise PrivetError(
            "is no certificate with one name", field=str(certificate), hint="ask for a new kit"
        ) from None
    return str(attribute.value)


def check_path(kit: Path) -> None:
    """Refuse a kit where FLARE, which passes its path on unquoted, would not find it again.

    Raises:
        PrivetError: if a blank, a quote or a backslash is in the path.
    """
    path = str(kit.resolve())
    if any(each.isspace() or each in "\"'\\" for each in path):
        raise PrivetError(
            "FLARE takes no blank, quote or backslash in a kit's path",
            field="--kit",
            given=path,
            hint="move the kit, with its files' modes: mv keeps them",
        )


def check_secret_files(kit: Path) -> None:
    """Refuse keys that others on this machine can read.

    Raises:
        PrivetError: naming the first one.
    """
    for path in sorted(kit.rglob("*")):
        if path.suffix in SECRET_SUFFIXES and path.name != "rootCA.pem" and path.is_file():
            check_mode(path, stat.S_IMODE(path.stat().st_mode), otherwise="ask for a new kit")


def prepare_site(kit: Path, data: Path | None) -> list[str]:
    """Check everything that can be checked before the server is asked, and tell what was found.

    Args:
        kit: The site's kit.
        data: The site's records; written into ``site.yaml`` for this and later starts.

    Raises:
        PrivetError: for the first thing that is not in order.
    """
    home = site_home(kit)
    check_path(kit)
    check_secret_files(kit)
    if data is not None:
        _set_data(home.path / SITE, data)
    settings, facts = home.settings, home.consortium
    if settings.data is None:
        raise PrivetError(
            "names no data", field=str(home.path / SITE), hint="privet site start --kit DIR --data FILE"
        )
    roster, party = home.roster()
    found = [
        f"site {home.name} of {facts.name}, number {party} of {roster.size} in the roster",
        f"server {facts.server}:{facts.port}",
        f"data {settings.data}: {_records(Path(settings.data))} lines",
    ]
    ledger = home.ledger.summary()
    allowed = "no limit" if ledger["allowed"] is None else f"epsilon {ledger['allowed']:g}"
    found.append(
        f"limit: {allowed}, delta {ledger['delta']:g}, unit {ledger['unit']}; {len(home.ledger.runs())} runs so far"
    )
    if (home.path / AGREED).exists():
        found += _check_agreed(home, roster.size)
    found.append("versions " + ", ".join(f"{name} {number}" for name, number in installed().items()))
    (home.path / RUNS).mkdir(mode=0o700, exist_ok=True)
    return found


def _check_agreed(home: SiteHome, parties: int) -> list[str]:
    """Whether this site could take part in the agreed run: its policy, its data, and its base model.

    Raises:
        PrivetError: for the first thing that is not in order.
    """
    from privet.config import load
    from privet.data.load import load as load_data
    from privet.engines.party import at_site
    from privet.models import resolve as find_model
    from privet.reading import Reading
    from privet.resolve import resolve
    from privet.sealing.base import SealingRefused

    path = home.path / AGREED
    asked = load(path)
    # Any dimension does: no limit of a policy depends on it.
    resolved = resolve(asked, dimension=1024, parties=parties)
    broken = refusals(home.settings.policy, resolved)
    if broken:
        raise PrivetError(
            "this site's policy refuses the agreed run",
            field=str(path),
            given="; ".join(each.detail for each in broken),
            hint=f"change the run, or this site's limits in {home.path / SITE}",
        )
    try:
        config = at_site(asked, home.settings)
        Reading.of(asked.data).check(home.settings.policy)
    except SealingRefused as refused:
        raise PrivetError(
            refused.detail,
            field=str(path),
            given=refused.reason,
            hint=f"look at it, then: privet site approve --kit {home.path.parent}"
            if refused.reason == "policy-reading"
            else None,
        ) from None
    found = [*load_data(config.data).report.lines(), f"base model {find_model(config.model)}"]
    try:
        home.ledger.open(_ANY_RUN, resolved)
    except SealingRefused as refused:
        # Not a mistake: the run may be under way, and this site be started again.
        found.append(f"a new run of the agreed configuration would be refused: {refused.detail}")
    return found


def prepare_server(kit: Path) -> list[str]:
    """Check the server's kit and tell what was found.

    Raises:
        PrivetError: for the first thing that is not in order.
    """
    home = server_home(kit)
    check_path(kit)
    check_secret_files(kit)
    facts, roster = home.consortium, home.roster()
    if home.identity.public_key.hex() != facts.server_key:
        raise PrivetError(
            "the key in this kit is not the consortium's server's",
            field=str(kit),
            given=home.identity.public_key.hex()[:16],
            allowed=facts.server_key[:16],
            hint="bring the server's kit as `privet deploy init` made it",
        )
    return [
        f"server of {facts.name} at {facts.server}:{facts.port}",
        f"roster of {roster.size} sites, signed by all: " + ", ".join(m.name for m in roster.members),
        "versions " + ", ".join(f"{name} {number}" for name, number in installed().items()),
    ]


def command(kit: Path) -> list[str]:
    """FLARE's process for a kit."""
    if (kit / "startup" / "server.crt").is_file():
        python, *arguments = _command(kit, "server.server_train", "fed_server.json", "org=server")
        return [python, *guarded(arguments)]
    name = common_name(kit / "startup" / "client.crt")
    settings = (f"uid={name}", f"org={name.replace('-', '_')}")
    python, *arguments = _command(kit, "client.client_train", "fed_client.json", *settings)
    return [python, *narrowed(arguments)]


def become(kit: Path) -> NoReturn:
    """Replace this process by FLARE's, in the kit's folder; signals and exit code are its own then."""
    kit = kit.resolve()
    arguments = command(kit)
    if (kit / "startup" / "server.crt").is_file():
        place_stores(kit)
    os.chdir(kit)
    (kit / "transfer").mkdir(exist_ok=True)
    os.umask(0o077)
    os.execv(arguments[0], arguments)


def _command(kit: Path, program: str, configuration: str, *settings: str) -> list[str]:
    return [
        *(sys.executable, "-u", "-m", f"{_APP}.{program}", "-m", str(kit.resolve()), "-s", configuration),
        *("--set", "secure_train=true", *settings, "config_folder=config"),
    ]


def _set_data(path: Path, data: Path) -> None:
    """Set one key of ``site.yaml`` and keep the file's comments."""
    line = "data: " + json.dumps(str(data.resolve()))  # JSON text is YAML text
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise PrivetError("is not UTF-8 text", field=str(path), hint="write it anew") from None
    kept = [line if each.startswith("data:") else each for each in lines]
    if line not in kept:
        kept.append(line)
    durable.replace(path, "\n".join(kept) + "\n")


def _records(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    except OSError as error:
        raise PrivetError("cannot be read", field="data", given=f"{path}: {error.strerror}") from None
