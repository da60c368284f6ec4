"""How often the audit cries wolf: honest runs over many seeds, their lower bounds against what was charged.

Run ``make audit-calibration``. Two parts, each with a binomial test at 1e-3:

- canaries: `audit.canary` at its 95 % bound, on small vectors, for systems that add shares of one noise and for those
  that add their own; the bound may exceed the accounted epsilon in 5 % of the seeds;
- suites: the whole quick suite on the small model; it may raise an alarm in 5 % of the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scipy.stats import binom

from privet.attacks.audit_canary import Plan, accounted, score
from privet.attacks.gdp import epsilon_of_mu
from privet.attacks.rehearsal import everybody_in
from privet.attacks.suite import FALSE_ALARM, audit
from privet.config import Config, parse

LEVEL, TEST = 0.05, 1e-3
RAW: dict[str, Any] = {
    "version": 1,
    "system": {"kind": "hedge"},
    "model": {"name": "small"},
    "data": {"kind": "sentiment"},
    "lora": {"layers": {"top": 2}},
    "schedule": {"rounds": 4, "sampling_rate": 0.018, "expected_batch": 256},
    "privacy": {"delta": 1e-5, "noise_multiplier": 1.0, "clip_norm": 1.0},
    "sealing": {"kind": "masked"},
    "engine": {"threads": 1},
}
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hedge, masked", {}),
    ("dp_lora, no seal", {"system": {"kind": "dp_lora"}, "sealing": {"kind": "none"}}),
    ("hedge, masked, clients", {"privacy": {"unit": "client", "relation": "zero-out"}}),
    ("hedge, masked, sampled", {"schedule": {"sampling_rate": 0.3}}),
)


def configuration(changes: dict[str, Any], seed: int) -> Config:
    """The base with changes; secrets follow from the seed, so that a count repeats."""
    raw = json.loads(json.dumps(RAW))
    for section, values in changes.items():
        raw[section] = {**raw[section], **values}
    return parse({**raw, "insecure_test_seed": seed})


def canaries(seeds: int) -> list[dict[str, Any]]:
    """Seeds in which the 95 % lower bound exceeds the accounted epsilon."""
    rows = []
    for name, changes in SETTINGS:
        over = 0
        for seed in range(seeds):
            config = configuration(changes, seed)
            if "sampled" not in name:
                config = everybody_in(config, 64.0)
            scored = score(config, 512, 4, Plan(128, 4, seed))
            claimed = accounted(scored)
            assert claimed is not None, "these settings have a finite epsilon"
            over += epsilon_of_mu(scored.estimate(LEVEL).low, 1e-5) > claimed
        rows.append(row(f"audit.canary, {name}", over, seeds, LEVEL))
    return rows


def suites(seeds: int) -> dict[str, Any]:
    """Seeds in which the quick suite raises an alarm."""
    alarms = sum(audit(configuration({}, seed), seed=seed)["alarms"] > 0 for seed in range(seeds))
    return row("quick suite, small model", alarms, seeds, FALSE_ALARM)


def row(name: str, over: int, seeds: int, level: float) -> dict[str, Any]:
    """One count, with the largest that an honest audit of this level reaches but once in a thousand."""
    most = int(binom.ppf(1 - TEST, seeds, level))
    return {"what": name, "over": over, "seeds": seeds, "level": level, "most": most, "kept": over <= most}


def main() -> None:
    """Count, print, and fail if a level is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canaries", type=int, default=200, help="seeds of each setting")
    parser.add_argument("--suites", type=int, default=20, help="seeds of the whole quick suite")
    parser.add_argument("--out", type=Path, help="also write the rows here, as JSON")
    given = parser.parse_args()
    rows = canaries(given.canaries)
    if given.suites:
        rows.append(suites(given.suites))
    for each in rows:
        print(
            f"{each['what']}: {each['over']} of {each['seeds']} over, at most {each['most']} at level {each['level']}"
        )
    if given.out:
        given.out.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if not all(each["kept"] for each in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
