"""From what a configuration asks for to what will run: the trust model's floor, the noise, and the composition.

Nothing here looks at private data. Calibration asks for the noise that gives the *worst* observer of the declared
trust model the target epsilon, for all planned releases together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from privet.config import Config, PrivacyConfig
from privet.errors import PrivetError
from privet.pipeline import CodecLike
from privet.privacy.accountants import calibrate
from privet.privacy.events import AnyRelease, NoGuarantee
from privet.systems import Facts, System, compose

SECTION = "privacy.trust"


@dataclass(frozen=True)
class Cohort:
    """Who takes part, by the declared numbers.

    Attributes:
        parties: Enrolled clients n.
        survivors: Contributions demanded before a sum is opened.
        colluders: Clients assumed to pool what they know with an observer.
    """

    parties: int
    survivors: int
    colluders: int

    @property
    def floor(self) -> int:
        """Honest shares that are surely in an opened sum."""
        return self.survivors - self.colluders

    @classmethod
    def of(cls, config: Config, parties: int) -> Cohort:
        """The cohort that a configuration declares for ``parties`` clients.

        Raises:
            PrivetError: if more survivors are demanded than there are clients, or no honest share is left.
        """
        trust = config.privacy.trust if config.privacy else None
        demanded = trust.min_survivors if trust and trust.min_survivors else parties
        colluders = trust.colluders if trust else 0
        if demanded > parties:
            raise PrivetError(
                "more survivors than clients",
                field=f"{SECTION}.min_survivors",
                given=demanded,
                allowed=f"at most {parties}, the number of clients",
            )
        shared = config.system.kind in {"hedge", "fedshield"} and config.privacy is not None
        if shared and demanded - colluders < 1:
            raise PrivetError(
                "leaves no honest share of the noise",
                field=f"{SECTION}.colluders",
                given=colluders,
                allowed=f"at most {demanded - 1} with {demanded} survivors",
                hint="use more clients, or system dp_lora, where every client adds its own noise in full",
            )
        return cls(parties, demanded, colluders if shared else 0)


def planned_releases(system: System, rounds: int) -> list[AnyRelease]:
    """All releases of a run that goes to its end without a retry."""
    if isinstance(system.release, NoGuarantee):
        return [system.release]
    return [system.release.times(system.release.count * rounds)]


def resolve(
    config: Config,
    *,
    dimension: int,
    cohort: Cohort,
    clip_norm: float = 1.0,
    codec: CodecLike | None = None,
) -> tuple[Config, System]:
    """The configuration with its noise multiplier and clip norm filled in, and the system that runs it.

    Args:
        config: A checked configuration.
        dimension: Trained values D.
        cohort: Who takes part.
        clip_norm: Clip norm for ``privacy.clip_norm: public``; epsilon does not depend on it.
        codec: The codec, or ``None`` for the identity.

    Raises:
        PrivetError: if no noise reaches the target, or the composition is unsound.
    """
    facts = Facts(dimension=dimension, parties=cohort.parties, floor=cohort.floor, codec=codec)
    privacy = config.privacy
    if privacy is None:
        return config, compose(config, facts)
    if privacy.clip_norm != "public":
        clip_norm = privacy.clip_norm
    facts = replace(facts, clip_norm=clip_norm)
    multiplier = privacy.noise_multiplier or _calibrated(config, privacy, facts)
    facts = replace(facts, noise_multiplier=multiplier)
    # The target becomes the budget: what was promised holds even when a round has to be charged twice.
    budget = privacy.max_epsilon or privacy.target_epsilon
    update = {"noise_multiplier": multiplier, "clip_norm": clip_norm, "max_epsilon": budget}
    resolved = privacy.model_copy(update={**update, "target_epsilon": None})
    return config.model_copy(update={"privacy": resolved}), compose(config, facts)


def _calibrated(config: Config, privacy: PrivacyConfig, facts: Facts) -> float:
    assert privacy.target_epsilon is not None, "config_rules demands one of the two"

    def releases(multiplier: float) -> list[AnyRelease]:
        system = compose(config, replace(facts, noise_multiplier=multiplier))
        return planned_releases(system, config.schedule.rounds)

    return calibrate(releases, privacy.target_epsilon, privacy.delta, privacy.relation)
