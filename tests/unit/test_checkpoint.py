"""The server's checkpoint: the same server comes back, or a reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy import config, examples, federation, split

from privet import checkpoint
from privet.errors import PrivetError
from privet.federation import Federation
from privet.protocol import RoundId
from privet.run_folder import RunFolder

HASH = "ab" * 32
TOTALS = {"bytes_up": 12, "bytes_down": 34, "seconds": 5.5}
PARTS = split(examples(80), 4)


def made(**sections: Any) -> Federation:
    return federation(config(**sections), PARTS)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


@pytest.mark.parametrize("seal", ["masked", "encrypted"])
def test_a_server_comes_back_as_it_was(folder: RunFolder, seal: str) -> None:
    f = made(sealing={"kind": seal})
    assert checkpoint.restore(folder, f.server, config=HASH) is None, "nothing there yet"
    f.engine.run(f.server.steps())
    f.server.progress.attempt = 2
    f.server.doubted = [3, 1]
    checkpoint.save(folder, f.server, config=HASH, totals=TOTALS)
    other = made(sealing={"kind": seal}).server
    assert checkpoint.restore(folder, other, config=HASH) == TOTALS
    assert other.progress == f.server.progress
    assert other.progress.charged == RoundId(3, 0)
    assert other.ledger.to_json() == f.server.ledger.to_json()
    assert other.sealed_state == f.server.sealed_state
    assert other.size == f.server.size
    assert other.doubted == [3, 1]
    if seal == "masked":
        assert other.aggregator is not None
        assert f.server.aggregator is not None
        np.testing.assert_array_equal(other.aggregator.flat, f.server.aggregator.flat)
        assert other.aggregator.to_bytes() == f.server.aggregator.to_bytes()
    else:
        assert other.sealed_state
        adapter = f.flat.tobytes()
        stored = (folder / checkpoint.FILE).read_bytes()
        assert not any(adapter[i : i + 8] in stored for i in range(0, len(adapter) - 8, 8))


def test_before_the_first_charge_there_is_none(folder: RunFolder) -> None:
    """A round 0 that is due is not a round 0 that is charged."""
    f = made()
    checkpoint.save(folder, f.server, config=HASH, totals=TOTALS)
    other = made().server
    checkpoint.restore(folder, other, config=HASH)
    assert other.progress.charged is None


def test_another_configuration_is_told_from_damage(folder: RunFolder) -> None:
    f = made()
    checkpoint.save(folder, f.server, config=HASH, totals=TOTALS)
    with pytest.raises(PrivetError, match="another configuration") as caught:
        checkpoint.restore(folder, made().server, config="cd" * 32)
    assert "cdcdcdcdcdcd" in str(caught.value.given)
    assert HASH[:12] in str(caught.value.allowed)
    assert caught.value.hint
    path = folder / checkpoint.FILE
    whole = path.read_bytes()
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        server = made().server
        with pytest.raises(PrivetError, match="damaged"):
            checkpoint.restore(folder, server, config=HASH)
        assert server.progress == made().server.progress, "nothing was taken in"
