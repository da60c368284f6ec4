"""Who takes part in a run, and where they are: all in this process, or (`privet.engines`) at sites of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from privet.config import Config
from privet.errors import PrivetError
from privet.federation import Federation, Secrets, federate
from privet.keys import SecretStore
from privet.material import Material, codec_schedule, gather
from privet.resolve import Resolved
from privet.run_folder import RunFolder
from privet.server import Server
from privet.store import FolderStore
from privet.work import Workplace

Observe = Callable[[str, dict[str, Any]], None]
"""Told what happens in a run: a kind of event and its facts."""


class Cast(Protocol):
    """Who takes part in a run and where they are: all in this process, or at sites of their own."""

    def gather(self, config: Config, observe: Observe) -> Material:
        """What this process works on."""

    def names(self, material: Material) -> tuple[str, ...]:
        """Names of the clients, by party number."""

    def federate(
        self,
        resolved: Resolved,
        material: Material,
        folder: RunFolder,
        *,
        run: str,
        save: Callable[[Server], None],
        observe: Observe,
    ) -> Federation:
        """Put the run together."""


@dataclass(frozen=True)
class InOneProcess:
    """All clients are in this process, with the records that the configuration names."""

    def gather(self, config: Config, observe: Observe) -> Material:
        """Model, every silo's records and the public ones."""
        return gather(config, observe)

    def names(self, material: Material) -> tuple[str, ...]:
        """Names of the silos."""
        return tuple(material.silos)

    def federate(
        self,
        resolved: Resolved,
        material: Material,
        folder: RunFolder,
        *,
        run: str,
        save: Callable[[Server], None],
        observe: Observe,
    ) -> Federation:
        """Server, clients and the local engine; each client's secrets lie in a folder of its own."""
        config = resolved.config
        seed = config.insecure_test_seed
        clients = folder / "clients"
        clients.mkdir(mode=0o700, exist_ok=True)
        secrets = [
            Secrets.of_folder(clients / f"{party}")
            if seed is None
            else Secrets.of_test_seed(seed, party, clients / f"{party}")
            for party in range(len(material.silos))
        ]
        places = [
            Workplace(name, material.trainer, examples, config.engine.micro_batch)
            for name, examples in material.silos.items()
        ]
        check_weights(config, tuple(material.silos))
        return federate(
            resolved,
            places,
            secrets,
            material.trainer.backbone.initial_flat(),
            codec_schedule(config, material, observe),
            run=run,
            save=save,
            observe=observe,
            server_store=FolderStore(SecretStore(folder / "checkpoints" / "sealing")),
        )


def check_weights(config: Config, names: Sequence[str]) -> None:
    """Refuse weights that do not fit the clients.

    Raises:
        PrivetError: if there are more or fewer of them.
    """
    weights = config.schedule.weights
    if weights is not None and len(weights) != len(names):
        raise PrivetError(
            "does not fit the clients",
            field="schedule.weights",
            given=f"{len(weights)} weights",
            allowed=f"{len(names)}, one for each of {', '.join(names)}",
            hint="give as many weights as there are clients, or leave them out",
        )
