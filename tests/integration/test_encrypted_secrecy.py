"""What the server and single clients never get under the encrypted levels."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.encrypted import COUNT, LEVELS, Consortium

from privet import wire
from privet.sealing import ckks
from privet.wire import Blob, Schema


@pytest.mark.parametrize("level", LEVELS)
def test_server_and_transcript_hold_no_key_and_no_contribution(level: str) -> None:
    run = Consortium(level)
    opened, _, _ = run.round(0)
    recorded = b"".join(question + answer for _, _, question, answer in run.transcript)
    root = wire.decode(run.stores[0].entries["run-key"], _RUN_KEY)["root"]
    key = run.sites[0].sealing.keys.key
    secrets = {
        "root": root,
        "state key": key.derive("state"),
        "agreement": run.stores[1].entries["run-key.agreement"] or root,
        "ckks context key": key.derive("ckks.context"),
        "bfv seed": key.derive(run.parameters.label(), length=64),
    }
    checkpoint = pickle.dumps((run.server_store.entries, _values_of(run.server)))
    for name, secret in secrets.items():
        assert isinstance(secret, bytes)
        for piece in (secret, secret[:16], secret[-16:], secret[::-1], secret.hex().encode()):
            assert piece not in recorded, name
            assert piece not in checkpoint, name
    for party in range(4):
        for values in (run.values[party][0], run.expected(0, opened.survivors)):
            for dtype in (np.int64, np.int32, np.float64, np.float32):
                piece = values[:8].astype(dtype).tobytes()
                assert piece not in recorded
                assert piece not in checkpoint


_RUN_KEY = Schema({"scope": Blob(32), "root": Blob(32), "used": wire.Flag()})


def _values_of(thing: object, depth: int = 6) -> list[object]:
    """Every plain value that an object of the server reaches; it fails on SEAL's secret classes."""
    assert type(thing).__name__ not in {
        "SecretKey",
        "Decryptor",
        "Encryptor",
        "KeyGenerator",
        "BfvKey",
        "RunKey",
    }
    if isinstance(thing, (bytes, str, int, float, type(None), np.ndarray)):
        return [thing]
    if depth == 0:
        return []
    if isinstance(thing, Mapping):
        return [v for pair in thing.items() for part in pair for v in _values_of(part, depth - 1)]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [v for part in thing for v in _values_of(part, depth - 1)]
    return [v for part in getattr(thing, "__dict__", {}).values() for v in _values_of(part, depth - 1)]


def test_the_search_for_secrets_finds_a_leak() -> None:
    # the check above guards privacy: a server that was handed the key must trip it
    run = Consortium("encrypted")
    run.round(0)
    run.server._leak = run.sites[0].sealing.keys.key  # type: ignore[attr-defined]  # the mutant
    with pytest.raises(AssertionError):
        _values_of(run.server)


@pytest.mark.parametrize("level", LEVELS)
def test_ckks_server_context_has_no_key_and_sums_are_not_for_it(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    scheme = run.server.scheme
    if isinstance(scheme, ckks.CkksScheme):
        assert not scheme.context.has_secret_key()
        assert not scheme.context.has_public_key()
    assert not hasattr(run.server, "unseal")


def test_under_masks_the_holder_of_the_key_sees_only_uniform_words_of_one_client() -> None:
    run = Consortium("encrypted+masked")
    run.round(0)
    replies = {
        party: wire.decode(answer, run.server.sealed(COUNT))
        for op, party, _, answer in run.transcript
        if op == "round"
    }
    curious = run.sites[3].sealing
    holder = curious._holder()
    fields: Mapping[str, Any] = replies[1]
    size = int(fields["sizes"][0])
    (words,) = holder.secret.decrypt([fields["ciphertexts"][:size]], fresh=True)  # type: ignore[attr-defined]  # BFV's
    t = run.parameters.plain_modulus
    packed = next(run.server._bfv.pack(run.values[1][0]))  # type: ignore[attr-defined]  # the masked server's
    assert (words == packed).mean() < 0.01
    # 4,096 uniform words: the mean is within 6 standard errors of t/2 but for a chance of 2e-9
    assert abs(words.astype(float).mean() / t - 0.5) < 6 / np.sqrt(12 * len(words))


def test_without_masks_any_client_could_open_what_the_server_shows_it() -> None:
    # the stated limit of the level `encrypted`, and why DP under encryption defaults to `encrypted+masked`
    run = Consortium("encrypted")
    run.round(0)
    (answer,) = [answer for op, party, _, answer in run.transcript if op == "round" and party == 1]
    fields: Mapping[str, Any] = wire.decode(answer, run.server.sealed(COUNT))
    holder = run.sites[3].sealing._holder()
    words = holder.secret.decrypt([fields["ciphertexts"][: int(fields["sizes"][0])]], fresh=True)  # type: ignore[attr-defined]  # BFV's
    first = run.sites[3].sealing.scheme.bfv.unpack(words, 8000)  # type: ignore[attr-defined]  # BFV's
    np.testing.assert_array_equal(first, run.values[1][0][:8000])


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_no_file_is_made_during_a_round(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Consortium(level).round(0)
    assert list(tmp_path.iterdir()) == []
