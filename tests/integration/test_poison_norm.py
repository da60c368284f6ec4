"""``poison.norm``: what becomes of a round in which one client does not follow the rules."""

from __future__ import annotations

from typing import Any

import pytest
from support.toy import config

from privet.attacks.finding import Finding
from privet.attacks.poison_norm import findings


def trial(system: str, sealing: str, unit: str = "record") -> dict[str, Finding]:
    sections: dict[str, Any] = {
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
