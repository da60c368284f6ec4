"""What the server does when things go wrong in a round: budget, empty rounds, NaN, too few clients."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy import DIMENSION, config, examples, federation, split
from support.toy_runs import adapter, gatherer, material

import privet.cast
import privet.runs
from privet.config import SHARED_ARITHMETIC, Dropout, to_yaml
from privet.errors import PrivetError
from privet.federation import Federation
from privet.not_covered import (
    DEALT_OUT,
    NEAR_DUPLICATES,
)
from privet.privacy.events import AnyRelease
from privet.privacy.ledger import reaccount
from privet.protocol import Ask, Replies, RoundId
from privet.resolve import resolve

PARTS = split(examples(80), 4)


def started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gather: Any = None, **sections: Any
) -> dict[str, Any]:
    asked = config(**sections)
    monkeypatch.setattr(privet.cast, "gather", gather or gatherer(4))
    return privet.runs.start(asked, to_yaml(asked), tmp_path / "run")


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]


def test_trap_05_an_empty_round_releases_noise_and_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No silo draws a single record; who looks must not see that."""
    started(tmp_path, monkeypatch, schedule={"sampling_rate": 1e-9, "expected_batch": 1.0})
    seen = rows(tmp_path)
    assert [row["simulated"]["sampled"] for row in seen] == [[0, 0, 0, 0]] * 4
    assert all(row["direction_norm"] > 0.5 for row in seen)
    assert all(row["survivors"] == [0, 1, 2, 3] for row in seen)
    low, high = seen[0]["simulated"]["interval"]
    assert low < seen[0]["simulated"]["noise_std_measured"] < high
    events = json.loads((tmp_path / "run" / "dp_event.json").read_text())["events"]
    assert events[0]["count"] == 4


@pytest.mark.parametrize("system", ["hedge", "dp_lora", "fedavg"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_trap_08_records_that_are_not_finite_are_zero_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, value: float
) -> None:
    """One silo's records spoil every gradient they touch; the run ends as if it had none, with a finite adapter."""
    spoiled = [replace(e, x=np.full(DIMENSION, value, np.float32)) for e in PARTS[3]]
    sections: dict[str, Any] = {"system": {"kind": system}, "schedule": {"sampling_rate": 1.0}}
    if system == "fedavg":
        sections |= {"privacy": None, "schedule": {"local": {"learning_rate": 0.01}}}
    with np.errstate(all="ignore"):
        result = started(tmp_path, monkeypatch, lambda c, o: material([*PARTS[:3], spoiled]), **sections)
    counted = [row["simulated"]["zeroed_nonfinite"] for row in rows(tmp_path)]
    assert counted == [1 if system == "fedavg" else len(spoiled)] * 4
    flat = np.frombuffer(adapter(tmp_path / "run")[-4 * DIMENSION :], np.float32)
    assert np.isfinite(flat).all()
    assert np.abs(flat).max() > 0
    assert result["stopped"] is None


def test_a_run_that_diverges_ends_without_a_stack_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.errstate(all="ignore"):
        result = started(
            tmp_path,
            monkeypatch,
            system={"kind": "fedavg"},
            privacy=None,
            schedule={"server": {"kind": "average", "learning_rate": 1e38}},
        )
    assert result["after"]["nll"] is None
    assert json.loads((tmp_path / "run" / "result.json").read_text())["after"]["nll"] is None


def test_a_run_that_diverges_under_encryption_stops_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody makes a state of what is not finite, so nobody goes on with it, and no site is charged for it."""
    with np.errstate(all="ignore"):
        result = started(
            tmp_path,
            monkeypatch,
            system={"kind": "fedavg"},
            privacy=None,
            sealing={"kind": "encrypted"},
            schedule={"server": {"kind": "average", "learning_rate": 1e60}},
        )
    assert result["rounds"] == 0
    assert result["stopped"].count("refused: not-finite") == 4, "every survivor was asked and says so"


def test_a_run_with_a_test_seed_has_no_epsilon_in_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can its events be accounted again to one: they say themselves that nothing covers them."""
    result = started(tmp_path, monkeypatch)
    statement = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert (statement["epsilon"], statement["diagnostic"]["epsilon"]) == ("none", None)
    assert all(row["value"] is None for row in result["epsilon"])
    stored = json.loads((tmp_path / "run" / "dp_event.json").read_text())
    assert {row["epsilon"] for row in reaccount(stored)["observers"].values()} == {"none"}
    del stored["no_guarantee"]
    assert all(row["epsilon"] != "none" for row in reaccount(stored)["observers"].values())


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({}, False),
        ({"engine": {"deterministic_units": False}}, True),
        ({"privacy": {"unit": "client", "relation": "zero-out"}}, False),
        ({"system": {"kind": "dp_lora"}, "engine": {"deterministic_units": False}}, True),
    ],
)
def test_where_records_share_the_arithmetic_of_a_micro_batch_there_is_no_epsilon(
    sections: dict[str, Any], named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensitivity counts a record's own gradient, not what its company does to the last bits of others'."""
    started(tmp_path, monkeypatch, insecure_test_seed=None, **sections)
    statement = json.loads((tmp_path / "run" / "privacy.json").read_text())
    stored = json.loads((tmp_path / "run" / "dp_event.json").read_text())
    assert (statement["epsilon"] == "none") == named
    assert (statement.get("reason") == SHARED_ARITHMETIC) == named
    assert ({row["epsilon"] == "none" for row in reaccount(stored)["observers"].values()}) == {named}


@pytest.mark.parametrize("diagnostics", [True, False])
def test_counts_of_a_simulations_private_records_can_be_left_out(
    diagnostics: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(config: Any, observe: Any) -> Any:
        return replace(material(PARTS), notes=["training: 61 records in 4 silos"])

    result = started(tmp_path, monkeypatch, gather, engine={"diagnostics": diagnostics})
    written = (tmp_path / "run" / "result.json").read_text() + (tmp_path / "run" / "rounds.jsonl").read_text()
    assert ("61 records" in written, "sampled" in written) == (diagnostics, diagnostics)
    assert (result["notes"] != []) == diagnostics


DEALT: dict[str, Any] = {"partition": {"kind": "iid", "silos": 4}, "remove_near_duplicates": False}
ALONE: dict[str, Any] = {"system": {"kind": "dp_lora"}}
GROUPS: dict[str, Any] = {"domains": ["nyt"], "partition": {"kind": "group", "minimum_records": 2}}


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({}, {NEAR_DUPLICATES}),
        ({"data": {"remove_near_duplicates": False}}, set()),
        ({"data": DEALT}, {DEALT_OUT}),  # a participant knows which records it was dealt
        ({"data": DEALT, **ALONE}, {DEALT_OUT}),
        ({"data": DEALT, "sealing": {"kind": "encrypted"}}, {DEALT_OUT}),
        ({"data": DEALT, **ALONE, "privacy": {"unit": "client", "relation": "zero-out"}}, set()),
        ({"data": GROUPS}, {DEALT_OUT, NEAR_DUPLICATES}),
        ({"system": {"kind": "fedavg"}, "privacy": None}, set()),
    ],
)
def test_the_statement_says_where_records_decided_about_each_other_before_the_run(
    sections: dict[str, Any], named: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(tmp_path, monkeypatch, **sections)
    said = json.loads((tmp_path / "run" / "privacy.json").read_text())["not_covered"]
    assert {NEAR_DUPLICATES, DEALT_OUT} & set(said) == named


def test_records_dealt_to_one_client_move_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {**DEALT, "partition": {"kind": "iid", "silos": 1}}
    started(tmp_path, monkeypatch, gatherer(1), data=one, sealing={"kind": "none"}, **ALONE)
    assert DEALT_OUT not in json.loads((tmp_path / "run" / "privacy.json").read_text())["not_covered"]


@pytest.mark.parametrize("affordable", [0, 2])
def test_a_budget_stops_the_run_before_the_release(
    affordable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter of the rounds that fitted is saved, the reason told; a resumed run spends no more."""
    real: dict[str, Any] = {"insecure_test_seed": None, "schedule": {"rounds": 5}}
    costs = []
    for rounds in (1, 2, 3):
        resolved = resolve(config(**real), dimension=DIMENSION, parties=4)
        ledger = resolved.ledger()
        ledger.charge(resolved.system.release.times(rounds))  # type: ignore[union-attr]  # hedge has a guarantee
        costs.append(ledger.epsilon().value)
    budget = (costs[1] + costs[2]) / 2 if affordable else costs[0] / 2
    result = started(tmp_path, monkeypatch, **real, privacy={"max_epsilon": budget})
    assert result["stopped"] == "the next release would exceed the privacy budget"
    assert result["rounds"] == affordable
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["stopped"] == result["stopped"]
    assert (tmp_path / "run" / "adapter").is_dir()
    events = json.loads((tmp_path / "run" / "dp_event.json").read_text())["events"]
    assert sum(event["count"] for event in events) == affordable
    worst = max((row["value"] or 0) for row in result["epsilon"] if row["observer"] != "colluders")
    assert worst == (pytest.approx(costs[1]) if affordable else 0)
    assert len(rows(tmp_path) if affordable else []) == affordable
    asked, before = config(**real, privacy={"max_epsilon": budget}), adapter(tmp_path / "run")
    (tmp_path / "run" / "audit.json").write_text("{}")
    again = privet.runs.start(asked, to_yaml(asked), tmp_path / "run", resume=True)
    assert again["stopped"] == result["stopped"]
    assert adapter(tmp_path / "run") == before
    assert (tmp_path / "run" / "audit.json").exists(), "nothing was released that it does not know of"


def test_a_run_that_goes_on_after_it_stopped_keeps_no_statement_of_less_than_it_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it goes on, its folder would else promise the epsilon of the rounds before the stop."""

    def killed(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round" and facts["round"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(privet.cast, "gather", gatherer(4))
    drop = {"dropouts": [{"round": 1, "party": 2, "before": "round"}]}
    broken = config(insecure_test_seed=None, schedule={"rounds": 5}, engine=drop)
    stopped = privet.runs.start(broken, to_yaml(broken), tmp_path / "run")
    assert "failed 3 times" in stopped["stopped"]
    before = json.loads((tmp_path / "run" / "privacy.json").read_text())["epsilon"]["server"]["value"]
    asked = config(insecure_test_seed=None, schedule={"rounds": 5})
    with pytest.raises(KeyboardInterrupt):
        privet.runs.start(asked, to_yaml(asked), tmp_path / "run", resume=True, observe=killed)
    # Ctrl-C leaves the events of everything that was charged, in place of those that were withdrawn.
    assert {p.name for p in (tmp_path / "run").iterdir()} & {*privet.runs.STATEMENTS} == {"dp_event.json"}
    events = json.loads((tmp_path / "run" / "dp_event.json").read_text())
    assert reaccount(events)["observers"]["server"]["headline"]["value"] > before
    privet.runs.start(asked, to_yaml(asked), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "privacy.json").read_text())["epsilon"]["server"]["value"] > before


@pytest.mark.parametrize("parties", [3, 5])
@pytest.mark.parametrize("system", [{}, {"system": {"kind": "dp_lora"}, "sealing": {"kind": "none"}}])
def test_a_run_is_not_gone_on_with_by_other_clients(
    system: dict[str, Any], parties: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silos that came or went between a kill and the resume: other floors, other records behind the same secrets."""

    def killed(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round" and facts["round"] == 1:
            raise KeyboardInterrupt

    asked = config(insecure_test_seed=None, **system)
    monkeypatch.setattr(privet.cast, "gather", gatherer(4))
    with pytest.raises(KeyboardInterrupt):
        privet.runs.start(asked, to_yaml(asked), tmp_path / "run", observe=killed)
    monkeypatch.setattr(privet.cast, "gather", gatherer(parties))
    with pytest.raises(PrivetError, match="other clients") as caught:
        privet.runs.start(asked, to_yaml(asked), tmp_path / "run", resume=True)
    assert caught.value.hint
    monkeypatch.setattr(privet.cast, "gather", gatherer(4))
    assert privet.runs.start(asked, to_yaml(asked), tmp_path / "run", resume=True)["rounds"] == 4


def federated(**sections: Any) -> Federation:
    return federation(config(**sections), PARTS)


def test_too_few_clients_are_a_mistake_that_a_person_can_mend() -> None:
    f = federated()
    steps = f.server.steps()
    ask: Ask = next(steps)
    assert ask.op == "enrol"
    with pytest.raises(PrivetError) as caught:
        steps.send(Replies({0: {}, 1: {}}, {2: "no answer", 3: "refused: other-adapter"}))
    assert "2: no answer, 3: refused: other-adapter" in str(caught.value.given)
    assert "resume" in str(caught.value.hint)


def test_a_contribution_in_the_clear_is_charged_before_it_is_asked_for() -> None:
    """Under `none` the server sees contributions as they come, whatever becomes of the round."""
    f = federated(
        system={"kind": "dp_lora"},
        sealing={"kind": "none"},
        engine={"dropouts": [{"round": 1, "party": 2, "before": "round"}]},
    )
    f.engine.run(f.server.steps())
    assert f.server.progress.number == 1
    assert "failed 3 times" in str(f.server.progress.stopped)
    counts = [getattr(release, "count", 0) for release in f.server.ledger.releases]
    assert sum(counts) == 1 + 3, "the answers of the other three were seen three times, with fresh noise each"


@pytest.mark.parametrize(
    ("sealing", "sections", "alone"),
    [
        ("masked", {"system": {"kind": "dp_lora"}}, True),
        ("encrypted", {"system": {"kind": "dp_lora"}, "privacy": {"trust": {"colluders": 0}}}, True),
        ("encrypted", {}, True),
        ("encrypted", {"privacy": {"trust": {"colluders": 0}}}, False),
        ("masked", {}, False),
        ("masked", {"privacy": {"trust": {"colluders": 3}}}, True),
    ],
)
def test_trap_11_contributions_to_a_round_that_fails_are_charged_where_one_counts_by_itself(
    sealing: str, sections: dict[str, Any], alone: bool
) -> None:
    """Whole noise assumes nothing of who holds the seal's keys, and colluders with such keys need no sum to look."""
    drops = {"dropouts": [{"round": 1, "party": 2, "before": "round"}]}
    f = federated(**sections, sealing={"kind": sealing}, engine=drops)
    answers: list[int] = []
    f.engine.tap = lambda op, party, question, answer: answers.append(party) if op == "round" else None  # type: ignore[attr-defined]  # local
    f.engine.run(f.server.steps())
    assert f.server.progress.number == 1, "the second round fails"
    assert answers.count(0) > 1, "after the others have answered it, at each attempt with fresh noise"
    charged = sum(getattr(release, "count", 0) for release in f.server.ledger.releases)
    assert charged == (answers.count(0) if alone else 1)


def test_every_attempt_is_one_charge_and_one_answer() -> None:
    f = federated(sealing={"kind": "masked"}, schedule={"min_survivors": 3})
    f.engine.dropouts = [Dropout(round=1, party=2, before="round")]
    charges: list[tuple[int, int]] = []
    charge = f.server.ledger.charge

    def recording(release: AnyRelease) -> None:
        charges.append((f.server.progress.number, f.server.progress.attempt))
        charge(release)

    f.server.ledger.charge = recording  # type: ignore[method-assign]  # a spy
    f.engine.run(f.server.steps())
    assert charges == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_states_that_differ_stop_the_run() -> None:
    f = federated(sealing={"kind": "encrypted"})
    f.clients[2].aggregator.flat[3] += 1
    with pytest.raises(PrivetError, match="different adapters") as caught:
        f.engine.run(f.server.steps())
    assert "2 states among 4 clients" in str(caught.value.given)
    assert caught.value.hint


def test_trap_06_the_denominator_is_public() -> None:
    """Twice the expected batch is half the step, whatever was sampled; losing a client changes no denominator."""
    norms = []
    for batch in (40, 80):
        f = federated(schedule={"rounds": 1, "expected_batch": batch, "server": {"kind": "average"}})
        f.engine.run(f.server.steps())
        norms.append(float(np.linalg.norm(f.flat)))
    assert norms[0] == pytest.approx(2 * norms[1], rel=1e-5)
    dropped = federated(
        schedule={"rounds": 1, "min_survivors": 3, "server": {"kind": "average"}},
        engine={"dropouts": [{"round": 0, "party": 3, "before": "round"}]},
    )
    totals: list[Any] = []
    assert dropped.server.aggregator is not None
    apply = dropped.server.aggregator.apply

    def recording(round_id: RoundId, total: Any, apart: Any) -> float | None:
        totals.append(total)
        return apply(round_id, total, apart)

    dropped.server.aggregator.apply = recording  # type: ignore[method-assign]  # a spy
    dropped.engine.run(dropped.server.steps())
    mechanism = dropped.server.system.mechanism
    assert mechanism is not None
    np.testing.assert_allclose(dropped.flat, totals[0] * mechanism.grid.step / 40, rtol=1e-5)
