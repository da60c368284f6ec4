"""How often the audit cries wolf: honest runs over many seeds, their lower bounds against what was charged.

Run ``make audit-calibration``, or ``python -m experiments.audit_calibration.run``; each seed is a row, so it goes on
where it stopped, and ``--seconds 600`` stops it after ten minutes. Two parts:

- canaries: `audit.canary` at its 95 % bound, on small vectors; the bound may exceed the accounted epsilon in 5 % of
  the seeds;
- suites: the whole quick suite on the small model; it may raise an alarm in 5 % of the seeds.

A setting whose count an honest audit would reach less than once in a thousand fails the command.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

from experiments.study import ROOT, Results
from scipy.stats import beta, binom

from privet.attacks.audit_canary import Plan, accounted, score
from privet.attacks.gdp import epsilon_of_mu
from privet.attacks.rehearsal import everybody_in
from privet.attacks.suite import audit
from privet.config import Config, parse
from privet.material import Material, gather

HERE = Path(__file__).parent
CANARIES, SUITES = "audit.canary", "quick suite"
Key = tuple[str, str, int]


def configuration(declared: dict[str, Any], changes: dict[str, Any], seed: int) -> Config:
    """The base with changes; secrets follow from the seed, so that a count repeats."""
    raw = json.loads(json.dumps(declared["base"]))
    for section, values in changes.items():
        raw[section] = values if "kind" in values else {**raw[section], **values}
    return parse({**raw, "insecure_test_seed": seed})


def canary(declared: dict[str, Any], setting: dict[str, Any], seed: int) -> dict[str, Any]:
    """Whether the 95 % lower bound of one seed exceeds the accounted epsilon."""
    sizes = declared["canaries"]
    config = configuration(declared, setting["set"], seed)
    if setting["everybody"]:
        config = everybody_in(config, float(sizes["batch"]))
    plan = Plan(sizes["canaries"], sizes["rounds"], seed)
    scored = score(config, sizes["dimension"], sizes["parties"], plan)
    claimed = accounted(scored)
    assert claimed is not None, "these settings have a finite epsilon"
    delta = declared["base"]["privacy"]["delta"]
    low = epsilon_of_mu(scored.estimate(declared["level"]).low, delta)
    return {"low": round(low, 4), "accounted": round(claimed, 4), "over": bool(low > claimed)}


def suite(config: Config, material: Material, seed: int) -> dict[str, Any]:
    """Whether the quick suite raises an alarm, and which rows do.

    In a process of its own, since a suite takes the adapters out of the model for good.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run() -> None:
        theirs.send(audit(config, seed=seed, material=material))

    process = context.Process(target=run)
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    rows = [f"{row['attack']}: {row['setting']}" for row in found["findings"] if row["verdict"] == "alarm"]
    return {"alarms": rows, "over": bool(rows)}


def verdicts(declared: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One count a setting, beside the largest that an honest audit reaches but once in a thousand."""
    counts = []
    for part, settings in ((CANARIES, declared["canaries"]), (SUITES, declared["suites"])):
        for setting in settings["settings"]:
            own = [r["over"] for r in rows if r["what"] == part and r["codec"] == setting["name"]]
            if not own:
                continue
            over, seeds = sum(own), len(own)
            most = int(binom.ppf(1 - declared["test"], seeds, declared["level"]))
            high = 1.0 if over == seeds else float(beta.ppf(0.95, over + 1, seeds - over))
            what = f"{part}, {setting['name']}"
            counts.append(
                {"what": what, "over": over, "seeds": seeds, "upper_95": round(high, 3), "most": most}
            )
    return counts


def table(declared: dict[str, Any], results: Results) -> str:
    """Markdown of the counts."""
    commits = ", ".join(sorted({row["commit"] for row in results.rows}))
    lines = [
        f"Level {declared['level']}; configuration {results.digest}, commits {commits}. A count above the last column "
        f"has probability {declared['test']:g} at most in an audit that keeps its level.",
        "",
        "| audit | seeds | over | 95 % upper bound of the rate | allowed by the binomial test |",
        "| --- | --: | --: | --: | --: |",
    ]
    for each in verdicts(declared, results.rows):
        lines.append(
            f"| {each['what']} | {each['seeds']} | {each['over']} | {each['upper_95']} | {each['most']} |"
        )
    return "\n".join(lines) + "\n"


def missing(declared: dict[str, Any], results: Results, seeds: dict[str, int]) -> list[tuple[str, Any, int]]:
    """Seeds without a row, in the order they are measured in."""
    return [
        (part, setting, seed)
        for part, settings in ((CANARIES, declared["canaries"]), (SUITES, declared["suites"]))
        for setting in settings["settings"]
        for seed in range(seeds[part])
        if not results.has(what=part, codec=setting["name"], seed=seed)
    ]


def main() -> None:
    """Measure what is missing, write the table, and fail if a level is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canaries", type=int, default=200, help="seeds of each setting")
    parser.add_argument("--suites", type=int, default=20, help="seeds of each setting's whole quick suite")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long, to go on later"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "small.json", help="the rows")
    given = parser.parse_args()
    declared = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    results = Results(given.out, declared)
    started, due = (
        time.monotonic(),
        missing(declared, results, {CANARIES: given.canaries, SUITES: given.suites}),
    )
    material = None
    for done, (part, setting, seed) in enumerate(due):
        if time.monotonic() - started > given.seconds:
            print(f"{len(due) - done} of {len(due)} seeds are left: run this again", flush=True)
            return
        begun = time.monotonic()
        if part == CANARIES:
            row = canary(declared, setting, seed)
        else:
            config = configuration(declared, setting["set"], seed)
            material = material or gather(configuration(declared, {}, 0))
            row = suite(config, material, seed)
        spent = round(time.monotonic() - begun, 1)
        results.add({"what": part, "codec": setting["name"], "seed": seed, **row, "seconds": spent})
        if part == SUITES or row["over"] or seed % 50 == 0:
            print(f"{part}, {setting['name']}, seed {seed}: {row}, {spent} s", flush=True)
    given.out.with_suffix(".md").write_text(table(declared, results), encoding="utf-8")
    for each in verdicts(declared, results.rows):
        print(f"{each['what']}: {each['over']} of {each['seeds']} over, at most {each['most']}")
    print(given.out.relative_to(ROOT) if given.out.is_relative_to(ROOT) else given.out)
    if any(each["over"] > each["most"] for each in verdicts(declared, results.rows)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
