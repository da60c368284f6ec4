"""Both stages of `dr_encoder` as they are composed and accounted, and `cg_fedllm`, which promises nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.encoder import LAYOUT, RELEASES, encoder
from support.toy import DIMENSION, config

from privet.codec_config import CountSketchCodec
from privet.codec_schedule import CodecSchedule
from privet.codecs import Noise, Provenance, StatisticsCode
from privet.errors import PrivetError
from privet.plan import planned_ledger
from privet.privacy.events import NoGuarantee, Release
from privet.privacy.statement import privacy_statement
from privet.privacy.two_stage import TwoStage
from privet.resolve import Resolved, resolve
from privet.systems import System
from privet.work import SampledGradients


def composed(parties: int = 4, **sections: Any) -> Resolved:
    return resolve(encoder(**sections), dimension=DIMENSION, parties=parties, layout=LAYOUT)


def stage_one(resolved: Resolved) -> System:
    assert resolved.system.preparation is not None
    return resolved.system.preparation.system


def test_the_share_is_stage_ones_part_of_mu_squared() -> None:
    for share in (0.05, 0.2, 0.9):
        statistics = {"kind": "dr_encoder", "statistics": {"releases": 5, "share": share}}
        resolved = composed(system=statistics)
        first, second = stage_one(resolved).release, resolved.system.release
        assert isinstance(first, Release)
        assert isinstance(second, Release)
        parts = 5 / first.noise_multiplier**2, 3 / second.noise_multiplier**2
        assert parts[0] / sum(parts) == pytest.approx(share)


@pytest.mark.parametrize("relation", ["zero-out", "replace-one"])
def test_both_stages_are_calibrated_together(relation: str) -> None:
    """The composed epsilon is the target, each stage's own lies below it, and all follow from the theorem."""
    privacy = {
        "unit": "client",
        "relation": relation,
        "target_epsilon": 4.0,
        "noise_multiplier": None,
        "trust": {"colluders": 1},
    }
    resolved = composed(privacy=privacy)
    ledger = planned_ledger(resolved)
    found = ledger.epsilon().value
    assert 3.99 < found <= 4.0
    first, second = stage_one(resolved).release, resolved.system.release
    assert isinstance(first, Release)
    assert isinstance(second, Release)
    theorem = TwoStage(RELEASES, first.noise_multiplier, 3, second.noise_multiplier, relation)  # type: ignore[arg-type]  # pytest's strings
    assert found == pytest.approx(theorem.epsilon(1e-5), abs=1e-5)
    rows = ledger.stages()
    assert [(row["name"], row["count"]) for row in rows] == [
        ("stage 1 statistics", RELEASES),
        ("stage 2 codes", 3),
    ]
    alone = [row["value"] for row in rows]
    assert max(alone) < found < sum(alone)
    mu = [math.sqrt(RELEASES) / first.noise_multiplier, math.sqrt(3) / second.noise_multiplier]
    assert theorem.mu == pytest.approx(math.hypot(*mu) * (2 if relation == "replace-one" else 1))


def test_trap_11_a_run_without_stage_one_has_another_epsilon() -> None:
    resolved = composed()
    ledger, forgetful = planned_ledger(resolved), resolved.ledger()
    for release in resolved.planned():
        if release.name != "stage 1 statistics":
            forgetful.charge(release)
    assert forgetful.epsilon().value < ledger.epsilon().value - 1e-3


def test_the_statement_shows_each_stage_and_both() -> None:
    resolved = composed()
    statement = privacy_statement(
        planned_ledger(resolved),
        mechanism=resolved.system.describe(),
        clip_norm=1.0,
        noise_multiplier=0.5,
    )
    assert [row["name"] for row in statement["stages"]] == ["stage 1 statistics", "stage 2 codes"]
    assert all(row["value"] < statement["epsilon"]["server"]["value"] for row in statement["stages"])
    assert statement["mechanism"].startswith("stage 1: ")
    assert "; stage 2: " in statement["mechanism"]
    plain = resolve(config(), dimension=DIMENSION, parties=4)
    assert "stages" not in privacy_statement(
        planned_ledger(plain), mechanism="", clip_norm=1.0, noise_multiplier=1.0
    )


def test_exact_statistics_have_no_epsilon_whatever_the_noise_of_stage_two() -> None:
    resolved = composed(system={"kind": "dr_encoder", "faithful": True})
    ledger = planned_ledger(resolved)
    found = ledger.epsilon()
    assert found.headline.value is None
    assert "exact" in (found.reason or "")
    first, second = ledger.stages()
    assert first["value"] == "none"
    assert second["value"] > 0
    without = planned_ledger(composed(system={"kind": "dr_encoder", "faithful": True}, privacy=None))
    assert [row["value"] for row in without.stages()] == ["none", "none"]


def test_cg_fedllm_promises_nothing() -> None:
    asked = config(
        system={"kind": "cg_fedllm"},
        codec={"kind": "autoencoder"},
        privacy=None,
        sealing={"kind": "none"},
        schedule={"sampling_rate": None, "expected_batch": None},
    )
    resolved = resolve(asked, dimension=DIMENSION, parties=4)
    assert all(isinstance(release, NoGuarantee) for release in resolved.planned())
    assert resolved.rounds == asked.schedule.rounds + 1


def test_the_units_of_both_stages_may_be_records() -> None:
    record = {"unit": "record", "noise_multiplier": 1.0}
    resolved = composed(privacy=record, schedule={"rounds": 3, "sampling_rate": 0.2, "expected_batch": 40})
    for system in (stage_one(resolved), resolved.system):
        assert isinstance(system.work, SampledGradients)
        assert isinstance(system.release, Release)
        assert system.release.sampling.rate == 0.2
    assert planned_ledger(resolved).epsilon().headline.method == "pld"


def test_without_a_seal_every_client_adds_all_of_the_noise() -> None:
    for kind, floor, noise in (("none", 1, "local"), ("masked", 3, "shares")):
        resolved = composed(sealing={"kind": kind})
        assert resolved.trust.noise == noise
        for system in (stage_one(resolved), resolved.system):
            assert system.mechanism is not None
            assert system.mechanism.floor == floor
            assert system.shared_noise == (noise == "shares")


def test_the_message_is_as_long_as_its_groups_ask() -> None:
    many = tuple((f"layer.{i}.{kind}", (4, 3)) for i in range(5) for kind in ("q", "v"))
    update = np.random.default_rng(0).standard_normal((2, 120)).astype(np.float32)
    for groups, count in (("tensor", 10), ("kind", 2), ("all", 1)):
        code = StatisticsCode(many, "mean_std", 4, groups)  # type: ignore[arg-type]  # plain strings
        assert code.size == 2 * count
        z = code.encode(update)
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.linalg.norm(update, axis=1), rtol=1e-5)
        read = code.read(z[0])
        assert read.std.shape == (10,)
        assert len(set(read.std)) == count
    kinds = StatisticsCode(many, "mean_std", 4, "kind").read(
        StatisticsCode(many, "mean_std", 4, "kind").encode(update)[0]
    )
    q = np.concatenate([update[0, 24 * i : 24 * i + 12] for i in range(5)])
    assert kinds.mean[0] == pytest.approx(q.mean(), rel=1e-4)
    assert kinds.std[0] == pytest.approx(q.std(), rel=1e-4)


def test_a_codec_that_keeps_no_more_than_a_random_projection_is_refused() -> None:
    told: list[dict[str, Any]] = []
    rows = np.random.default_rng(1).standard_normal((16, DIMENSION)).astype(np.float32)

    def schedule(**changes: Any) -> CodecSchedule:
        return CodecSchedule(
            CountSketchCodec(ratio=4, **changes),
            LAYOUT,
            0,
            3,
            private=True,
            sealed=True,
            held_out=lambda flat: rows,
            noise=Noise(1.0, 2.0),
            cohort=4,
            observe=lambda kind, facts: told.append(facts) if kind == "codec" else None,
        )

    with pytest.raises(PrivetError, match="no more of an update") as caught:
        schedule().first(np.zeros(DIMENSION, np.float32))
    assert "allow_useless" in str(caught.value.hint)
    codec = schedule(allow_useless=True).first(np.zeros(DIMENSION, np.float32))
    assert codec is not None
    assert codec.provenance is Provenance.SEED
    assert told[0]["measured_on"] == "public updates"
    assert abs(told[0]["cosine"] - told[0]["control_cosine"]) < 0.2
    assert told[0]["with_noise"]["cosine"] < told[0]["cosine"]
    assert list(told[0]["per_tensor"]) == [name for name, _ in LAYOUT]
