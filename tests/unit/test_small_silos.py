"""Audits of silos with few records: no record comes twice, and rows that lack records say so."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.encoder import CODEC
from support.toy import DIMENSION, config, examples, split
from support.toy_runs import material

from privet.attacks import client_updates, control, inversions, invert_tokens, mia_gradient
from privet.attacks.finding import Finding
from privet.attacks.inversions import Inversions
from privet.attacks.rehearsal import Stage, everybody_in, plain_schedule
from privet.attacks.suite import SIZES, Auditor
from privet.config import Config
from privet.material import Material


def auditor(asked: Config, made: Material) -> Auditor:
    return Auditor(asked, made, SIZES["quick"], 0, (), lambda kind, facts: None)


def few(each: int, silos: int = 4) -> Material:
    records = examples(each * silos)
    made: Material = material([records[i * each : (i + 1) * each] for i in range(silos)])
    return made


@pytest.mark.parametrize("offset", [0, 40])
def test_no_record_is_picked_twice(offset: int) -> None:
    made = material(split(examples(32), 4))
    picked = auditor(config(), made).pick(12, offset)
    assert {name: len(own) for name, own in picked.items()} == {
        name: min(12, len(own)) for name, own in made.silos.items()
    }
    for own in picked.values():
        assert len({e.id for e in own}) == len(own)


def test_membership_is_asked_of_silos_with_fewer_records_than_a_suite_wants() -> None:
    made = material(split(examples(32), 4))
    picked = auditor(config(), made).pick(SIZES["quick"].candidates, least=2)
    assert min(map(len, picked.values())) < SIZES["quick"].candidates
    asked = everybody_in(config(), 24.0)
    schedule = plain_schedule(asked, [("w", (DIMENSION,))], 2)
    stage = Stage(asked, made.trainer, np.zeros(DIMENSION, np.float32), schedule)
    found = mia_gradient.attack(stage, picked, rounds=2, seed=0)
    assert found.rehearsed.stopped is None
    assert len(found.scores) == 32 - max(0, len(made.silos["silo3"]) - 12)


def test_membership_leaves_out_silos_of_one_record_and_needs_three_others() -> None:
    records = examples(16)
    made = material([records[:1], records[1:6], records[6:11], records[11:]])
    assert list(auditor(config(), made).pick(12, least=2)) == ["silo1", "silo2", "silo3"]
    rows = auditor(config(), few(1)).membership_rows()
    assert [row.verdict for row in rows] == ["not applicable"] * 2
    assert all("too few records" in row.text for row in rows)
    assert "no noise" in rows[0].setting
    assert "this run's" in rows[1].setting


@pytest.mark.parametrize("unit", ["client", "record"])
@pytest.mark.parametrize("sealing", ["masked", "encrypted", "none"])
def test_membership_in_a_run_of_more_silos_than_have_candidates(unit: str, sealing: str) -> None:
    """The run demands five of its six clients, and has a weight for each: four alone could not be rehearsed."""
    schedule: dict[str, Any] = {"min_survivors": 5}
    if sealing == "none":
        schedule["weights"] = [1.0] * 6
    privacy: dict[str, Any] = {"unit": unit, "noise_multiplier": 2.0, "clip_norm": 1.0}
    if unit == "client":
        privacy["relation"] = "zero-out"
        schedule |= {"sampling_rate": None, "expected_batch": None}
    asked = config(
        system={"kind": "dp_lora" if sealing == "none" else "hedge"},
        privacy=privacy,
        sealing={"kind": sealing},
        schedule=schedule,
    )
    rows = auditor(asked, material(split(examples(96), 6))).protected_membership()
    assert [row.verdict for row in rows] == ["holds" if unit == "record" else "reported"] * 3
    assert rows[0].samples.endswith("others")


@pytest.mark.parametrize("unit", ["client", "record"])
def test_a_first_stage_without_records_for_its_candidates_is_not_attacked(unit: str) -> None:
    privacy: dict[str, Any] = {"unit": unit, "noise_multiplier": 2.0, "clip_norm": 1.0}
    if unit == "client":
        privacy["relation"] = "zero-out"
    asked = config(system={"kind": "dr_encoder"}, privacy=privacy, codec=CODEC)
    rows = auditor(asked, few(3 if unit == "client" else 1, silos=3)).first_stage_rows()
    assert [(row.attack, row.verdict) for row in rows] == [
        ("mia.statistics", "not applicable"),
        ("mia.codec", "not applicable"),
    ]
    assert all("too few records" in row.text for row in rows)


def test_candidates_of_a_first_stage_share_no_record() -> None:
    made = few(8)
    updates = client_updates.candidate_updates(made, 24, 4, 0)
    assert updates.shape == (8, DIMENSION)
    assert len(np.unique(updates, axis=0)) == 8


def inversion(asked: Config, each: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Finding], list[Any]]:
    """Inversion under noise, with the trials that it would make in the place of its results."""
    tried: list[Any] = []

    def trial(prepared: Any, direction: Any, victims: Sequence[Any], decoys: Sequence[Sequence[Any]]) -> Any:
        tried.append(([e.id for e in victims], [[e.id for e in other] for other in decoys]))
        return invert_tokens.Trial(0.0, 0.0, (0.0,) * len(decoys))

    seen = SimpleNamespace(total=np.zeros(1), direction=lambda values: values)
    ledger = SimpleNamespace(epsilon=lambda: SimpleNamespace(reason=None))
    transcript = SimpleNamespace(rounds=[seen], in_the_clear=lambda number, party: np.zeros(1))
    done = SimpleNamespace(ledger=ledger, transcript=transcript)
    monkeypatch.setattr(control, "last_round", lambda rehearsed: seen)
    monkeypatch.setattr(control, "clip_norm", lambda asked, prepared: 1.0)
    monkeypatch.setattr(invert_tokens, "trial", trial)
    prepared: Any = SimpleNamespace(rehearse=lambda asked, records: done)
    pick = auditor(asked, few(each)).pick
    return Inversions(asked, prepared, pick, 4, 0.0125).noised(4), tried


@pytest.mark.parametrize("sealing", ["masked", "none"])
@pytest.mark.parametrize("each", [2, 8, 9, 300])
def test_no_victim_is_a_decoy_and_no_trial_has_another_s_records(
    each: int, sealing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = "hedge" if sealing == "masked" else "dp_lora"
    asked = config(system={"kind": system}, sealing={"kind": sealing})
    (row,), tried = inversion(asked, each, monkeypatch)
    assert row.verdict == "holds"
    assert len(tried) == min(4, each // 2) * (1 if sealing == "masked" else 4)
    assert {len(decoys) for _, decoys in tried} == {min(inversions.DECOYS, each // min(4, each // 2) - 1)}
    everyone = [name for victims, decoys in tried for one in (victims, *decoys) for name in one]
    assert len(everyone) == len(set(everyone))


def test_inversion_under_noise_needs_a_record_besides_the_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,), tried = inversion(config(), 1, monkeypatch)
    assert row.verdict == "not applicable"
    assert "fewer records" in row.text
    assert not tried
