"""From a configuration's ``sealing`` section to the two halves of a level and to what ``privet plan`` says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privet.config import (
    CkksSealing,
    EncryptedMaskedSealing,
    EncryptedSealing,
    MaskedSealing,
    NoSealing,
    SealingConfig,
)
from privet.fixed_point import Field
from privet.sealing import ckks, encrypted, encrypted_masked, masked, none
from privet.sealing.base import SealingClient, SealingPlan, SealingServer, Store, check_cohort
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.encrypted_messages import sum_schema
from privet.sealing.identity import Identity
from privet.sealing.masking import MaskingClient
from privet.sealing.masks import Group
from privet.sealing.roster import Roster
from privet.sealing.unmasking import MaskingServer
from privet.wire import Schema


@dataclass(frozen=True)
class Seal:
    """The public facts that both halves of a level are made from.

    Attributes:
        config: The section.
        run: Name of the run and what was agreed on; enters every signature and key.
        roster: Who takes part.
        field: Integers that hold the noisy sum.
        survivors: Contributions demanded before a sum is opened.
        fresh_noise: Whether each attempt's contribution holds noise of its own.
        insecure_test_seed: Keys follow from seeds, so that a run repeats bit by bit.
    """

    config: SealingConfig
    run: str
    roster: Roster
    field: Field
    survivors: int
    fresh_noise: bool = False
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
        common: dict[str, Any] = {
            "run": self.run,
            "roster": self.roster,
            "identity": identity,
            "store": store,
        }
        masks: dict[str, Any] = {"root": root, "fresh_noise": self.fresh_noise}
        masks["insecure_test_seed"] = self.insecure_test_seed
        least = self.survivors
        match self.config:
            case MaskedSealing():
                group = Group.of_bits(self.field.bits)
                return masked.MaskedClient(MaskingClient(**common, **masks, least=least, group=group))
            case EncryptedSealing():
                return encrypted.encrypted_client(**common, least=least, parameters=self._bfv)
            case EncryptedMaskedSealing():
                return encrypted_masked.EncryptedMaskedClient(
                    **common, **masks, least=least, parameters=self._bfv
                )
            case CkksSealing():
                return ckks.ckks_client(**common, least=least)

    def server(self, store: Store) -> SealingServer:
        """The server's half; ``store`` keeps what it needs to finish a round after a crash."""
        if isinstance(self.config, NoSealing):
            return none.PlainServer(parties=self.roster.size, bits=self.field.bits, floor=self.survivors)
        common: dict[str, Any] = {"run": self.run, "roster": self.roster}
        match self.config:
            case MaskedSealing():
                unmasking = MaskingServer(
                    **common,
                    group=Group.of_bits(self.field.bits),
                    least=check_cohort(masked.LEVEL, self.roster.size, self.survivors),
                    store=store,
                    rounds_per_epoch=self.config.epoch_rounds,
                )
                return masked.MaskedServer(unmasking)
            case EncryptedSealing():
                return encrypted.encrypted_server(
                    **common,
                    floor=self.survivors,
                    parameters=self._bfv,
                    store=store,
                    fresh_noise=self.fresh_noise,
                )
            case EncryptedMaskedSealing():
                return encrypted_masked.EncryptedMaskedServer(
                    **common,
                    floor=self.survivors,
                    parameters=self._bfv,
                    store=store,
                    rounds_per_epoch=self.config.epoch_rounds,
                )
            case CkksSealing():
                return ckks.ckks_server(
                    **common, floor=self.survivors, store=store, fresh_noise=self.fresh_noise
                )

    @property
    def hands_sums_on(self) -> bool:
        """Whether the server cannot open sums and hands them to a designated client."""
        return hands_sums_on(self.config)

    def sum_schema(self, count: int) -> Schema | None:
        """Schema of a sum that the server cannot open and hands to a client; ``None`` where it opens it."""
        match self.config:
            case EncryptedSealing() | EncryptedMaskedSealing():
                return sum_schema(encrypted.BfvScheme(self._bfv), count, self.roster.size)
            case CkksSealing():
                return sum_schema(ckks.CkksScheme(self.roster.size), count, self.roster.size)
        return None

    @property
    def _bfv(self) -> BfvParameters:
        return BfvParameters.for_field(self.field.bits, self.roster.size)


def hands_sums_on(config: SealingConfig) -> bool:
    """Whether the server cannot open a level's sums and hands them to a designated client."""
    return not isinstance(config, NoSealing | MaskedSealing)


def forecast(
    config: SealingConfig, *, size: int, field: Field, parties: int, survivors: int, rounds: int = 8
) -> SealingPlan:
    """What a level promises and costs.

    Args:
        config: The section.
        size: Values in a contribution.
        field: Integers that hold the noisy sum.
        parties: Enrolled clients.
        survivors: Contributions demanded.
        rounds: Rounds of the run, over which keys are counted.

    Raises:
        PrivetError: if the cohort is too small for the level.
    """
    check_cohort(config.kind, parties, survivors)
    if isinstance(config, NoSealing):
        return none.plan(count=size, bits=field.bits, parties=parties)
    common: dict[str, Any] = {"count": size, "parties": parties, "rounds": rounds}
    match config:
        case MaskedSealing():
            return masked.plan(**common, bits=field.bits, rounds_per_epoch=config.epoch_rounds)
        case EncryptedSealing():
            return encrypted.plan(**common, parameters=BfvParameters.for_field(field.bits, parties))
        case EncryptedMaskedSealing():
            parameters, epoch = BfvParameters.for_field(field.bits, parties), config.epoch_rounds
            return encrypted_masked.plan(**common, parameters=parameters, rounds_per_epoch=epoch)
        case CkksSealing():
            return ckks.plan(**common)
