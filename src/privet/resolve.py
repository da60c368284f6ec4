"""From what a configuration asks for to what will run: the trust model, the noise, and the composition.

Nothing here looks at private data. Calibration asks for the noise that gives the *worst* observer of the declared
trust model the target epsilon, for all planned releases together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privet.codecs.base import Layout
from privet.config import Config, PrivacyConfig
from privet.errors import PrivetError
from privet.pipeline import CodecLike
from privet.privacy.events import AnyRelease
from privet.privacy.ledger import Ledger
from privet.privacy.observers import TrustModel
from privet.sealing.base import openers
from privet.systems import Facts, System, compose

Factors: TypeAlias = tuple[NDArray[np.int64], ...]

NO_PRIVACY = PrivacyConfig(unit="client", relation="zero-out", noise_multiplier=1.0)
"""What a ledger is opened with where no guarantee is asked for; its only entries say that there is none."""


@dataclass(frozen=True)
class Resolved:
    """A configuration, what it composes to, and the account it will keep.

    Attributes:
        config: With noise multiplier, clip norm and budget filled in.
        facts: Public facts of the composition.
        system: What runs.
        trust: The declared trust model.
    """

    config: Config
    facts: Facts
    system: System
    trust: TrustModel

    def ledger(self) -> Ledger:
        """A new ledger for this run."""
        return open_ledger(self.config, self.trust)

    def compose(self, codec: CodecLike | None) -> System:
        """The same run with another codec: the grid follows the code's size, the noise multiplier stays."""
        return compose(self.config, replace(self.facts, codec=codec))

    @property
    def rounds(self) -> int:
        """Rounds of the protocol: those of the preparation, and T that move the adapter."""
        return self.config.rounds

    def planned(self) -> list[AnyRelease]:
        """All releases of a run that goes to its end without a retry."""
        return self.system.releases(self.config.schedule.rounds)


def open_ledger(config: Config, trust: TrustModel) -> Ledger:
    """An empty ledger under the configuration's unit, relation, delta and budget."""
    p = config.privacy or NO_PRIVACY
    return Ledger(p.unit, p.relation, p.delta, p.max_epsilon, trust=trust)


def trust_model(config: Config, parties: int) -> TrustModel:
    """The trust model that a configuration declares for ``parties`` clients.

    Raises:
        PrivetError: if more survivors are demanded than there are clients, or no honest share is left.
    """
    survivors = config.schedule.min_survivors or parties
    if survivors > parties:
        raise PrivetError(
            "more survivors than clients",
            field="schedule.min_survivors",
            given=survivors,
            allowed=f"at most {parties}, the number of clients",
        )
    # Without a seal the server sees each message by itself, so each carries all of the noise.
    unsealed = config.system.kind == "dr_encoder" and config.sealing.kind == "none"
    if config.privacy is None or config.system.kind == "dp_lora" or unsealed:
        return TrustModel(parties, survivors, noise="local")
    colluders = config.privacy.trust.colluders
    if colluders >= survivors:
        raise PrivetError(
            "leaves no honest share of the noise",
            field="privacy.trust.colluders",
            given=colluders,
            allowed=f"at most {survivors - 1} with {survivors} survivors",
            hint="use more clients, or system dp_lora, where every client adds its own noise in full",
        )
    return TrustModel(parties, survivors, colluders, openers=openers(config.sealing.kind, parties, survivors))


def resolve(
    config: Config,
    *,
    dimension: int,
    parties: int,
    clip_norm: float = 1.0,
    codec: CodecLike | None = None,
    factors: Factors = (),
    layout: Layout = (),
) -> Resolved:
    """Fill in what a configuration leaves open, and compose.

    Args:
        config: A checked configuration.
        dimension: Trained values D.
        parties: Enrolled clients.
        clip_norm: Clip norm for ``privacy.clip_norm: public``; epsilon does not depend on it.
        codec: The codec, or ``None`` for the identity.
        factors: Positions of each kind of factor; all values are one factor when absent.
        layout: Names and shapes of the trained tensors; one tensor of all values when absent.

    Raises:
        PrivetError: if no noise reaches the target, or the composition is unsound.
    """
    trust = trust_model(config, parties)
    facts = Facts(
        dimension=dimension,
        parties=parties,
        floor=1 if trust.noise == "local" else trust.floor,
        codec=codec,
        factors=factors or (np.arange(dimension, dtype=np.int64),),
        layout=layout,
    )
    privacy = config.privacy
    if privacy is None:
        return Resolved(config, facts, compose(config, facts), trust)
    if privacy.clip_norm != "public":
        clip_norm = privacy.clip_norm
    facts = replace(facts, clip_norm=clip_norm)
    multiplier = privacy.noise_multiplier or _calibrated(config, privacy.target_epsilon, facts, trust)
    facts = replace(facts, noise_multiplier=multiplier)
    update = {
        "noise_multiplier": multiplier,
        "clip_norm": clip_norm,
        "target_epsilon": None,
        # The target becomes the budget: what was promised holds even when a round has to be charged twice.
        "max_epsilon": privacy.max_epsilon or privacy.target_epsilon,
    }
    config = config.model_copy(update={"privacy": privacy.model_copy(update=update)})
    return Resolved(config, facts, compose(config, facts), trust)


def _calibrated(config: Config, target: float | None, facts: Facts, trust: TrustModel) -> float:
    assert target is not None, "config_rules demands a target or a multiplier"

    def releases(multiplier: float) -> list[AnyRelease]:
        system = compose(config, replace(facts, noise_multiplier=multiplier))
        return system.releases(config.schedule.rounds)

    return open_ledger(config, trust).calibrate(releases, target)
