"""Server and clients as processes of their own, for whole runs: what reached the server's process is searched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import apart
from support.toy import config

from privet.config import to_yaml
from privet.packing import pack
from privet.sealing.bfv import Bfv
from privet.sealing.bfv_parameters import BfvParameters

pytestmark = pytest.mark.xdist_group("processes apart")

ROUNDS, BITS, STEP = 3, 24, 2.0**-17
WINDOW = 16
"""Bytes of a secret, or of a contribution, that count as found: by chance they stand nowhere."""


def representations(values: NDArray[np.int64]) -> Iterator[tuple[str, bytes, int]]:
    """A contribution as it could be sent without a mask; and the bytes after which a value begins on a byte again."""
    yield "int64", values.tobytes(), 8
    yield "int32", values.astype(np.int32).tobytes(), 4
    yield "float32", (values * STEP).astype(np.float32).tobytes(), 4
    yield "float64", (values * STEP).tobytes(), 8
    yield "packed", pack(values.astype(np.uint64) & np.uint64((1 << BITS) - 1), BITS), BITS // 8
    words = list(Bfv(BfvParameters.for_field(BITS, apart.PARTIES)).pack(values))
    yield "words of BFV", np.concatenate(words).tobytes()[: 8 * 4096], 8


def found(received: bytes, folder: Path, rounds: int) -> set[tuple[int, str]]:
    """Which secrets of a party, and which forms of its contributions to the first rounds, the server received."""
    hits = set()
    for party in range(apart.PARTIES):
        site = folder / f"site {party}"
        for name, text in json.loads((site / "secrets.json").read_text()).items():
            secret = bytes.fromhex(text)
            step = max(WINDOW, len(secret) // 64)
            pieces = (secret[at : at + WINDOW] for at in range(0, len(secret) - WINDOW + 1, step))
            if any(piece in received for piece in pieces if any(piece)):
                hits.add((party, name))
        # a party that was lost has none to some rounds
        for file in sorted(site.glob("contribution.*.npy"))[:rounds]:
            for name, form, stride in representations(np.load(file)):
                # Two values or more in a window, each 40th of them: enough to find a whole contribution.
                width = max(WINDOW, 4 * stride)
                if any(form[at : at + width] in received for at in range(0, len(form) - width, 40 * stride)):
                    hits.add((party, name))
    return hits


@pytest.fixture(scope="module", params=["masked", "encrypted+masked"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of five processes under a level; party 1 is lost in round 1 after its contribution has arrived."""
    folder = tmp_path_factory.mktemp("apart")
    asked = config(
        insecure_test_seed=None,
        system={"kind": "fedshield"},
        privacy=None,
        sealing={"kind": request.param},
        schedule={
            "rounds": ROUNDS,
            "min_survivors": 3,
            "sampling_rate": None,
            "expected_batch": None,
            "server": {"kind": "average", "learning_rate": 1.0},
        },
        engine={"dropouts": [{"round": 1, "party": 1, "before": "recover"}]},
    )
    apart.run(folder, to_yaml(asked))
    return request.param, folder


def received(folder: Path, rounds: int) -> bytes:
    """All that reached the server's process in the first rounds; after the last, also what it keeps."""
    files = [folder / f"received.{number}" for number in range(rounds)]
    files += (folder / "server").iterdir() if rounds == ROUNDS else ()
    return b"".join(file.read_bytes() for file in files)


def test_the_rounds_add_up(finished: tuple[str, Path]) -> None:
    """The sums of both honest rounds are those of the survivors' contributions, by which the adapters move."""
    level, folder = finished
    told: list[Any] = json.loads((folder / "told.json").read_text())
    rounds = [facts for kind, facts in told if kind == "round"]
    assert [row["round"] for row in rounds][:2] == [0, 1]
    assert rounds[0]["survivors"] == [0, 1, 2, 3]
    assert 1 in rounds[1]["survivors"], "its masks were taken off with the others' shares"
    adapter = np.zeros(apart.DIMENSION, np.float32)
    for number in range(2):
        sites = [folder / f"site {party}" for party in rounds[number]["survivors"]]
        total = np.sum([np.load(site / f"contribution.{number}.npy") for site in sites], axis=0)
        adapter += (total * (STEP / apart.PARTIES)).astype(np.float32)
    if level == "masked":
        np.testing.assert_array_equal(np.load(folder / "adapter.2.npy"), adapter)
    else:
        assert not list(folder.glob("adapter.*")), "the server has none"
        assert "finished" in [kind for kind, _ in told]
        for party in (0, 2, 3):
            np.testing.assert_array_equal(np.load(folder / f"site {party}" / "adapter.2.npy"), adapter)


def test_the_server_received_no_secret_and_no_bare_contribution(finished: tuple[str, Path]) -> None:
    """In the two rounds before somebody leaks."""
    level, folder = finished
    everything = received(folder, 2)
    assert len(everything) > 2 * apart.PARTIES * apart.DIMENSION * BITS // 8
    assert found(everything, folder, 2) == set()
    if level == "encrypted+masked":
        adapter = np.load(folder / "site 0" / "adapter.2.npy").tobytes()
        pieces = (adapter[at : at + WINDOW] for at in range(0, len(adapter), 160))
        assert not any(piece in everything for piece in pieces), "nor the adapter"


def test_the_search_finds_a_planted_leak(finished: tuple[str, Path]) -> None:
    """In the last round one client sends a key and its contribution without masks."""
    level, folder = finished
    hits = found(received(folder, ROUNDS), folder, ROUNDS)
    shared = {hit for hit in hits if hit[1] == "run key"}  # every client's
    assert {party for party, _ in hits - shared} == {apart.LEAKER}
    names = {name for _, name in hits}
    assert "packed" in names
    assert "seal root" in names
    if level == "encrypted+masked":
        assert "run key" in names
        told: list[Any] = json.loads((folder / "told.json").read_text())
        stopped = [facts["reason"] for kind, facts in told if kind == "stopped"]
        assert "2 of 3" in stopped[0], (
            "one party is lost, and what the other sent is no ciphertext that it signed"
        )
