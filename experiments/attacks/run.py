"""What attacks get out of each system, with and without seal and noise.

Run ``python -m experiments.attacks.run``; it goes on where it stopped, and ends with ``results/<model>.md``.

Each row is one configuration. Recall is that of private tokens from what its observer can open (single messages where
nothing seals them, else the sum), on adapters where inversion works; AUC is that of ``mia.gradient`` and the epsilons
are those of ``audit.canary``, on the row's own adapters, with every unit in every round. Where a first stage makes the
codec, ``mia.statistics`` and ``mia.codec`` are there too, with this row's noise and without: runs whose candidates they
named, and the epsilon that all their guesses prove. The accounted epsilon beside the audited one is for exactly the
rounds that were audited; that of the whole configuration stands beside it.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.study import ROOT, Results, arguments

from privet.attacks.finding import Finding
from privet.attacks.suite import SIZES, Auditor, resolved
from privet.config import Config, parse
from privet.material import Material, gather, layout_of
from privet.resolve import resolve

HERE = Path(__file__).parent


def configuration(declared: dict[str, Any], row: dict[str, Any], model: str) -> Config:
    """The configuration of a row: the base with the row's changes laid over it."""
    raw: dict[str, Any] = json.loads(json.dumps(declared["base"]))
    raw["model"]["name"] = model
    for section, changes in row["set"].items():
        raw[section] = changes if changes is None or "kind" in changes else {**raw[section], **changes}
    return parse({name: value for name, value in raw.items() if value is not None}, row["name"])


def numbers(found: Finding) -> dict[str, Any]:
    """The parts of a finding that a table needs."""
    shown = found.as_dict()
    return {
        name: shown[name] for name in ("value", "low", "high", "samples", "verdict", "compared", "setting")
    }


def whole(config: Config, material: Material) -> float | None:
    """Accounted epsilon of the whole configuration; ``None`` if there is no finite one."""
    known = resolve(
        config,
        dimension=material.trainer.dimension,
        parties=len(material.silos),
        layout=layout_of(material),
    )
    ledger = known.ledger()
    for release in known.planned():
        ledger.charge(release)
    epsilons = ledger.epsilon()
    return None if epsilons.reason else epsilons.value


def main() -> None:
    """Measure what is missing, then write the table."""
    given = arguments(__doc__ or "")
    declared = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    model = "small" if given.model == "small" else declared["base"]["model"]["name"]
    results = Results(HERE / "results" / f"{given.model}.json", {**declared, "model": model})
    rows = [(row["name"], configuration(declared, row, model)) for row in declared["rows"]]
    sizes = replace(SIZES[declared["suite"]], trials=declared["trials"])
    material = gather(rows[0][1])
    ready = {name: resolved(config, material) for name, config in rows}
    for name, config in ready.items():  # the run's own adapters first: inversion takes them out of the model
        if results.has(codec=name, part="own"):
            continue
        started = time.monotonic()
        auditor = Auditor(config, material, sizes, declared["seed"], (), lambda kind, facts: None)
        canary = auditor.canary_rows()[0]
        area = next(f for f in auditor.protected_membership() if f.metric == "AUC")
        first = auditor.first_stage_rows()
        results.add(
            {
                "codec": name,
                "part": "own",
                "system": config.system.kind,
                "sealing": config.sealing.kind,
                "unit": config.privacy.unit if config.privacy else None,
                "delta": config.privacy.delta if config.privacy else None,
                "canary": numbers(canary),
                "auc": numbers(area),
                # Two rows an attack and setting: runs that were named whole, and the epsilon that its guesses prove.
                "first_stage": [
                    {"attack": named.attack, "named": numbers(named), "proved": numbers(proved)}
                    for named, proved in zip(first[::2], first[1::2], strict=True)
                ],
                "epsilon": whole(config, material),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        print(name, canary.value, canary.compared, area.value, flush=True)
    made = None
    for name, config in ready.items():
        if results.has(codec=name, part="control"):
            continue
        started = time.monotonic()
        auditor = Auditor(config, material, sizes, declared["seed"], (), lambda kind, facts: None)
        made = replace(made, config=config) if made else auditor.inversions()
        found = made.protected(sizes.trials)
        spent = round(time.monotonic() - started, 1)
        results.add({"codec": name, "part": "control", "recall": numbers(found), "seconds": spent})
        print(name, "recall", found.value, found.compared, flush=True)
    from experiments.attacks.table import table

    path = HERE / "results" / f"{given.model}.md"
    path.write_text(table(json.loads(results.path.read_text(encoding="utf-8"))), encoding="utf-8")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
