"""Whole runs under every sealing level: equal adapters, dropouts that recover, a server that sees no adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2
from support.toy import config, examples, federation, split

from privet import wire
from privet.config import (
    CkksSealing,
    Config,
    Dropout,
    EncryptedMaskedSealing,
    EncryptedSealing,
    MaskedSealing,
    NoSealing,
)
from privet.engines.local import LocalEngine
from privet.federation import Federation
from privet.protocol import Ask
from privet.sealing.encrypted import BfvScheme
from privet.sealing.encrypted_messages import Upload
from privet.sealing.encrypted_round import EncryptedClient
from privet.store import MemoryStore

LEVELS: dict[str, Any] = {
    "none": NoSealing(),
    "masked": MaskedSealing(),
    "encrypted": EncryptedSealing(),
    "encrypted+masked": EncryptedMaskedSealing(),
}


def sealed(level: Any, *, survivors: int | None = None, dropouts: tuple[Dropout, ...] = ()) -> Config:
    """The toy run of hedge under a level; `none` is for comparison and would be refused in a file."""
    asked = config(schedule={"min_survivors": survivors})
    engine = asked.engine.model_copy(update={"dropouts": dropouts})
    return asked.model_copy(update={"sealing": level, "engine": engine})


def finished(config: Config, parties: int = 5, **options: Any) -> tuple[Federation, list[tuple[str, Any]]]:
    f = federation(config, split(examples(300), parties), **options)
    told: list[tuple[str, Any]] = []
    f.server.observe = lambda kind, facts: told.append((kind, facts))
    f.engine.run(f.server.steps())
    return f, told


@pytest.fixture(scope="module")
def unsealed() -> NDArray[np.float32]:
    return finished(sealed(NoSealing()))[0].flat


@pytest.mark.parametrize("level", ["masked", "encrypted", "encrypted+masked"])
def test_sealed_and_unsealed_adapters_are_equal(level: str, unsealed: NDArray[np.float32]) -> None:
    f, _ = finished(sealed(LEVELS[level]))
    np.testing.assert_array_equal(f.flat, unsealed)
    assert np.abs(unsealed).max() > 0.1, "the run went somewhere"


def test_what_a_server_reads_with_one_client_of_an_encrypted_run_is_what_is_promised_against_them() -> None:
    """The client's key opens another's contribution: one share of noise, not the sum's; false alarm 1e-6."""
    seen: dict[int, bytes] = {}
    asked = config(schedule={"rounds": 1}, sealing={"kind": "encrypted"}, privacy={"noise_multiplier": 2.0})
    f = federation(
        asked,
        [[] for _ in range(4)],
        dimension=2000,
        tap=lambda op, party, question, answer: seen.update({party: answer} if op == "round" else {}),
    )
    f.engine.run(f.server.steps())
    upload = Upload.read(wire.decode(seen[0], f.server.answer(2000)))
    client = f.clients[2].sealing
    assert isinstance(client, EncryptedClient)
    scheme = client.scheme
    assert isinstance(scheme, BfvScheme)
    holder = scheme.holder(client.keys.key, MemoryStore())
    noise = scheme.bfv.unpack(holder.secret.decrypt(list(upload.pieces()), fresh=True), 2000).astype(float)
    mechanism, trust = f.server.system.mechanism, f.server.ledger.trust
    assert mechanism is not None
    assert trust.observer("server").inside
    promised = trust.promised(trust.observer("server")) * mechanism.std_steps
    low, high = chi2.ppf([5e-7, 1 - 5e-7], 2000)
    assert low < float(noise @ noise) / promised**2 < high


def test_ckks_agrees_to_its_approximation(unsealed: NDArray[np.float32]) -> None:
    f, _ = finished(sealed(CkksSealing()))
    np.testing.assert_allclose(f.flat, unsealed, atol=1e-3)


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_the_server_of_an_encrypted_run_never_sees_the_adapter(level: str) -> None:
    seen: list[bytes] = []
    f, told = finished(sealed(LEVELS[level]), tap=lambda op, party, question, answer: seen.append(answer))
    adapter = f.flat.tobytes()
    assert f.server.aggregator is None
    everything = b"".join(seen) + f.server.sealed_state
    for start in range(0, len(adapter) - 8, 8):
        assert adapter[start : start + 8] not in everything
    assert all(np.array_equal(c.aggregator.flat, f.flat) for c in f.clients.values())
    assert told[-1] == ("finished", {"holders": [0, 1, 2, 3, 4]})


@pytest.mark.parametrize(
    ("level", "before"),
    [
        ("masked", "round"),
        ("masked", "recover"),
        ("encrypted", "round"),  # this level has no recovery phase to drop out of
        ("encrypted+masked", "round"),
        ("encrypted+masked", "recover"),
    ],
)
def test_a_dropout_does_not_stop_the_run(level: str, before: Any) -> None:
    drop = (Dropout(round=2, party=1, before=before),)
    f, told = finished(sealed(LEVELS[level], survivors=4, dropouts=drop))
    rows = [facts for kind, facts in told if kind == "round"]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert 1 in rows[1]["survivors"]
    assert 1 not in rows[3]["survivors"]
    # The same run without a seal loses the same contributions and so ends with the same adapter, where the loss is
    # before the contribution was sent.
    if before == "round":
        same, _ = finished(sealed(NoSealing(), survivors=4, dropouts=drop))
        np.testing.assert_array_equal(f.flat, same.flat)


def test_a_silence_that_was_planned_outlives_a_resume() -> None:
    """The engine of a later process meets the client in a later round than that in which it fell silent."""
    asked: list[int] = []

    class Client:
        def handle(self, op: str, body: wire.Body) -> wire.Body:
            asked.append(int(str(body["number"])))
            return {}

    message = wire.Message(wire.Schema({"number": wire.Whole(low=0)}), wire.Schema({}))
    for number, dropout, heard in (
        (2, Dropout(round=1, party=0), False),
        (1, Dropout(round=2, party=0), True),
    ):
        asked.clear()
        engine = LocalEngine({0: Client()}, {"recover.x": message}, (dropout,))
        replies = engine._answer(Ask("recover.x", {"number": number}))
        assert (asked == [number], list(replies.failed)) == (heard, [] if heard else [0])


@pytest.mark.parametrize("level", ["masked", "encrypted", "encrypted+masked"])
def test_trap_12_below_the_floor_nothing_opens(level: str) -> None:
    drops = tuple(Dropout(round=1, party=party) for party in (0, 3))
    f, told = finished(sealed(LEVELS[level], survivors=4, dropouts=drops))
    kinds = [kind for kind, _ in told]
    assert kinds.count("round") == 1
    assert kinds.count("aborted") == 3
    assert f.server.progress.stopped is not None
    assert "3 of 4" in f.server.progress.stopped
    # Under `encrypted` the assumed colluder opens with the server what was sent to the round that failed.
    charged = f.server.ledger.releases[0]
    assert getattr(charged, "count", 0) == (1 + 3 if level == "encrypted" else 1)
