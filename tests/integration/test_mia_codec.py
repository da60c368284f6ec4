"""``mia.statistics``, ``mia.codec``: they find who was in where nothing is noised, and else stay within the charge."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.encoder import LAYOUT, encoder
from support.toy import DIMENSION

from privet.attacks import client_updates, mia_codec, mia_statistics, named_runs, statistics
from privet.attacks.client_updates import Cohort, cohort, coins
from privet.config import Config
from privet.mechanism import GaussianMechanism
from privet.privacy.two_stage import gaussian_delta

RUNS, ALARM = 12, 0.05
BACKBONE = SimpleNamespace(
    initial_flat=lambda: np.zeros(DIMENSION, np.float32),
    layout=SimpleNamespace(tensors=[SimpleNamespace(name=name, shape=shape) for name, shape in LAYOUT]),
)
MATERIAL: Any = SimpleNamespace(trainer=SimpleNamespace(backbone=BACKBONE))


def cohorts(asked: Config, size: int, runs: int = RUNS) -> list[Cohort]:
    """Runs over clients whose updates are as long as the clip allows and differ in shape from tensor to tensor."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(runs):
        sizes = np.exp(generator.standard_normal((size, len(LAYOUT))))
        updates = np.repeat(sizes, DIMENSION // len(LAYOUT), axis=1) * generator.standard_normal(
            (size, DIMENSION)
        )
        # As long as one another: beside one that is far longer no codec would show a short one.
        updates /= np.linalg.norm(updates, axis=1, keepdims=True)
        made.append(cohort(asked, MATERIAL, updates.astype(np.float32), number))
    return made


def exact(**system: Any) -> Config:
    return encoder(system=system, privacy=None, sealing={"kind": "none"})


@pytest.mark.parametrize(
    "system", [{"kind": "dr_encoder", "faithful": True}, {"kind": "cg_fedllm", "collections": 2}]
)
def test_a_codec_that_was_made_of_exact_values_names_its_clients(system: dict[str, Any]) -> None:
    made = cohorts(exact(**system), 4, 6)
    scored = mia_codec.scores(made)
    np.testing.assert_array_equal(scored.scores > 0, scored.inside)
    assert len({run.inside.sum() for run in made}) > 2, "any number of the candidates may be in"
    found, proved = mia_codec.findings(made, "no noise", ALARM)
    assert found.control
    assert proved.control
    assert found.verdict == proved.verdict == "leaks"
    assert found.value == 1.0
    assert found.samples == "6 runs of 4 candidates"
    assert proved.samples == "24 of 24 coins guessed right"
    assert proved.value is not None
    assert proved.value > 5


def test_exact_statistics_name_their_clients() -> None:
    made = cohorts(exact(kind="dr_encoder", faithful=True), 6, 4)
    found, proved = mia_statistics.findings(made, "no noise", ALARM)
    assert found.verdict == proved.verdict == "leaks"
    assert found.value == 1.0
    assert proved.samples == "24 of 24 coins guessed right"


def test_an_attack_that_fails_where_nothing_protects_shows_nothing() -> None:
    made = cohorts(exact(kind="dr_encoder", faithful=True), 6, 4)
    blind = mia_statistics.scores(made)
    blind = replace(blind, scores=np.ones_like(blind.scores))
    rows = named_runs.findings(blind, "no noise", attack="mia.statistics", sees="nothing", alarm=ALARM)
    assert {row.verdict for row in rows} == {"not applicable"}


def noised(**privacy: Any) -> Config:
    return encoder(privacy={"noise_multiplier": 2.4, **privacy})


@pytest.mark.parametrize("attack", [mia_statistics.findings, mia_codec.findings])
def test_under_the_noise_that_is_charged_nobody_stands_out(attack: Any) -> None:
    """The false alarm of these seeds is 5 %; that an alarm is possible is what the next test shows."""
    made = cohorts(noised(trust={"colluders": 1}), 4)
    rows = attack(made, "noise", ALARM)
    assert {row.verdict for row in rows} == {"holds"}
    proved = rows[1]
    assert proved.compared == made[0].rehearsed.ledger.epsilon().value == pytest.approx(2.613, abs=0.003)
    assert proved.low is not None
    assert proved.low <= proved.compared
    assert "would have raised an alarm" in rows[0].text


@pytest.mark.parametrize("attack", [mia_statistics.findings, mia_codec.findings])
def test_noise_that_is_charged_and_missing_raises_an_alarm(
    attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(mechanism: GaussianMechanism, key: bytes) -> Any:
        return np.zeros(mechanism.dimension, np.int64)

    monkeypatch.setattr(GaussianMechanism, "share", silent)
    assert {row.verdict for row in attack(cohorts(noised(), 4), "noise", ALARM)} == {"alarm"}


def test_a_run_that_demands_more_survivors_than_there_are_candidates_is_rehearsed_all_the_same() -> None:
    asked = noised()
    schedule = asked.schedule.model_copy(update={"min_survivors": 40})
    (made,) = cohorts(asked.model_copy(update={"schedule": schedule}), 6, 1)
    assert made.rehearsed.stopped is None


def test_so_few_candidates_that_no_alarm_is_possible_say_so() -> None:
    rows = mia_codec.findings(cohorts(noised(), 4, 2), "noise", ALARM)
    assert "this row could raise no alarm" in rows[0].text


@pytest.mark.parametrize("everybody", [True, False])
def test_all_candidates_may_be_in_or_none(everybody: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise these are named as any others are; with noise they are scored all the same."""
    monkeypatch.setattr(client_updates, "coins", lambda count, seed: np.full(count, everybody))
    for asked in (exact(kind="dr_encoder", faithful=True), exact(kind="cg_fedllm", collections=2)):
        made = cohorts(asked, 4, 1)
        assert made[0].rehearsed.resolved.facts.parties == 4, "the number of parties tells nothing"
        assert ((mia_codec.scores(made).scores > 0) == everybody).all()
    made = cohorts(noised(), 4, 1)
    for attack in (mia_codec, mia_statistics):
        assert np.isfinite(attack.scores(made).scores).all()


@pytest.mark.parametrize("opposite", [True, False])
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_coins_are_such_that_an_honest_sum_stays_within_what_it_is_charged(
    sigma: float, opposite: bool
) -> None:
    """One candidate of each of 6000 runs, so trials are independent: guessed in above what it is on average.

    Were just one of two inside, opposite ones would be twice as far apart, and the first assertion would fail.
    """
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]]) if opposite else np.eye(2)
    generator = np.random.default_rng(0)
    right = 0
    for run in range(6000):
        who = coins(2, run)
        opened = who @ vectors + sigma * generator.standard_normal(2)
        asked = vectors[run % 2]
        right += bool((asked @ opened > asked @ vectors.sum(axis=0) / 2) == who[run % 2])
    found = statistics.share(right, 6000)
    advantage = gaussian_delta(0.0, 1 / sigma)
    assert found.low <= (1 + advantage) / 2
    assert found.high >= (1 + advantage / 2) / 2, "it sees something, or it would show nothing"
