"""``audit.canary`` through whole runs: it agrees with the ledger, and it finds noise that is not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.toy import config

from privet import pipeline
from privet.attacks import audit_canary, canary_scores
from privet.attacks.audit_canary import Plan, accounted, findings, score
from privet.attacks.finding import Finding
from privet.attacks.gdp import epsilon_of_mu
from privet.attacks.rehearsal import Stage, plain_schedule
from privet.mechanism import GaussianMechanism

DIMENSION, PARTIES = 512, 4
PLAN = Plan(128, 4, seed=3)


def setting(system: str, unit: str, sealing: str, **changes: Any) -> Any:
    privacy: dict[str, Any] = {"unit": unit, "noise_multiplier": 2.0, "clip_norm": 1.0}
    if unit == "client":
        privacy["relation"] = "zero-out"
    return config(
        system={"kind": system}, privacy=privacy, sealing={"kind": sealing}, insecure_test_seed=5, **changes
    )


def canary_rows(rows: list[Finding]) -> list[Finding]:
    return [row for row in rows if row.attack == "audit.canary" and not row.control]


@pytest.mark.parametrize(
    ("system", "unit", "sealing"),
    [
        ("hedge", "record", "masked"),
        ("hedge", "client", "masked"),
        ("hedge", "record", "encrypted"),
        ("hedge", "client", "encrypted+masked"),
        ("dp_lora", "record", "none"),
        ("dp_lora", "client", "none"),
        ("dp_lora", "record", "masked"),
        ("fedshield", "client", "masked"),
    ],
)
def test_an_honest_run_raises_no_alarm(system: str, unit: str, sealing: str) -> None:
    """Fixed seeds; the upper bound is the positive control, since an attack that saw nothing would fail there."""
    plan = Plan(96, 2, seed=1) if "encrypted" in sealing else PLAN
    rows = findings(setting(system, unit, sealing), DIMENSION, PARTIES, plan)
    assert not [row for row in rows if row.verdict == "alarm"]
    first = canary_rows(rows)[0]
    assert first.compared is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.compared
    # There four silos' noise hides each of them, which is not credited; and here the promise is that against a
    # colluder, whose key opens single contributions, while the attack looks at their sums.
    if (system, sealing) not in {("dp_lora", "masked"), ("hedge", "encrypted")}:
        assert first.high >= 0.9 * first.compared


@pytest.mark.parametrize(("system", "sealing"), [("hedge", "masked"), ("dp_lora", "none")])
def test_halved_noise_raises_an_alarm(system: str, sealing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share = GaussianMechanism.share

    def halved(mechanism: GaussianMechanism, key: bytes) -> Any:
        return np.rint(share(mechanism, key) / 2).astype(np.int64)

    monkeypatch.setattr(GaussianMechanism, "share", halved)
    rows = canary_rows(findings(setting(system, "record", sealing), DIMENSION, PARTIES, PLAN))
    assert rows[0].verdict == "alarm"
    assert rows[0].setting.startswith("every record")


def test_noise_divided_by_the_root_of_the_parties_twice_raises_an_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = GaussianMechanism.share

    def thinned(mechanism: GaussianMechanism, key: bytes) -> Any:
        return np.rint(share(mechanism, key) / np.sqrt(mechanism.floor)).astype(np.int64)

    monkeypatch.setattr(GaussianMechanism, "share", thinned)
    rows = canary_rows(findings(setting("hedge", "record", "masked"), DIMENSION, PARTIES, PLAN))
    assert rows[0].verdict == "alarm"


def test_a_missing_clip_raises_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the norm check behind it too, which would stop the run; canaries are longer than the clip."""

    def unclipped(values: Any, norm: float) -> tuple[Any, int]:
        return values, 0

    def unchecked(values: Any, grid: Any, keys: Any, zeroed: Any = None) -> Any:
        return np.rint(np.asarray(values, np.float64) / grid.step).astype(np.int64)

    monkeypatch.setattr(pipeline, "clip_rows", unclipped)
    monkeypatch.setattr(pipeline, "round_units", unchecked)
    rows = canary_rows(findings(setting("hedge", "record", "masked"), DIMENSION, PARTIES, PLAN))
    assert rows[0].verdict == "alarm"


def test_a_sensitivity_that_is_not_doubled_for_replaced_units_raises_an_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The coin is between a canary and its opposite there; on the code as it is the ledger is met and not exceeded."""
    asked = config(
        privacy={"relation": "replace-one", "noise_multiplier": 2.0, "clip_norm": 1.0}, insecure_test_seed=5
    )
    honest = canary_rows(findings(asked, DIMENSION, PARTIES, PLAN))[0]
    assert honest.compared == pytest.approx(9.9973, abs=1e-3)
    assert honest.low is not None
    assert honest.high is not None
    assert honest.low <= honest.compared
    assert honest.high >= 0.9 * honest.compared
    monkeypatch.setattr(audit_canary, "accounted", lambda scored: 4.3772)  # what add-remove would be charged
    assert canary_rows(findings(asked, DIMENSION, PARTIES, PLAN))[0].verdict == "alarm"


def test_clients_with_error_feedback_are_audited_without_their_memory() -> None:
    codec = {"kind": "random_projection", "ratio": 4, "allow_useless": True, "error_feedback": True}
    scored = score(setting("hedge", "client", "masked", codec=codec), DIMENSION, PARTIES, Plan(32, 2, seed=2))
    estimate = scored.estimate(1e-3)
    assert estimate.low <= 2**0.5 / 2 <= estimate.high


def test_statistics_of_one_group_are_audited_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for two canaries only; the coins of several runs are counted together."""
    seeds: list[int | None] = []
    rehearse = canary_scores.rehearse

    def watched(stage: Stage, *arguments: Any, **options: Any) -> Any:
        seeds.append(stage.config.insecure_test_seed)
        return rehearse(stage, *arguments, **options)

    monkeypatch.setattr(canary_scores, "rehearse", watched)
    coded = setting(
        "dr_encoder",
        "client",
        "masked",
        codec={"kind": "autoencoder", "network": "mlp", "ratio": 4},
    )
    statistics = coded.system.statistics.model_copy(update={"groups": "all", "releases": 1, "share": 0.5})
    coded = coded.model_copy(update={"system": coded.system.model_copy(update={"statistics": statistics})})
    layout = [(f"{i}.lora_B", (16, 8)) for i in range(4)]
    scored = score(coded, DIMENSION, PARTIES, Plan(16, 1, seed=1), schedule=plain_schedule(coded, layout, 1))
    assert len(scored.inside) == 16
    assert len(set(seeds)) == len(seeds) == 8, "runs of one audit share no noise, though the test seed is one"
    estimate = scored.estimate(1e-4)
    assert estimate.low <= 2**0.5 / 2 <= estimate.high


def test_the_power_that_is_told_is_that_of_the_alarm() -> None:
    """At q = 1 half the noise is found surely; at a small q hardly ever, and the row says so."""
    sampled = setting("hedge", "record", "masked", schedule={"rounds": 4, "sampling_rate": 0.05})
    everybody, as_configured = canary_rows(findings(sampled, DIMENSION, PARTIES, PLAN, alarm=0.01))
    told = [float(row.text.rsplit(" ", 1)[1].rstrip(".")) for row in (everybody, as_configured)]
    assert told[0] > 0.9
    assert told[1] < 0.05


@pytest.mark.parametrize(
    ("level", "verdict", "words"),
    [(0.4, "holds", "Not above"), (0.003, "in doubt", "not at the level"), (1e-9, "alarm", "broken")],
)
def test_a_printed_bound_above_the_account_is_not_called_within_it(
    level: float, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict goes by the suite's level, the row prints the bound at 95 %: between the two it is in doubt.

    The account that the row is held against is set to what this run's bound at ``level`` is.
    """
    asked = setting("hedge", "client", "masked")
    scored = score(asked, DIMENSION, PARTIES, PLAN)
    claimed = epsilon_of_mu(scored.estimate(level).low, 1e-5) if level > 1e-8 else 0.5
    monkeypatch.setattr(audit_canary, "accounted", lambda scored: claimed)
    row = canary_rows(findings(asked, DIMENSION, PARTIES, PLAN, alarm=0.001))[0]
    assert row.low is not None
    assert (row.low > claimed) == (verdict != "holds")
    assert row.verdict == verdict
    assert words in row.text
    assert row.compared == claimed


def test_a_one_run_bound_above_the_account_is_not_called_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = setting("hedge", "client", "masked")
    low = next(r for r in findings(asked, DIMENSION, PARTIES, PLAN) if r.attack == "audit.one_run").low
    assert low is not None
    monkeypatch.setattr(audit_canary, "accounted", lambda scored: 0.95 * low)
    row = next(
        r
        for r in findings(asked, DIMENSION, PARTIES, PLAN, alarm=1e-6)
        if r.attack == "audit.one_run" and not r.control
    )
    assert row.low == low
    assert row.verdict == "in doubt"


def test_a_run_without_noise_hides_no_canary() -> None:
    plain = config(
        system={"kind": "fedavg"}, privacy=None, schedule={"sampling_rate": None, "expected_batch": None}
    )
    (canary, one_run) = findings(plain, DIMENSION, PARTIES, PLAN)[:2]
    assert canary.verdict == "leaks"
    assert canary.control
    assert canary.low is not None
    assert canary.low > 100
    assert one_run.value is not None
    assert one_run.value > 1


def test_a_codec_does_not_hide_canaries() -> None:
    coded = setting(
        "hedge", "client", "masked", codec={"kind": "random_projection", "ratio": 4, "allow_useless": True}
    )
    scored = score(coded, DIMENSION, PARTIES, Plan(32, 4, seed=2))
    estimate = scored.estimate(1e-3)
    assert estimate.low <= 1.0 <= estimate.high  # sqrt(4 rounds) / sigma 2
    assert estimate.low > 0


def test_both_stages_of_dr_encoder_are_audited_against_both_charges() -> None:
    coded = setting(
        "dr_encoder", "client", "masked", codec={"kind": "autoencoder", "network": "mlp", "ratio": 4}
    )
    layout = [(f"{i}.lora_B", (16, 8)) for i in range(4)]
    scored = score(coded, DIMENSION, PARTIES, Plan(16, 1, seed=1), schedule=plain_schedule(coded, layout, 1))
    estimate = scored.estimate(1e-4)
    assert [r.name for r in scored.releases] == ["stage 1 statistics", "stage 2 codes"]
    assert estimate.low <= 0.527 <= estimate.high  # 1/sigma of stage 2 over the root of its share, 0.9
    assert estimate.canaries == (int(scored.inside.sum()), 16 - int(scored.inside.sum()))


def test_what_is_audited_is_what_is_charged() -> None:
    """The account that a bound is held against is the rehearsal's own ledger: all rounds, at the configured noise."""
    scored = score(setting("hedge", "client", "masked"), DIMENSION, PARTIES, PLAN)
    assert accounted(scored) == pytest.approx(4.377178, rel=1e-5)
    assert [r.count for r in scored.releases] == [PLAN.rounds]
