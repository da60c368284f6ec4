"""``privet doctor``: finds what works, and says how to mend what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet import doctor
from privet.cli import app
from privet.doctor import Finding, examine, healthy

SLOW = {"packages"}  # imports everything that is installed; one test does


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", tuple(check for check in doctor.CHECKS if check[0] not in SLOW))


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_this_machine_is_healthy(quick: None) -> None:
    told: list[str] = []
    found = by_name(examine(told.append))
    assert healthy(found.values()), [f for f in found.values() if f.status == "failed"]
    assert told == [name for name, _ in doctor.CHECKS]
    assert "NIST" in found["AES-256-CTR"].detail
    assert "opened exactly" in found["BFV encryption"].detail
    assert "loss" in found["training step"].detail
    assert "cores" in found["processor"].detail
    assert "GB free" in found["disk of the cache"].detail


def test_required_packages_are_imported_with_their_versions() -> None:
    found = by_name(
        [doctor._imported(package, module, needed=True) for package, module in doctor.REQUIRED.items()]
    )
    assert all(finding.status == "ok" for finding in found.values())
    assert found["numpy"].detail[0].isdigit()


def test_what_is_not_installed_is_named_with_its_mend() -> None:
    finding = doctor._imported("no-such-package-of-ours", "no_such_module", needed=True)
    assert (finding.status, finding.detail) == ("failed", "not installed")
    assert "pip install no-such-package-of-ours" in finding.mend


def test_a_package_that_cannot_be_imported_fails_with_its_reason() -> None:
    finding = doctor._imported("numpy", "numpy.no_such_module", needed=True)
    assert finding.status == "failed"
    assert "cannot be imported" in finding.detail
    assert "--force-reinstall numpy==" in finding.mend


def test_a_wrong_keystream_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "AES_BLOCKS", (doctor.AES_BLOCKS[0], "00" * 16))
    assert doctor._keystream()[0].status == "failed"


def test_a_wrong_encrypted_sum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import tenseal

    class Broken:
        def __init__(self, context: Any, values: list[int]) -> None:
            self.values = values

        def __add__(self, other: Broken) -> Broken:
            return self

        def decrypt(self) -> list[int]:
            return self.values

    monkeypatch.setattr(tenseal, "bfv_vector", Broken)
    found = doctor._encryption()[0]
    assert found.status == "failed"
    assert "masked" in found.mend


def test_a_wrong_accountant_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "KNOWN_EPSILON", 4.0)
    assert doctor._accountant()[0].status == "failed"


def test_one_check_that_breaks_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("libseal.so: cannot open\nmore")

    monkeypatch.setattr(doctor, "CHECKS", (("first", broken), ("python", doctor._python)))
    first, second = examine()
    assert (first.status, first.detail) == ("failed", "RuntimeError: libseal.so: cannot open")
    assert second.status == "ok"


def test_a_small_disk_and_an_empty_cache_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRIVET_CACHE", str(tmp_path / "cache"))
    assert doctor._cache()[0].status == "warning"
    assert "privet fetch" in doctor._cache()[0].mend
    monkeypatch.setattr(doctor, "COMFORTABLE_DISK", 10**18)
    assert doctor._disk()[0].status == "warning"
    monkeypatch.setattr(doctor, "NEEDED_DISK", 10**18)
    assert doctor._disk()[0].status == "failed"
    assert "PRIVET_CACHE" in doctor._disk()[0].mend


def test_the_verb_exits_with_1_if_something_needed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [
        Finding("tenseal", "failed", "not installed", "pip install tenseal"),
        Finding("disk", "warning", "small"),
    ]
    monkeypatch.setattr(doctor, "CHECKS", (("x", lambda: bad),))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "→ pip install tenseal" in done.stdout
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["healthy"] is False
    monkeypatch.setattr(doctor, "CHECKS", (("x", lambda: bad[1:]),))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
