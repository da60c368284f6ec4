"""The calculator: its JSON, the known answers through a file, and every mistake in a file at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.finished_run import finished_run
from typer.testing import CliRunner

from privet.account import AccountError, account, account_for
from privet.cli import app
from privet.errors import PrivetError
from privet.privacy.ledger import reaccount
from privet.privacy.statement import without_guarantee

CASES = json.loads((Path(__file__).parents[1] / "cases" / "accounting.json").read_text())


def written(folder: Path, text: str) -> Path:
    path = folder / "releases.yaml"
    path.write_text(text)
    return path


def about(*releases: dict[str, Any], relation: str = "add-remove", delta: float = 1e-5) -> dict[str, Any]:
    return account_for({"unit": "record", "relation": relation, "delta": delta, "releases": list(releases)})


def test_a_file_as_the_documentation_shows_it(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
unit: record
relation: add-remove
delta: 1e-5    # YAML 1.1 reads this as text; it counts all the same
releases:
  - {kind: gaussian, sigma: 1.0, count: 100, sampling: {kind: poisson, rate: 0.1}}
  - {kind: gaussian, sigma: 20.0}
""",
    )
    found = account(path)
    assert set(found["epsilon"]) == {"exact", "pld", "rdp", "clt"}
    assert found["epsilon"]["exact"] is None
    assert found["headline"] == {"value": found["epsilon"]["pld"], "method": "pld"}
    assert (found["unit"], found["relation"], found["delta"]) == ("record", "add-remove", 1e-5)
    assert found["clt_note"] == "approximation, can under-report"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("case", CASES["single_stage"], ids=lambda c: f"q{c['q']}-s{c['sigma']}-T{c['T']}")
def test_single_stage_cases_through_a_file(case: dict[str, Any], tmp_path: Path) -> None:
    release = {"kind": "gaussian", "sigma": case["sigma"], "count": case["T"]}
    release |= {"sampling": {"kind": "poisson", "rate": case["q"]}} if case["q"] < 1 else {}
    raw = {"unit": "record", "relation": "zero-out", "delta": case["delta"], "releases": [release]}
    found = account(written(tmp_path, yaml.safe_dump(raw)))
    assert found["epsilon"]["pld"] == pytest.approx(case["pld"], rel=1e-3)
    if "mu_gdp" in case:
        assert found["headline"]["method"] == "exact"
        assert found["headline"]["value"] == pytest.approx(case["mu_gdp"], abs=1e-6)


def test_the_other_cases() -> None:
    (two,), (replace,), (fixed,) = (CASES[k] for k in ("two_stage", "replace_one", "fixed_size"))
    stages = about(
        {"kind": "gaussian", "sigma": two["sigma1"], "count": two["E"]},
        {"kind": "gaussian", "sigma": two["sigma2"], "count": two["T"]},
    )
    assert stages["headline"]["value"] == pytest.approx(two["closed"], abs=1e-6)
    assert stages["epsilon"]["rdp"] == pytest.approx(two["rdp"], rel=1e-3)
    swapped = about({"kind": "gaussian", "sigma": replace["sigma"]}, relation="replace_one")
    assert swapped["headline"]["value"] == pytest.approx(replace["epsilon"], abs=1e-6)
    sampling = {"kind": "fixed", "size": fixed["m"], "population": fixed["n"]}
    drawn = about(
        {"kind": "gaussian", "sigma": fixed["sigma"], "count": fixed["T"], "sampling": sampling},
        relation="replace-one",
    )
    assert fixed["attained"] < drawn["headline"]["value"] <= fixed["proved_upper"]


def test_shares_and_cohorts() -> None:
    dropped = about({"kind": "gaussian", "sigma": 8.0, "shares": {"parties": 10, "survivors": 7}})
    assert dropped["headline"] == about({"kind": "gaussian", "sigma": 8.0 * 0.7**0.5})["headline"]
    own = {"parties": 10, "survivors": 7, "subtract_own": True}
    assert (
        about({"kind": "gaussian", "sigma": 8.0, "shares": own})["headline"]["value"]
        > dropped["headline"]["value"]
    )
    apart = about(
        {"kind": "gaussian", "sigma": 2.0, "cohort": "a"}, {"kind": "gaussian", "sigma": 3.0, "cohort": "b"}
    )
    assert apart["headline"] == about({"kind": "gaussian", "sigma": 2.0})["headline"]


def test_a_release_without_noise_makes_epsilon_none() -> None:
    found = about({"kind": "gaussian", "sigma": 2.0}, {"kind": "unprotected", "reason": "exact statistics"})
    assert found["epsilon"] == "none"
    assert found["headline"] == {"value": None, "method": "none"}
    assert "exact statistics" in found["reason"]


def test_every_mistake_is_listed_with_its_path() -> None:
    with pytest.raises(AccountError) as caught:
        account_for(
            {
                "unit": "person",
                "relation": "neighbour",
                "delta": 2,
                "colour": "blue",
                "releases": [
                    {"kind": "gaussian", "sigma": -1.0, "count": 0},
                    {"kind": "laplace", "sigma": 1.0},
                    {"sigma": 1.0},
                    {
                        "kind": "gaussian",
                        "sigma": 1.0,
                        "sampling": {"kind": "fixed", "size": 9, "population": 3},
                    },
                    {"kind": "gaussian", "sigma": float("inf"), "shares": {"parties": 2, "survivors": 3}},
                    {
                        "kind": "gaussian",
                        "sigma": 1.0,
                        "sampling": {"kind": "poisson", "rate": 1.2},
                        "sgima": 2,
                    },
                ],
            }
        )
    assert {problem.path for problem in caught.value.problems} == {
        "unit",
        "relation",
        "delta",
        "colour",
        "releases.0.sigma",
        "releases.0.count",
        "releases.1.kind",
        "releases.2.kind",
        "releases.3.sampling",
        "releases.4.sigma",
        "releases.4.shares",
        "releases.5.sampling.rate",
        "releases.5.sgima",
    }
    assert "13 mistakes" in str(caught.value)


def test_trap_03_shuffling_has_no_kind_and_is_refused_by_name() -> None:
    with pytest.raises(AccountError, match="shuffling is not Poisson sampling"):
        about({"kind": "gaussian", "sigma": 1.0, "sampling": {"kind": "shuffle", "rate": 0.1}})


@pytest.mark.parametrize("missing", ["unit", "relation", "delta", "releases"])
def test_nothing_is_assumed(missing: str) -> None:
    raw = {
        "unit": "record",
        "relation": "zero-out",
        "delta": 1e-5,
        "releases": [{"kind": "gaussian", "sigma": 1}],
    }
    del raw[missing]
    with pytest.raises(AccountError, match=f"{missing}: is missing"):
        account_for(raw)


def test_an_empty_list_and_an_unreadable_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="releases"):
        about()
    with pytest.raises(PrivetError, match="cannot be read"):
        account(tmp_path / "absent.yaml")
    with pytest.raises(PrivetError, match="not valid YAML"):
        account(written(tmp_path, "releases: [1"))


@pytest.mark.parametrize("file", ["dp_event.json", "privacy.json"])
@pytest.mark.parametrize("system", ["hedge", "fedavg"])
def test_a_runs_own_files_are_accounted_again(file: str, system: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", system)
    stored = json.loads((run / "dp_event.json").read_text(encoding="utf-8"))
    found = account(run / file)
    assert found["observers"] == reaccount(stored)["observers"]
    worst = found["observer"].split(",")[0]
    assert found["headline"] == found["observers"][worst]["headline"]
    done = CliRunner().invoke(app, ["account", str(run / file)], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert worst in done.stdout


def test_a_statement_of_a_test_seed_stays_none_when_it_is_accounted_again(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    statement = without_guarantee(json.loads((run / "privacy.json").read_text(encoding="utf-8")), "a reason")
    (run / "privacy.json").write_text(json.dumps(statement), encoding="utf-8")
    assert account(run / "privacy.json")["headline"]["value"] is None


def test_a_damaged_file_of_a_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / "privacy.json"
    path.write_text('{"schema": "privet.privacy/1", "unit": "record"}', encoding="utf-8")
    with pytest.raises(PrivetError, match="is damaged"):
        account(path)
