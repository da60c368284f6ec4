"""``privet site approve``: a site's operator looks at how a run reads the site's rows, and allows it from now on."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from pydantic import ValidationError

from privet import durable
from privet.config import load
from privet.deploy.starting import site_home
from privet.engines.homes import AGREED, SITE, SiteHome, SiteSettings
from privet.errors import PrivetError
from privet.reading import Reading
from privet.sealing.base import SealingRefused

APPROVED = "approved"
_KEY = "  readings:"


def reading_of(kit: Path, config: Path | None) -> Reading:
    """How a configuration reads the rows of a site; the agreed one that came with the kit when none is named.

    Raises:
        PrivetError: if there is none, or no site could follow it.
    """
    path = config or site_home(kit).path / AGREED
    if not path.exists():
        raise PrivetError("there is no configuration to approve", field=str(path), hint="name it: CONFIG")
    try:
        return Reading.of(load(path).data)
    except SealingRefused as refused:
        raise PrivetError(refused.detail, field=str(path), given=refused.reason) from None


def approve(kit: Path, reading: Reading) -> bool:
    """Add a reading to the site's policy file, and keep its text beside it; returns whether it was new.

    Raises:
        PrivetError: if the file has another form than ours, so that it has to be edited by hand.
    """
    home = site_home(kit)
    folder = home.path / APPROVED
    folder.mkdir(mode=0o700, exist_ok=True)
    text = "\n".join(f"# {line}" for line in (reading.lines()[0], reading.lines()[-1])) + "\n"
    text += yaml.safe_dump(dict(reading.section), sort_keys=False, allow_unicode=True)
    (folder / f"{reading.fingerprint[:12]}.yaml").write_text(text, encoding="utf-8")
    before = home.settings.policy.readings
    if reading.fingerprint in before:
        return False
    _write(home, (*before, reading.fingerprint))
    return True


def _write(home: SiteHome, readings: tuple[str, ...]) -> None:
    path = home.path / SITE
    line = f"{_KEY} {json.dumps(list(readings))}"
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line if each.startswith(_KEY) else each for each in lines) + "\n"
    try:
        written = SiteSettings.model_validate(yaml.safe_load(text)).policy.readings == readings
    except (ValidationError, yaml.YAMLError):
        written = False
    if not written:
        raise PrivetError(
            "cannot be edited: it is not in the form that `privet deploy init` wrote",
            field=str(path),
            hint=f"write under `policy:` by hand: readings: {json.dumps(list(readings))}",
        )
    durable.replace(path, text)
