"""The server's part of a run over several machines: the usual run, with its clients at sites."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.cast import Observe, check_weights
from privet.codec_schedule import follows_public
from privet.config import Config, load
from privet.engines.homes import FOLDER, ServerHome
from privet.engines.joining import JOIN, REPLAYED, agreement, invitation
from privet.engines.remote import Interrupted, RemoteEngine, SegmentEnded, Transport
from privet.errors import PrivetError
from privet.federation import Blueprint, Federation
from privet.keys import SecretStore
from privet.material import Material, codec_schedule, gather, public_for_codec
from privet.resolve import Resolved
from privet.run_folder import SIGN, RunFolder
from privet.runs import start
from privet.sealing.levels import hands_sums_on
from privet.sealing.roster import Roster
from privet.server import Server
from privet.store import FolderStore

RUNNING, CONTINUES, INTERRUPTED = "running", "continues", "interrupted"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
OVER = frozenset({FINISHED, STOPPED, FAILED})
UNSIGNED = "the network, unsigned"
"""Who says why a site did not answer: what answers an operation is signed by the site, what refuses one is not."""


@dataclass(frozen=True)
class AtSites:
    """The clients are on other machines; this process has the server's half and what is public.

    Attributes:
        home: The server's folder.
        roster: Who takes part.
        name: Name of the run, in signatures and at the sites.
        transport: Carries the bytes.
    """

    home: ServerHome
    roster: Roster
    name: str
    transport: Transport

    def gather(self, config: Config, observe: Observe) -> Material:
        """Model and public records; no silo's file is opened."""
        return gather(config, observe, public_only=True)

    def names(self, material: Material) -> tuple[str, ...]:
        """Members of the roster."""
        return tuple(member.name for member in self.roster.members)

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
        """The server's half and the engine that asks the sites; ``run`` gives way to the name that the sites know."""
        config = resolved.config
        check_weights(config, self.names(material))
        initial, schedule = (
            material.trainer.backbone.initial_flat(),
            codec_schedule(config, material, observe),
        )
        told: dict[str, Any] = {"dimension": len(initial), "model": material.model.fingerprint}
        if hands_sums_on(config.sealing) and follows_public(config.codec):
            told |= {"public": public_for_codec(config, material), "codec": schedule.first(initial)}
        invited = invitation(config, **told)
        agreed = agreement(config, invited)
        blueprint = Blueprint(
            resolved, self.roster, self.name, agreed, initial, schedule, given=told.get("codec")
        )
        store = FolderStore(SecretStore(folder / "checkpoints" / "sealing"))
        server = blueprint.server(store, save, observe)
        self.home.tell(self.name, {"rounds": server.rounds})

        ahead: list[str] = []

        def failed(op: str, party: int, reason: str, unsigned: bool) -> None:
            # Whoever goes on with a run invites first; later on one site could end it by this word.
            if (op, reason) == (JOIN, f"refused: {REPLAYED}"):
                ahead.append(self.roster.members[party].name)
                if self.roster.size - len(ahead) < resolved.trust.min_survivors:
                    raise _put_back(folder, ahead)
            facts = {"site": self.roster.members[party].name, "op": op, "reason": reason}
            observe("dropped", {**facts, "by": UNSIGNED} if unsigned else facts)

        engine = RemoteEngine(
            transport=self.transport,
            identity=self.home.identity,
            roster=self.roster,
            name=self.name,
            invitation=invited,
            messages=blueprint.messages,
            due=lambda: server.progress.round,
            timeout=config.engine.site_timeout,
            join_timeout=config.engine.join_timeout,
            on_failure=failed,
        )
        return Federation(server, {}, engine)


def _put_back(folder: RunFolder, ahead: list[str]) -> PrivetError:
    """Why a run does not go on: its ledger would lack what these sites answered, and without them no round opens."""
    return PrivetError(
        f"{', '.join(ahead)} answered later rounds than this server knows of",
        field=str(folder.path),
        hint="if this folder was restored from a backup, count the run as if it had gone to its end and begin another; "
        "if not, ask these sites",
    )


def serve(kit: Path, run: str, job: str, transport: Transport) -> None:
    """Run, or go on with, a submitted run, and keep its status up to date; mistakes end in the status, not here.

    Args:
        kit: The server's kit.
        run: Name of the run.
        job: The engine's name for the job that this is.
        transport: Carries bytes to the sites.
    """
    home = ServerHome(kit / FOLDER)
    home.tell(run, {"job": job, "state": RUNNING, "reason": None, "out": {}})
    try:
        roster = home.roster()
        result = _start(home, roster, run, transport)
    except SegmentEnded:
        home.tell(run, {"state": CONTINUES, "reason": "a site came back: the run goes on in another job"})
    except Interrupted:
        home.tell(
            run, {"state": INTERRUPTED, "reason": "its job was ended; `privet submit --continue` goes on"}
        )
    except PrivetError as error:
        home.tell(run, {"state": FAILED, "reason": str(error)})
    except Exception as error:
        # Raised again for the engine's log; the status has no text that could come from elsewhere.
        home.tell(run, {"state": FAILED, "reason": type(error).__name__})
        raise
    else:
        stopped = result["stopped"]
        home.tell(run, {"state": STOPPED if stopped else FINISHED, "reason": stopped, "out": {}})


def _start(home: ServerHome, roster: Roster, run: str, transport: Transport) -> dict[str, Any]:
    path = home.submitted(run)
    config = load(path)
    out: dict[str, str] = {}
    names = [member.name for member in roster.members]

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if kind == "dropped":
            out[facts["site"]] = facts["reason"]
            home.tell(run, {"out": dict(out), "told": time.time()})
        elif kind == "round":
            present = [names[party] for party in facts["survivors"]]
            for name in present:
                out.pop(name, None)
            bytes_ = {name: facts[name] for name in ("bytes_up", "bytes_down", "seconds")}
            home.tell(
                run,
                {"round": facts["round"] + 1, "in": present, "out": dict(out), "told": time.time(), **bytes_},
            )
        elif kind == "aborted":
            home.tell(
                run, {"reason": f"round {facts['round']} aborted: {facts['reason']}", "told": time.time()}
            )
        elif kind == "stage":
            home.tell(run, {"doing": facts["name"], "told": time.time()})

    folder = home.run_folder(run)
    home.tell(run, {"sites": names})
    cast = AtSites(home, roster, run, transport)
    return start(
        config,
        path.read_text(encoding="utf-8"),
        folder,
        resume=(folder / SIGN).exists(),
        observe=observe,
        cast=cast,
    )
