"""What a canary audit says that it could have found is what it finds; an attacker who sees less fails its control."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.toy import config

from privet.attacks import canary_scores
from privet.attacks.audit_canary import Plan, findings, score
from privet.attacks.canary_power import HALF, shown_mu, with_half_noise
from privet.attacks.finding import Finding
from privet.attacks.suite import without_silence
from privet.mechanism import GaussianMechanism

DIMENSION = 512
PLAN = Plan(96, 2, seed=1)
SURE = 1e-3
"""Error probability of each bound on mu below; the seeds are fixed."""


def setting(system: str, unit: str, sealing: str, **privacy: Any) -> Any:
    schedule: dict[str, Any] = {
        name: privacy.pop(name) for name in ("weights", "min_survivors") if name in privacy
    }
    privacy |= {"unit": unit, "noise_multiplier": 2.0, "clip_norm": 1.0}
    if unit == "client":
        privacy.setdefault("relation", "zero-out")
        schedule |= {"sampling_rate": None, "expected_batch": None}
    elif "rate" in privacy:
        schedule["sampling_rate"] = privacy.pop("rate")
    return config(
        system={"kind": system},
        privacy=privacy,
        sealing={"kind": sealing},
        schedule=schedule,
        insecure_test_seed=5,
    )


def halve(monkeypatch: pytest.MonkeyPatch) -> None:
    share = GaussianMechanism.share

    def halved(mechanism: GaussianMechanism, key: bytes) -> Any:
        return np.rint(share(mechanism, key) / 2).astype(np.int64)

    monkeypatch.setattr(GaussianMechanism, "share", halved)


def told(row: Finding) -> float:
    """The probability that a row gives."""
    found = re.search(r"raised an alarm with probability ([0-9.]+)\.$", row.text)
    assert found is not None, row.text
    return float(found[1])


ELSEWHERE = [
    # The worst observer opens one contribution; the audit sees sums of four unknown shares.
    (setting("hedge", "client", "encrypted", trust={"colluders": 1}), 5),
    # Each client's own noise is charged; the sum has that of four.
    (setting("dp_lora", "client", "masked"), 4),
    # Three survivors are demanded, and all six are there.
    (setting("hedge", "client", "masked", trust={"colluders": 1}, min_survivors=3), 6),
    # A canary is half as long as the ledger allows for.
    (setting("fedshield", "client", "masked", weights=[0.5, 0.25, 0.5, 0.25]), 4),
]
AS_CHARGED = [
    (setting("hedge", "client", "masked", trust={"colluders": 1}), 4),
    (setting("hedge", "client", "masked", trust={"colluders": 1}, relation="replace-one"), 4),
    (setting("dp_lora", "client", "none"), 4),
]


@pytest.mark.parametrize(("asked", "parties"), ELSEWHERE + AS_CHARGED)
def test_canaries_are_as_visible_as_the_power_supposes_with_the_noise_and_with_half_of_it(
    asked: Any, parties: int
) -> None:
    plan = Plan(192, 4, seed=1)
    honest = score(asked, DIMENSION, parties, plan)
    estimate = honest.estimate(SURE)
    assert estimate.low <= shown_mu(honest) <= estimate.high
    halved = score(asked, DIMENSION, parties, plan, change=with_half_noise)
    estimate = halved.estimate(SURE)
    assert estimate.low <= shown_mu(halved, HALF) <= estimate.high
    assert estimate.low > 0
    assert shown_mu(halved, HALF) == pytest.approx(2 * shown_mu(honest))


def test_canaries_are_as_visible_as_the_power_supposes_where_records_are_sampled() -> None:
    asked = setting("hedge", "record", "masked", relation="replace-one", rate=0.5)
    halved = score(asked, DIMENSION, 4, Plan(128, 4, seed=2), change=with_half_noise)
    estimate = halved.estimate(SURE)
    assert 0 < estimate.low <= shown_mu(halved, HALF) <= estimate.high


@pytest.mark.parametrize(("asked", "parties"), ELSEWHERE)
def test_where_the_audit_sees_more_noise_than_is_charged_the_row_says_that_it_is_blind(
    asked: Any, parties: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    halve(monkeypatch)
    row = findings(asked, DIMENSION, parties, PLAN)[0]
    assert row.verdict != "alarm"
    assert told(row) < 0.1
    assert "could hardly raise an alarm" in row.text
    assert "times the noise that the account counts on" in row.text


@pytest.mark.parametrize(("asked", "parties"), AS_CHARGED)
def test_where_the_audit_sees_the_noise_that_is_charged_half_of_it_raises_the_alarm_in_the_control(
    asked: Any, parties: int
) -> None:
    rows = findings(asked, DIMENSION, parties, Plan(128, 4, seed=1))
    row, control = (
        next(r for r in rows if r.attack == "audit.canary" and r.control == c) for c in (False, True)
    )
    assert told(row) > 0.9
    assert "account counts on" not in row.text
    assert control.verdict == "leaks"
    assert control.stands_for == row.setting
    assert "raise the alarm" in control.text


def test_every_row_of_a_private_audit_has_a_control_of_its_own() -> None:
    rows = findings(setting("hedge", "record", "masked", rate=0.05), DIMENSION, 4, PLAN)
    held = [(r.attack, r.setting) for r in rows if not r.control]
    assert sorted(held) == sorted((r.attack, r.stands_for) for r in rows if r.control)
    assert len(held) == 5


@pytest.mark.parametrize("sees", ["nothing", "little"])
def test_an_attacker_who_sees_less_than_was_computed_fails_its_control(
    sees: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a blind attacker said that it would have found half of the noise with probability 1."""
    components = canary_scores._components
    generator = np.random.default_rng(4)

    def worse(*given: Any) -> Any:
        found, gram = components(*given)
        blur = generator.normal(size=len(found))
        spread = 20 * float(np.std(found)) if sees == "nothing" else 3 * float(np.std(found))
        return (0 if sees == "nothing" else found) + spread * blur, gram

    monkeypatch.setattr(canary_scores, "_components", worse)
    asked = setting("hedge", "client", "masked", trust={"colluders": 1})
    rows = without_silence(findings(asked, DIMENSION, 4, Plan(192, 4, seed=3)))
    canary = [r for r in rows if r.attack == "audit.canary"]
    assert [r.verdict for r in canary] == ["not applicable", "not applicable"]
