"""Whole rounds under the encrypted levels: key phases, sums, dropouts, restarts."""

from __future__ import annotations

import numpy as np
import pytest
from support.encrypted import COUNT, LEVELS, Consortium, MemoryStore

from privet.config import Dropout
from privet.protocol import RoundAborted, RoundId
from privet.sealing.base import SealingRefused
from privet.sealing.roster import Roster
from privet.wire import Array


@pytest.mark.parametrize("level", LEVELS)
def test_sum_opens_exactly_at_the_designated_client_and_its_state_reaches_the_others(level: str) -> None:
    run = Consortium(level)
    for number in range(2):
        opened, designated, sealed = run.round(number)
        assert (opened.survivors, designated, opened.refused) == ((0, 1, 2, 3), 0, {})
        total = run.expected(number, opened.survivors)
        np.testing.assert_array_equal(run.sites[0].opened[RoundId(number)], total)
        states = [site.sealing.states for site in run.sites]
        received = [state.open(sealed, number + 1) for state in states]
        assert received == [total.tobytes()] * 4
        assert len({state.fingerprint(total.tobytes(), number + 1) for state in states}) == 1
        assert states[0].fingerprint(b"other", number + 1) != states[0].fingerprint(
            total.tobytes(), number + 1
        )


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_dropout_in_the_round_leaves_the_sum_of_the_others(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=1, party=2)])
    run.round(0)
    opened, _, _ = run.round(1)
    assert opened.survivors == (0, 1, 3)
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(1)], run.expected(1, (0, 1, 3)))
    opened, _, _ = run.round(2)
    assert opened.survivors == (0, 1, 3)


@pytest.mark.parametrize("level", ["encrypted", "encrypted+masked"])
def test_dropout_of_the_designated_client_passes_its_part_to_the_next(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=1, party=0)])
    run.round(0)
    opened, designated, sealed = run.round(1)
    assert (opened.survivors, designated) == ((1, 2, 3), 1)
    total = run.expected(1, (1, 2, 3))
    np.testing.assert_array_equal(run.sites[1].opened[RoundId(1)], total)
    assert run.sites[3].sealing.states.open(sealed, 2) == total.tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_another_attempt_at_a_round_is_sealed_and_opened_anew(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    opened, _, _ = run.round(0, attempt=1)
    assert opened.survivors == (0, 1, 2, 3)
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(0, 1)], run.expected(0, (0, 1, 2, 3)))


@pytest.mark.parametrize("level", LEVELS)
def test_below_the_floor_nothing_opens(level: str) -> None:
    run = Consortium(level, dropouts=[Dropout(round=0, party=1), Dropout(round=0, party=3)])
    with pytest.raises(RoundAborted):
        run.round(0)
    assert all(not site.opened for site in run.sites)
    assert "open" not in {op for op, *_ in run.transcript}


@pytest.mark.parametrize("level", LEVELS)
def test_clients_and_server_restart_and_go_on_under_the_same_key(level: str) -> None:
    run = Consortium(level)
    run.round(0)
    name = run.sites[0].sealing.keys.key.name
    run.start_clients()
    run.start_server()
    opened, _, _ = run.round(1)
    assert len(opened.survivors) == 4
    assert {site.sealing.keys.key.name for site in run.sites} == {name}
    np.testing.assert_array_equal(run.sites[0].opened[RoundId(1)], run.expected(1, (0, 1, 2, 3)))


@pytest.mark.parametrize("level", LEVELS)
def test_trap_12_a_server_that_restarts_hands_out_no_second_sum_of_the_same_contributions(level: str) -> None:
    """Client 0 opened the sum without client 3, who was late; one with it at client 1 would tell of client 3."""
    run = Consortium(level, fresh_noise=True, dropouts=[Dropout(round=0, party=3)])
    run.round(0)
    run.dropouts = []
    run.start_server()  # killed before its checkpoint
    opened, _, _ = run.round(0)
    assert opened.survivors == (0, 1, 2)
    sums = [site.opened[RoundId(0)] for site in run.sites if site.opened]
    for each in sums:
        np.testing.assert_allclose(each, run.expected(0, (0, 1, 2)), atol=1 if level == "ckks" else 0)
    run.dropouts = [Dropout(round=0, party=0)]
    run.start_server()
    with pytest.raises(RoundAborted):
        run.round(0)
    assert sum(bool(site.opened) for site in run.sites) == len(sums), "nobody else opened anything"


@pytest.mark.parametrize("level", ["encrypted", "ckks"])
@pytest.mark.parametrize("fresh_noise", [False, True])
def test_trap_12_without_noise_another_attempt_sums_up_no_other_survivors(
    level: str, fresh_noise: bool
) -> None:
    """Two attempts' contributions are then nearly the same; with noise each is another one, and charged."""
    run = Consortium(level, fresh_noise=fresh_noise, dropouts=[Dropout(round=0, party=3)])
    run.round(0)
    run.dropouts = []
    run.start_server()
    opened, _, _ = run.round(0, attempt=1)
    assert opened.survivors == ((0, 1, 2, 3) if fresh_noise else (0, 1, 2))


@pytest.mark.parametrize("level", LEVELS)
def test_a_client_that_comes_back_empty_is_given_the_key_and_the_state_again(level: str) -> None:
    run = Consortium(level)
    _, _, sealed = run.round(0)
    run.stores[2] = MemoryStore()
    run.start_clients()
    run.start_server()
    opened, _, newer = run.round(1)
    # its masks are lost with its folder until the next exchange of mask keys; the run's key is not
    assert opened.survivors == ((0, 1, 3) if level == "encrypted+masked" else (0, 1, 2, 3))
    assert run.sites[2].sealing.keys.key.name == run.sites[0].sealing.keys.key.name
    assert run.sites[2].sealing.states.open(newer, 2) == run.expected(1, opened.survivors).tobytes()
    with pytest.raises(SealingRefused, match="older-state"):
        run.sites[2].sealing.states.open(sealed, 1)


def test_another_roster_or_run_rotates_the_key() -> None:
    run = Consortium("encrypted")
    run.round(0)
    old = run.sites[0].sealing.keys.key.name
    for change in ("run", "roster"):
        if change == "run":
            run.run = "run-2"
        else:
            names = ["another", *(f"site {i}" for i in range(1, 4))]
            run.roster = Roster.in_memory(names, run.identities)
        run.start_clients()
        with pytest.raises(SealingRefused, match="no-run-key"):
            _ = run.sites[0].sealing.keys.key
        run.start_server()
        for store in run.stores:
            store.entries.pop("encrypted.sealed", None)
            store.entries.pop("encrypted.opened", None)
        run.round(0)
        new = run.sites[0].sealing.keys.key.name
        assert new != old
        old = new


def test_prune_with_a_shared_mask_halves_the_bytes() -> None:
    run = Consortium("encrypted")
    run.round(0)
    client, p = run.sites[0].sealing, run.parameters
    kept = np.arange(8 * p.values_per_ciphertext) % 2 == 0
    values = np.random.default_rng(0).integers(-100, 100, len(kept))
    whole = client.seal(RoundId(1), values)
    half = client.seal(RoundId(2), values[kept])
    sizes = [int(np.asarray(body["sizes"]).sum()) for body in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)


def test_sizes_are_an_array_that_the_schema_knows() -> None:
    run = Consortium("encrypted")
    schema = run.server.sealed(COUNT)
    assert schema.fields["sizes"] == Array("uint32", (run.parameters.ciphertexts(COUNT),))
