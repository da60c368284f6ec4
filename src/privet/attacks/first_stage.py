"""Membership in a first stage: ``mia.statistics`` on what it opens, ``mia.codec`` on the codec that is made of it.

Each attack has several runs, over candidates of their own: without noise, which is its control, and with the noise of
the run under audit."""

from __future__ import annotations

from privet.attacks import client_updates, mia_codec, mia_statistics
from privet.attacks.finding import Finding, not_applicable
from privet.attacks.rehearsal import of_another_run
from privet.config import Config
from privet.material import Material

MESSAGE = 8
"""Candidates of a run whose statistics are told apart: numbers in a message of four tensors."""
RECORDS = 4
"""Records of a candidate that is a client."""


def findings(config: Config, material: Material, clients: int, seed: int, alarm: float) -> list[Finding]:
    """Rows of both attacks; none where the run has no first stage.

    Args:
        config: What runs, with its noise multiplier.
        material: Its records; the model is at its start.
        clients: Candidates of each attack at most.
        seed: Draws blocks of records, and coins.
        alarm: Probability at most that one of the two raises an alarm on an honest run.
    """
    if not config.system.preparation_rounds:
        return []
    if config.system.kind == "cg_fedllm":
        # Of so few members the first would only be held out; in a second collection all are learned from.
        twice = config.system.model_copy(update={"collections": max(2, config.system.collections)})
        config = config.model_copy(update={"system": twice})
    by_record = config.privacy is not None and config.privacy.unit == "record"
    updates = client_updates.candidate_updates(material, clients, 1 if by_record else RECORDS, seed)
    settings = [("no noise", client_updates.without_noise(config))]
    if config.privacy is not None:
        settings.append(("this run's noise", config))
    attacks = [("mia.codec", mia_codec.findings, mia_codec.CANDIDATES)]
    if config.system.kind == "dr_encoder":
        attacks.insert(0, ("mia.statistics", mia_statistics.findings, MESSAGE))
    who = "records" if by_record else f"clients of {RECORDS} records"
    rows = []
    for name, attack, size in attacks:
        parts = [updates[at : at + size] for at in range(0, len(updates) - size + 1, size)]
        if not parts:
            reason = f"The silos have too few records: {len(updates)} {who}, and a run needs {size}."
            rows.append(not_applicable(name, "any", "what the first stage opened", reason))
            continue
        for noise, variant in settings:
            runs = [
                client_updates.cohort(of_another_run(variant, i), material, part, seed + i)
                for i, part in enumerate(parts)
            ]
            rows += attack(runs, f"{noise}, {who}, {len(runs)} runs of {size}", alarm)
    return rows
