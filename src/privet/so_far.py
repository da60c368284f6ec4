"""What a run that has not ended has released, out of the ledger in its checkpoint.

A run writes its statement when it ends and withdraws it before it releases more. In between, and for good after a kill,
the checkpoint alone says what was charged; it is on disk before anything can be opened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from privet import checkpoint
from privet.config import INSECURE
from privet.errors import PrivetError
from privet.privacy.ledger import Ledger
from privet.privacy.statement import privacy_statement
from privet.run_folder import RunFolder

TERMS = "checkpoints/terms.json"
"""What a statement says beside the ledger; written before anything is released."""


def statement_so_far(folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The privacy statement of everything that was charged up to the checkpoint, marked by ``so_far``.

    Args:
        folder: The run's folder.
        config: Its resolved configuration.

    Returns:
        As `privet.privacy.statement.privacy_statement`; ``None`` if nothing was charged yet.

    Raises:
        PrivetError: if the checkpoint is damaged, or missing or older though rounds were opened.
    """
    rounds = folder.rows("rounds.jsonl")
    ledger = checkpoint.read_ledger(folder)
    if ledger is None or not ledger.releases:
        return None
    terms = {**_terms(config), **(folder.read_json(TERMS) if (folder / TERMS).exists() else {})}
    survivors = [len(row["survivors"]) for row in rounds]
    statement = privacy_statement(ledger, fewest_survivors=min(survivors, default=None), **terms)
    budget = ledger.budget_epsilon
    holds = f"its budget holds instead, epsilon = {budget:g}" if budget else "no epsilon this small holds"
    sentence = f"So far: {statement['guarantee']} The run has not ended; if it goes on it releases more."
    if statement["epsilon"] != "none":
        sentence += f" If it was stopped because of what it told, {holds}."
    return {**statement, "guarantee": sentence, "so_far": True}


def _terms(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration says of them, for runs of versions that did not write them down."""
    privacy = config.get("privacy") or {}
    numbers = {name: privacy.get(name) for name in ("clip_norm", "noise_multiplier")}
    void = INSECURE if config.get("insecure_test_seed") is not None else None
    return {"mechanism": "not written down yet", "void": void, **numbers}


def events(ledger: Ledger, void: str | None) -> dict[str, Any]:
    """``dp_event.json``: the ledger, and why nothing covers it if nothing does (`Config.void`)."""
    return {**ledger.to_json(), **({"no_guarantee": void} if void else {})}


@contextlib.contextmanager
def events_left(folder: RunFolder, void: str | None) -> Iterator[None]:
    """Writes ``dp_event.json`` of a run that is interrupted in it, for anybody to account what was released.

    Args:
        folder: The run's folder.
        void: Why nothing covers the run, if nothing does.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave_events(folder, void)
        raise


def _leave_events(folder: RunFolder, void: str | None) -> None:
    with contextlib.suppress(PrivetError):
        ledger = checkpoint.read_ledger(folder)
        # One that is there still holds: it is withdrawn before anything more is charged.
        if ledger is not None and not (folder / "dp_event.json").exists():
            folder.write_json("dp_event.json", events(ledger, void))
