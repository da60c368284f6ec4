"""``poison.norm``: what becomes of a round in which one client does not follow the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.encoder import LAYOUT, encoder
from support.toy import DIMENSION, config

from privet import pipeline
from privet.attacks.finding import Finding
from privet.attacks.poison_norm import findings
from privet.attacks.rehearsal import plain_schedule


def trial(system: str, sealing: str, unit: str = "record", **others: Any) -> dict[str, Finding]:
    sections: dict[str, Any] = {
        **others,
        "system": {"kind": system},
        "sealing": {"kind": sealing},
        "privacy": {"unit": unit, "noise_multiplier": 1.0, "clip_norm": 1.0},
        "schedule": {"min_survivors": 3},
    }
    if unit == "client":
        sections["privacy"]["relation"] = "zero-out"
        sections["schedule"] |= {"sampling_rate": None, "expected_batch": None}
    if system == "fedavg":
        sections |= {
            "privacy": None,
            "schedule": {"min_survivors": 3, "sampling_rate": None, "expected_batch": None},
        }
    nan, long, replay = findings(config(**sections), 256, 4)
    return {"nan": nan, "long": long, "replay": replay}


@pytest.mark.parametrize("sealing", ["none", "masked", "encrypted"])
def test_nan_counts_as_zero(sealing: str) -> None:
    row = trial("fedavg", sealing)["nan"]
    assert row.verdict == "holds"
    assert row.value == 0


PRIVATE = [("hedge", "record"), ("hedge", "client"), ("dp_lora", "record"), ("fedshield", "client")]


@pytest.mark.parametrize(("system", "unit"), PRIVATE)
@pytest.mark.parametrize("seed", [7, None])
def test_under_noise_too_nan_counts_as_zero(system: str, unit: str, seed: int | None) -> None:
    row = trial(system, "masked", unit, insecure_test_seed=seed)["nan"]
    assert row.value == 0
    assert row.verdict == "holds"
    assert row.text.startswith("It counts as zero")


@pytest.mark.parametrize("system", ["dr_encoder", "cg_fedllm"])
def test_nan_counts_as_zero_in_both_stages(system: str) -> None:
    asked = (
        encoder()
        if system == "dr_encoder"
        else encoder(system={"kind": system}, privacy=None, sealing={"kind": "none"})
    )
    row = findings(asked, DIMENSION, 4, schedule=plain_schedule(asked, LAYOUT, 1))[0]
    assert (row.value, row.verdict) == (0, "holds")


@pytest.mark.parametrize(("system", "unit"), PRIVATE)
def test_nan_that_counts_under_noise_raises_an_alarm(
    system: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a vector of full length, which no norm check refuses; the row held whatever the noise hid."""
    clip_rows = pipeline.clip_rows

    def counted(batch: Any, norm: float) -> tuple[Any, int]:
        rows = np.where(np.isfinite(batch).all(axis=1, keepdims=True), batch, np.float32(1e3))
        return clip_rows(rows, norm)

    monkeypatch.setattr(pipeline, "clip_rows", counted)
    row = trial(system, "masked", unit)["nan"]
    assert row.verdict == "alarm"
    assert row.value is not None
    assert row.value > 1
    assert "does not count as zero" in row.text


def test_where_no_unit_shows_nothing_is_said_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(batch: Any, norm: float) -> tuple[Any, int]:
        return np.zeros_like(batch), 0

    monkeypatch.setattr(pipeline, "clip_rows", nothing)
    assert trial("hedge", "masked")["nan"].verdict == "not applicable"


def test_under_masks_a_long_contribution_is_not_stopped_and_the_norm_of_the_sum_shows_it() -> None:
    row = trial("hedge", "masked")["long"]
    assert row.verdict == "not covered"
    assert row.value is not None
    assert row.value > 1
    assert "flags the round" in row.text


@pytest.mark.parametrize("sealing", ["masked", "encrypted"])
def test_a_sealed_message_does_not_count_as_its_thief_s(sealing: str) -> None:
    row = trial("hedge", sealing)["replay"]
    assert row.value != 2.0


@pytest.mark.parametrize("system", ["fedavg", "dp_lora"])
def test_without_a_seal_a_copied_message_counts_once(system: str) -> None:
    row = trial(system, "none")["replay"]
    assert row.verdict == "holds"
    assert row.value == 1.0


@pytest.mark.parametrize("unit", ["record", "client"])
def test_without_a_seal_a_long_contribution_is_refused(unit: str) -> None:
    row = trial("dp_lora", "none", unit)["long"]
    assert row.verdict == "holds"
    assert row.value == 0


def test_where_nothing_is_clipped_a_long_contribution_is_not_covered() -> None:
    row = trial("fedavg", "none")["long"]
    assert row.verdict == "not covered"
    assert "Nothing bounds" in row.text
