"""From a configuration's ``sealing`` section to the two halves of a level and to what ``privet plan`` says of it."""

from __future__ import annotations

from dataclasses import dataclass

from privet.config import MaskedSealing, NoSealing, SealingConfig
from privet.errors import PrivetError
from privet.fixed_point import Field
from privet.sealing import masked, none
from privet.sealing.base import SealingClient, SealingPlan, SealingServer, Store, check_cohort
from privet.sealing.identity import Identity
from privet.sealing.masking import MaskingClient
from privet.sealing.masks import Group
from privet.sealing.roster import Roster
from privet.sealing.unmasking import MaskingServer


@dataclass(frozen=True)
class Seal:
    """The public facts that both halves of a level are made from.

    Attributes:
        config: The section.
        run: Name of the run; enters every signature and key.
        roster: Who takes part.
        field: Integers that hold the noisy sum.
        survivors: Contributions demanded before a sum is opened.
        insecure_test_seed: Keys follow from seeds, so that a run repeats bit by bit.
    """

    config: SealingConfig
    run: str
    roster: Roster
    field: Field
    survivors: int
    insecure_test_seed: bool = False

    def client(self, identity: Identity, root: bytes, store: Store) -> SealingClient:
        """One party's half.

        Args:
            identity: The party's key, which is in the roster.
            root: 32 secret bytes of this party for this run.
            store: Where it keeps decisions and secrets.
        """
        if isinstance(self.config, NoSealing):
            return none.PlainClient(self.field.bits)
        if isinstance(self.config, MaskedSealing):
            masking = MaskingClient(
                run=self.run,
                roster=self.roster,
                identity=identity,
                root=root,
                group=Group.of_bits(self.field.bits),
                least=self.survivors,
                store=store,
                insecure_test_seed=self.insecure_test_seed,
            )
            return masked.MaskedClient(masking)
        raise _unknown(self.config.kind)

    def server(self, store: Store) -> SealingServer:
        """The server's half; ``store`` keeps what it needs to finish a round after a crash."""
        if isinstance(self.config, NoSealing):
            return none.PlainServer(parties=self.roster.size, bits=self.field.bits, floor=self.survivors)
        if isinstance(self.config, MaskedSealing):
            unmasking = MaskingServer(
                run=self.run,
                roster=self.roster,
                group=Group.of_bits(self.field.bits),
                least=check_cohort(masked.LEVEL, self.roster.size, self.survivors),
                store=store,
                rounds_per_epoch=self.config.epoch_rounds,
            )
            return masked.MaskedServer(unmasking)
        raise _unknown(self.config.kind)


def forecast(config: SealingConfig, *, size: int, field: Field, parties: int, survivors: int) -> SealingPlan:
    """What a level promises and costs.

    Args:
        config: The section.
        size: Values in a contribution.
        field: Integers that hold the noisy sum.
        parties: Enrolled clients.
        survivors: Contributions demanded.

    Raises:
        PrivetError: if the cohort is too small for the level.
    """
    check_cohort(config.kind, parties, survivors)
    if isinstance(config, NoSealing):
        return none.plan(count=size, bits=field.bits, parties=parties)
    if isinstance(config, MaskedSealing):
        return masked.plan(count=size, bits=field.bits, parties=parties, rounds_per_epoch=config.epoch_rounds)
    raise _unknown(config.kind)


def _unknown(kind: str) -> PrivetError:
    return PrivetError(
        "is not built into this version", field="sealing.kind", given=kind, allowed="none, masked"
    )
