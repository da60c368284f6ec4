"""What a site allows, whatever a run asks for: its own limits, in a file that nobody else writes.

A site checks a run before it joins, with its own resolution of the configuration and its own ledger, so a server cannot
talk it into more than stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from privet.config import SHARED_ARITHMETIC, Config, Relation, Section, Unit
from privet.model_config import split_revision
from privet.resolve import Resolved

SealingKind = Literal["none", "masked", "encrypted", "encrypted+masked", "ckks"]
SystemKind = Literal["fedavg", "dp_lora", "cg_fedllm", "dr_encoder", "fedshield", "hedge"]


class SitePolicy(Section):
    """A site's limits; each is the most that a run may ask of it."""

    max_epsilon: float | None = Field(
        8.0,
        gt=0,
        description="Largest epsilon of all runs of this kit together against the worst observer of each run's trust "
        "model; absent (`null`) allows runs without any guarantee.",
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="Delta at which this site accounts.")
    unit: Unit = Field("record", description="Whose data this site's ledger protects.")
    relation: Relation = Field("add-remove", description="Neighbouring relation of this site's ledger.")
    systems: tuple[SystemKind, ...] = Field(("hedge", "dp_lora"), description="Systems that may run here.")
    faithful: bool = Field(False, description="Whether a paper's system may run as published.")
    sealing: tuple[SealingKind, ...] = Field(
        ("masked", "encrypted", "encrypted+masked"),
        min_length=1,
        description="Sealing levels that may be used.",
    )
    minimum_cohort: int = Field(
        3, ge=1, description="Fewest contributions in any sum that this site's contribution is part of."
    )
    colluders: int = Field(
        1,
        ge=0,
        description="Fewest colluders that a run's guarantee must assume where noise is put together from shares; 1 "
        "covers a curious participant.",
    )
    max_attempts: int = Field(
        5, ge=1, description="Most attempts at one round that this site answers; each is a release."
    )
    models: tuple[str, ...] | None = Field(
        None,
        description="Names of base models that may be used, hub models as `NAME@COMMIT`; if absent, the embedded "
        "ones, that of the agreed configuration, and whatever `model` stands for.",
    )
    readings: tuple[str, ...] = Field(
        (),
        description="Fingerprints of the ways to read this site's records that were approved here: template, columns, "
        "verbalisers, held-out shares. `privet site approve CONFIG` adds one.",
    )
    allow_insecure_test_seed: bool = Field(
        False, description="Whether runs whose secrets follow from a number may use these data. For tests."
    )


@dataclass(frozen=True)
class Refusal:
    """Why a site does not take part.

    Attributes:
        reason: Short fixed slug; safe to send.
        detail: A sentence for the people at the site: what was asked, what is allowed.
    """

    reason: str
    detail: str


def refusals(policy: SitePolicy, resolved: Resolved) -> list[Refusal]:
    """All limits of a policy that a run exceeds; those on epsilon are the ledger's."""
    config = resolved.config
    found = []

    def limit(broken: bool, slug: str, what: str, given: object, allowed: object) -> None:
        if broken:
            found.append(Refusal(f"policy-{slug}", f"{what}: {given}; this site allows {allowed}"))

    system, sealing, cohort = config.system.kind, config.sealing.kind, resolved.trust.min_survivors
    limit(system not in policy.systems, "system", "the run's system", system, ", ".join(policy.systems))
    limit(
        _faithful(config) and not policy.faithful,
        "faithful",
        "the system as published",
        "asked",
        "the sound one",
    )
    limit(sealing not in policy.sealing, "sealing", "the run's sealing", sealing, ", ".join(policy.sealing))
    least = policy.minimum_cohort
    limit(cohort < least, "cohort", "contributions in a sum", cohort, f"{least} or more")
    if config.privacy is not None and resolved.trust.noise == "shares":
        assumed = resolved.trust.colluders
        limit(
            assumed < policy.colluders,
            "colluders",
            "assumed colluders",
            assumed,
            f"{policy.colluders} or more",
        )
    limit(
        config.void == SHARED_ARITHMETIC and policy.max_epsilon is not None,
        "arithmetic",
        "engine.deterministic_units",
        "false, so that a record moves the gradients of others",
        "true",
    )
    models = policy.models
    if models is not None:
        limit(
            config.model.name not in {split_revision(each)[0] for each in models},
            "model",
            "the base model",
            config.model.name,
            ", ".join(models),
        )
    seeded = config.insecure_test_seed is not None
    limit(
        seeded and not policy.allow_insecure_test_seed,
        "test-seed",
        "secrets out of a test seed",
        "asked",
        "none",
    )
    return found


def _faithful(config: Config) -> bool:
    return bool(getattr(config.system, "faithful", False))
