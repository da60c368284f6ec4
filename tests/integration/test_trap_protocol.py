"""What a whole run may not let slip: an uncharged release, a second noise draw on one question, a secret."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.planted import Planted, federation, run, watch
from support.toy import config

from privet import checkpoint, wire
from privet.config import (
    Config,
    EncryptedMaskedSealing,
    EncryptedSealing,
    MaskedSealing,
    NoSealing,
)
from privet.federation import Federation, Secrets
from privet.keys import SecretStore
from privet.mechanism import GaussianMechanism
from privet.messages import ROUND
from privet.privacy.events import Release
from privet.privacy.ledger import Ledger
from privet.protocol import RoundId
from privet.run_folder import RunFolder
from privet.sealing.base import SealingRefused
from privet.sealing.encrypted_round import EncryptedClient
from privet.sealing.masking_messages import UNMASK
from privet.store import FolderStore
from privet.wire import Body

DIMENSION = 24
LEVELS: dict[str, Any] = {
    "none": NoSealing(),
    "masked": MaskedSealing(),
    "encrypted": EncryptedSealing(),
    "encrypted+masked": EncryptedMaskedSealing(),
}
BY_CLIENT: dict[str, Any] = {
    "privacy": {"unit": "client", "relation": "zero-out"},
    "schedule": {"sampling_rate": None, "expected_batch": None},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "hedge": {},
    "hedge, clients": BY_CLIENT,
    "fedshield": {**BY_CLIENT, "system": {"kind": "fedshield"}},
    "dp_lora": {"system": {"kind": "dp_lora"}, "schedule": {"local": {"steps": 3}}},
    "dp_lora, clients": {**BY_CLIENT, "system": {"kind": "dp_lora"}},
    "dp_lora, faithful": {
        **BY_CLIENT,
        "system": {"kind": "dp_lora", "faithful": True},
        "schedule": {**BY_CLIENT["schedule"], "local": {"steps": 2}},
    },
}


def asked(level: str = "masked", **sections: Any) -> Config:
    return config(**sections).model_copy(update={"sealing": LEVELS[level]})


def records(parties: int) -> list[list[Planted]]:
    rows = np.random.default_rng(2).standard_normal((parties * 12, DIMENSION)).astype(np.float32)
    everybody = [Planted(f"r{i}", row) for i, row in enumerate(rows)]
    return [everybody[i::parties] for i in range(parties)]


def charged(ledger: Ledger) -> int:
    return sum(r.count for r in ledger.releases if isinstance(r, Release))


def charges(f: Federation) -> int:
    return charged(f.server.ledger)


@pytest.mark.parametrize("level", ["none", "masked"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_trap_11_every_noise_draw_is_in_the_ledger_before_anything_opens(
    system: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's draws so far never exceed the charges on disk when a sum opens, and equal them in the end."""
    drawn: Counter[int] = Counter()
    share = GaussianMechanism.share
    monkeypatch.setattr(
        GaussianMechanism, "share", lambda m, key: (drawn.update([asking[-1]]), share(m, key))[1]
    )
    asking: list[int] = []
    on_disk = [0]
    f = federation(
        asked(level, **SYSTEMS[system]),
        records(4),
        DIMENSION,
        save=lambda server: on_disk.append(charged(server.ledger)),
    )
    for party, client in f.clients.items():
        handle = client.handle

        def noting(op: str, body: Body, party: int = party, handle: Any = handle) -> Body:
            asking.append(party)
            answer: Body = handle(op, body)
            return answer

        client.handle = noting  # type: ignore[method-assign]  # a spy
    sealing: Any = f.server.sealing
    opening = sealing.open

    def checking(*arguments: Any) -> Any:
        assert max(drawn.values()) <= on_disk[-1] == charges(f)
        return opening(*arguments)

    sealing.open = checking
    run(f)
    assert set(drawn.values()) == {charges(f)}
    assert charges(f) >= 4


def refusing(f: Federation, op: str, parties: tuple[int, ...], when: RoundId) -> None:
    """Let some clients refuse an operation in one attempt."""
    for party in parties:
        handle = f.clients[party].handle

        def handled(asked_op: str, body: Body, handle: Any = handle) -> Body:
            if asked_op == op and (body["number"], body["attempt"]) == (when.number, when.attempt):
                raise SealingRefused("busy")
            answer: Body = handle(asked_op, body)
            return answer

        faulty: Any = f.clients[party]
        faulty.handle = handled


@pytest.mark.parametrize(("level", "op"), [("none", ROUND), ("masked", UNMASK)])
def test_trap_11_an_attempt_that_gave_something_away_is_charged_and_so_is_the_next(
    level: str, op: str
) -> None:
    """A round fails after contributions, or shares that open them, were given; the retry has new noise and costs."""
    f = federation(asked(level), records(5), DIMENSION)
    refusing(f, op, (0, 1), RoundId(1, 0))
    seen = run(f)
    assert len(seen.sums) == 4
    assert len(seen.aborted) == 1
    assert charges(f) == 5


def test_trap_11_a_run_stops_before_the_release_that_exceeds_its_budget() -> None:
    f = federation(asked(schedule={"rounds": 9}, privacy={"max_epsilon": 3.0}), records(5), DIMENSION)
    seen = run(f)
    assert f.server.progress.stopped is not None
    assert 0 < len(seen.sums) == charges(f) < 9
    assert f.server.ledger.epsilon().value <= 3.0, "for the worst observer"


def real(level: str, folder: Path, **options: Any) -> Federation:
    """A federation whose clients have real secrets in ``folder``."""
    return federation(asked(level, insecure_test_seed=None), records(4), DIMENSION, folder=folder, **options)


def test_trap_10_a_question_is_answered_once_and_then_with_the_same_bytes(tmp_path: Path) -> None:
    """Asked again, also after a restart, a client repeats itself; another question for that attempt it refuses."""
    question: Body = {"number": 1, "attempt": 0, "adapter": np.zeros(DIMENSION, np.float32)}
    f = real("none", tmp_path)
    first = wire.encode(f.clients[0].handle(ROUND, question))
    assert wire.encode(f.clients[0].handle(ROUND, question)) == first
    again = real("none", tmp_path).clients[0]
    assert wire.encode(again.handle(ROUND, question)) == first
    moved = np.ones(DIMENSION, np.float32)
    for other in ({"adapter": moved}, {"number": 0}):
        with pytest.raises(SealingRefused, match="already-answered"):
            again.handle(ROUND, {**question, **other})
    later = wire.encode(again.handle(ROUND, {**question, "attempt": 1}))
    assert later != first, "another attempt has other noise"


def secrets_of(f: Federation, folder: Path) -> dict[str, bytes]:
    """Every long-lived secret of the clients: roots of noise, identity and seal, and the run's key."""
    found = {}
    for party, client in f.clients.items():
        for name in ("root.key", "identity.root", "sealing.root"):
            found[f"{name} of {party}"] = (folder / f"client{party}" / name).read_bytes()
        if isinstance(client.sealing, EncryptedClient):
            found["the run's key"] = client.sealing.keys.key._root
    return found


def forms(secret: bytes) -> list[bytes]:
    """Pieces of 8 bytes and what they look like as text; a chance match in a run has probability below 1e-9."""
    pieces = [secret[i : i + 8] for i in range(len(secret) - 7)]
    texts = [base64.b64encode(secret)[:20], base64.urlsafe_b64encode(secret)[:20]]
    return [*pieces, secret.hex().encode()[:24], str(int.from_bytes(secret, "big")).encode()[:24], *texts]


def leaked(secrets: dict[str, bytes], seen: bytes) -> list[str]:
    return [name for name, secret in secrets.items() if any(form in seen for form in forms(secret))]


@pytest.mark.parametrize("level", LEVELS)
def test_trap_10_no_secret_of_a_client_reaches_the_server(level: str, tmp_path: Path) -> None:
    """All messages, and all files of the server, searched for pieces of every key that noise and seals hang on."""
    messages: list[bytes] = []
    server_folder = RunFolder.create(tmp_path / "server")
    totals = {"bytes_up": 0, "bytes_down": 0, "seconds": 0.0}
    f = real(
        level,
        tmp_path,
        tap=lambda op, party, question, answer: messages.extend((question, answer)),
        server_store=FolderStore(SecretStore(server_folder / "checkpoints" / "sealing")),
        save=lambda server: checkpoint.save(server_folder, server, config="c", totals=totals),
    )
    f.engine.run(f.server.steps())
    assert f.server.progress.number == 4
    secrets = secrets_of(f, tmp_path)
    assert len(secrets) == 12 + (level.startswith("encrypted"))
    files = [path.read_bytes() for path in (tmp_path / "server").rglob("*") if path.is_file()]
    assert any(checkpoint.FILE.split("/")[-1] == p.name for p in (tmp_path / "server").rglob("*"))
    seen = b"\0".join([*messages, *files])
    assert len(seen) > 2000
    assert leaked(secrets, seen) == []
    name, secret = next(iter(secrets.items()))
    assert leaked(secrets, seen + secret[5:21]) == [name], "the search finds half of a key"


def test_trap_10_real_clients_have_secrets_of_their_own(tmp_path: Path) -> None:
    made = [Secrets.of_folder(tmp_path / f"{i}") for i in range(3)]
    roots = [
        (tmp_path / f"{i}" / name).read_bytes() for i in range(3) for name in ("root.key", "sealing.root")
    ]
    assert len({*roots, *(s.identity.public_key for s in made)}) == 9


def test_trap_12_the_server_opens_nothing_with_fewer_than_it_demands() -> None:
    """At every level the sum waits for the declared number of contributions, whatever the seal alone would allow."""
    opened: list[tuple[int, ...]] = []
    for level in ("none", "masked"):
        f = federation(
            asked(level, schedule={"min_survivors": 5, "round_attempts": 2}), records(6), DIMENSION
        )
        seen = watch(f)
        refusing(f, ROUND, (0, 1), RoundId(2, 0))
        refusing(f, ROUND, (0, 1), RoundId(2, 1))
        f.engine.run(f.server.steps())
        assert len(seen.sums) == 2
        assert all(len(s) >= 5 for s in seen.survivors)
        opened.append(tuple(len(s) for s in seen.survivors))
    assert opened == [(6, 6), (6, 6)]
