"""Whole masked rounds through wire bytes: dropouts anywhere, and what the server saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sealing import Cohort, some_values

from privet.keys import derive
from privet.protocol import RoundAborted, RoundId
from privet.sealing.agreement import EphemeralKey
from privet.sealing.base import Store
from privet.sealing.masked import MaskedClient, MaskedServer
from privet.sealing.masking import MaskingClient
from privet.sealing.masking_messages import ADVERTISE, DELIVER, SURVIVORS, UNMASK
from privet.sealing.masks import Group, add_masks
from privet.sealing.none import PlainClient
from privet.sealing.unmasking import MaskingServer
from privet.store import MemoryStore
from privet.wire import encode

COUNT = 64
PARTIES = 5
THRESHOLD = 4


# ---- dropouts


@given(st.data())
@settings(max_examples=60)
def test_the_sum_of_the_survivors_opens_or_the_round_aborts(data: st.DataObject) -> None:
    """Parties vanish before masking, after it, and between the two recovery phases, in each of three rounds."""
    bits = data.draw(st.sampled_from([16, 20, 32, 40]))
    cohort = Cohort(PARTIES, bits=bits, epoch_rounds=2)
    for number in range(3):
        # Also values far beyond the field, whose sums wrap around.
        values = np.random.default_rng(number).integers(-(1 << 44), 1 << 44, size=(PARTIES, COUNT))
        parties = st.sets(st.integers(0, PARTIES - 1), max_size=2)
        absent, gone, lost = data.draw(parties), data.draw(parties), data.draw(parties)
        try:
            opened = cohort.round(RoundId(number), values, absent=absent, gone=gone, lost=lost)
        except RoundAborted:
            stayed = PARTIES - max(len(absent), len(absent | gone), len(absent | gone | lost))
            assert stayed < THRESHOLD
            continue
        assert opened.survivors == tuple(p for p in range(PARTIES) if p not in absent)
        assert cohort.is_sum(opened, values)


def test_an_absent_party_that_is_back_helps_to_recover_and_signs_nothing() -> None:
    """Party 0 sent no words and party 4 fell silent after it had signed: 4 of 5 give shares, party 0 among them."""
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    cohort.drive(cohort.server.prepare(RoundId(0)))
    replies = cohort.seal(RoundId(0), values, (1, 2, 3, 4))
    silent = lambda op, party: party == 4 and op == UNMASK  # noqa: E731 - a rule in one line
    opened = cohort.drive(cohort.server.open(RoundId(0), COUNT, replies), silent)
    assert opened.survivors == (1, 2, 3, 4)
    assert cohort.is_sum(opened, values)
    assert (UNMASK, 0) in {(op, party) for op, party, _ in cohort.received}
    assert (SURVIVORS, 0) not in cohort.asked


def test_an_absent_party_that_is_back_signs_for_no_survivor_that_fell_silent() -> None:
    """It is none, so its masks may be with others than the survivors' are."""
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    cohort.drive(cohort.server.prepare(RoundId(0)))
    replies = cohort.seal(RoundId(0), values, (1, 2, 3, 4))
    silent = lambda op, party: party == 4 and op.startswith("recover")  # noqa: E731 - a rule in one line
    with pytest.raises(RoundAborted, match="3 of 4 parties signed"):
        cohort.drive(cohort.server.open(RoundId(0), COUNT, replies), silent)


def test_a_party_that_was_away_at_the_key_exchange_joins_the_next_round() -> None:
    cohort, values = Cohort(PARTIES, epoch_rounds=8), some_values(PARTIES, COUNT)

    def prepare(number: int, away: int | None) -> tuple[int, ...]:
        steps = cohort.server.prepare(RoundId(number))
        ready: tuple[int, ...] = cohort.drive(steps, silent=lambda op, party: party == away)
        return ready

    assert prepare(0, away=2) == (0, 1, 3, 4)
    opened = cohort.drive(
        cohort.server.open(RoundId(0), COUNT, cohort.seal(RoundId(0), values, (0, 1, 3, 4)))
    )
    assert cohort.is_sum(opened, values)
    assert prepare(1, away=2) == (0, 1, 3, 4)
    assert prepare(2, away=None) == (0, 1, 2, 3, 4)
    values += 1
    opened = cohort.drive(cohort.server.open(RoundId(2), COUNT, cohort.seal(RoundId(2), values, range(5))))
    assert cohort.is_sum(opened, values)


def test_a_party_that_missed_the_delivery_of_shares_gets_them_in_the_next_round() -> None:
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    missed = lambda op, party: party == 2 and op == DELIVER  # noqa: E731 - a rule in one line
    ready = cohort.drive(cohort.server.prepare(RoundId(0)), missed)
    assert ready == (0, 1, 3, 4)
    opened = cohort.drive(cohort.server.open(RoundId(0), COUNT, cohort.seal(RoundId(0), values, ready)))
    assert cohort.is_sum(opened, values)
    assert cohort.drive(cohort.server.prepare(RoundId(1))) == (0, 1, 2, 3, 4)
    assert sum(op == ADVERTISE for op, _, _ in cohort.received) == PARTIES


def test_another_attempt_uses_other_keys() -> None:
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    with pytest.raises(RoundAborted):
        cohort.round(RoundId(0), values, absent=(3, 4))
    first = cohort.words(cohort.clients[0].seal(RoundId(0), values[0]), COUNT)
    opened = cohort.round(RoundId(0, 1), values)
    assert cohort.is_sum(opened, values)
    second = cohort.words(cohort.clients[0].seal(RoundId(0, 1), values[0]), COUNT)
    assert np.mean(first == second) < 0.1
    cohort.round(RoundId(1), values)


# ---- what the server saw


def test_the_server_receives_no_unmasked_contribution() -> None:
    """Everything that reaches the server in 12 rounds with dropouts is searched for the values in any packing.

    Each value is also distinctive: the plain words of a contribution would be found even as a run of eight bytes.
    """
    cohort = Cohort(PARTIES, bits=32, epoch_rounds=4)
    rng = np.random.default_rng(5)
    needles: list[bytes] = []
    for number in range(12):
        values = rng.integers(-(1 << 20), 1 << 20, size=(PARTIES, COUNT))
        needles += [part for row in values for part in encodings(row)]
        absent = (number % PARTIES,) if number % 3 == 0 else ()
        gone = ((number + 1) % PARTIES,) if number % 3 == 1 else ()
        cohort.round(RoundId(number), values, absent=absent, gone=gone)
    seen = b"\0".join(raw for _, _, raw in cohort.received)
    assert len(seen) > 12 * 4 * COUNT * 4
    assert not [needle for needle in needles if needle in seen]
    # The search itself works: what is sent without masks is found.
    plain = encode(PlainClient(32).seal(RoundId(0), values[0]))
    assert any(part in plain for part in encodings(values[0]))


def encodings(row: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[bytes]:
    """Pairs of neighbouring values as 32- and 64-bit words."""
    for dtype in ("<u4", "<i8", "<f4"):
        packed = row.astype("<u8").astype(dtype) if dtype == "<u4" else row.astype(dtype)
        for start in range(0, len(row) - 1, 2):
            yield packed[start : start + 2].tobytes()


def test_masked_words_look_uniform_whatever_was_masked() -> None:
    """All-zero contributions of 3 parties, 4 rounds, 2^14 words each, over 256 cells of the upper bits.

    Chi-square with 255 degrees of freedom, twelve tests: each false alarm has probability 1e-7 (threshold 396).
    """
    cohort, count = Cohort(3, bits=20), 1 << 14
    zeros = np.zeros((3, count), np.int64)
    words = []
    for number in range(4):
        cohort.drive(cohort.server.prepare(RoundId(number)))
        replies = cohort.seal(RoundId(number), zeros, range(3))
        words += [cohort.words(replies[party], count) for party in range(3)]
        opened = cohort.drive(cohort.server.open(RoundId(number), count, replies))
        assert cohort.is_sum(opened, zeros)
    for word in words:
        counts = np.bincount((word >> np.uint64(12)).astype(np.int64), minlength=256)
        assert float(((counts - count / 256) ** 2 / (count / 256)).sum()) < 396
    # No two of them are related: neither equal nor opposite in more places than chance allows (2^14 / 2^20).
    for first in range(len(words)):
        for second in range(first):
            total = (words[first] + words[second]) & np.uint64((1 << 20) - 1)
            assert np.count_nonzero(words[first] == words[second]) < 5
            assert np.count_nonzero(total == 0) < 5


def test_a_dropped_partys_words_stay_hidden_though_its_keys_were_shared() -> None:
    """Late words: the server holds a masked contribution *and* all pairwise keys of its sender, not its own mask."""
    cohort, values = Cohort(PARTIES), some_values(PARTIES, COUNT)
    cohort.drive(cohort.server.prepare(RoundId(0)))
    replies = cohort.seal(RoundId(0), values, range(PARTIES))
    late = cohort.words(replies.pop(4), COUNT)
    opened = cohort.drive(cohort.server.open(RoundId(0), COUNT, replies))
    assert opened.survivors == (0, 1, 2, 3)
    # Strip every pairwise mask as the server now can: what remains is value + self mask, not the value.
    epoch = cohort.clients[4]._masking._book.current
    assert epoch is not None
    stripped = late.astype(np.uint32)
    context, slot = cohort.clients[4]._masking._context, 0
    key = EphemeralKey(epoch.key_seed(slot))
    pairs = [
        key.agree(
            epoch.peers[p].mask_keys[slot].tobytes(), *context.pair_mask(epoch.number, RoundId(0), b"", 4, p)
        )
        for p in range(4)
    ]
    add_masks(stripped, cohort.group, pairs, [])
    plain = cohort.group.residues(values[4])
    assert np.count_nonzero(stripped == plain) < 3
    # The same with the self mask taken off shows that this test strips the right masks.
    own = derive(epoch.self_seed(slot), *context.self_mask(epoch.number, RoundId(0), 4))
    add_masks(stripped, cohort.group, [], [own])
    assert np.array_equal(stripped, plain)


# ---- keys


def test_secrets_of_an_epoch_are_gone_when_the_next_begins() -> None:
    """What a later thief of the client's disk finds does not open rounds of earlier epochs."""
    cohort = Cohort(PARTIES, epoch_rounds=2)
    values = some_values(PARTIES, COUNT)
    cohort.round(RoundId(0), values)
    epoch = cohort.clients[0]._masking._book.current
    assert epoch is not None
    secret, seeds = epoch.secret, [epoch.self_seed(0), epoch.key_seed(1)]
    shares = [epoch.shares[p].tobytes() for p in range(PARTIES)]
    disk = everything(cohort.stores[0])
    assert secret in disk
    assert all(share in disk for share in shares)
    cohort.round(RoundId(2), values + 1)
    disk = everything(cohort.stores[0])
    assert not any(needle in disk for needle in (secret, *seeds, *shares))


def everything(store: Store) -> bytes:
    assert isinstance(store, MemoryStore)
    return b"".join(store._entries.values())


def test_a_test_seed_repeats_every_masked_word_and_fresh_keys_do_not() -> None:
    def words(insecure: bool) -> bytes:
        cohort = Cohort(3)
        for party in range(3):
            masking = MaskingClient(
                run="a run",
                roster=cohort.roster,
                identity=cohort.identities[party],
                root=bytes([party]) * 32,
                group=cohort.group,
                least=3,
                store=MemoryStore(),
                insecure_test_seed=insecure,
            )
            cohort.clients[party] = MaskedClient(masking)
        cohort.drive(cohort.server.prepare(RoundId(0)))
        packed = cohort.seal(RoundId(0), some_values(3, COUNT), [0])[0]["words"]
        assert isinstance(packed, bytes)
        return packed

    assert words(insecure=True) == words(insecure=True)
    assert words(insecure=False) != words(insecure=False)


def test_masks_modulo_a_prime_are_taken_off_without_seeing_the_words() -> None:
    """What a level does that encrypts masked words: the server learns the masks' total, and only adds ciphertexts."""
    group = Group(4398046150657)
    cohort = Cohort(PARTIES)
    cohort.clients = [
        MaskedClient(
            MaskingClient(
                run="a run",
                roster=cohort.roster,
                identity=cohort.identities[party],
                root=bytes([party]) * 32,
                group=group,
                least=cohort.least,
                store=MemoryStore(),
            )
        )
        for party in range(PARTIES)
    ]
    unmasking = MaskingServer(
        run="a run", roster=cohort.roster, group=group, least=cohort.least, store=MemoryStore()
    )
    cohort.server = MaskedServer(unmasking)
    cohort.drive(unmasking.prepare(RoundId(0)))
    rng = np.random.default_rng(2)
    residues = rng.integers(0, group.modulus, size=(PARTIES, COUNT), dtype=np.uint64)
    total = np.zeros(COUNT, np.uint64)
    for party in range(4):
        _, words = cohort.clients[party]._masking.mask(RoundId(0), residues[party])
        group.add(total, words)
    masks = cohort.drive(unmasking.recover(RoundId(0), range(4)))
    plain = residues[:4].astype(object).sum(axis=0) % group.modulus
    opened = (total.astype(object) - masks.total(COUNT).astype(object)) % group.modulus
    assert (opened == plain).all()
    masks.remove(total)
    assert (total.astype(object) == plain).all()
