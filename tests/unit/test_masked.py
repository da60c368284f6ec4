"""Masks, and everything that a masking client refuses because it could open a contribution."""

from __future__ import annotations

import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from Crypto.Protocol.SecretSharing import Shamir
from support.sealing import Cohort, some_values

from privet.errors import PrivetError
from privet.keys import Stream
from privet.protocol import RoundAborted, RoundId
from privet.sealing import masked, none, shamir
from privet.sealing.agreement import AgreementError, EphemeralKey, open_blob, seal_blob
from privet.sealing.base import check_cohort, recovery_threshold
from privet.sealing.identity import Identity
from privet.sealing.masking import MaskingClient
from privet.sealing.masking_messages import UNMASK
from privet.sealing.masks import CHUNK, Group, MaskStream, add_masks
from privet.sealing.roster import Roster
from privet.store import MemoryStore
from privet.wire import Body, encode

PRIME = 4398046150657  # 42 bits, 1 modulo 2**13: of the kind that BFV packs
GROUPS = [Group.of_bits(8), Group.of_bits(20), Group.of_bits(32), Group.of_bits(33), Group.of_bits(62)]
GROUPS += [Group(PRIME), Group(3), Group((1 << 61) - 1)]
ROUND = RoundId(0)


# ---- groups and masks


@pytest.mark.parametrize("group", GROUPS)
def test_signed_values_survive_the_group(group: Group) -> None:
    limit = (group.modulus - 1) // 2
    values = np.unique(np.array([-limit, -1, 0, 1, limit], np.int64))
    words = group.residues(values)
    assert words.dtype == group.dtype
    assert int(words.max()) < group.modulus
    assert np.array_equal(group.centred(words), values)


@pytest.mark.parametrize("group", GROUPS)
def test_masks_do_not_depend_on_how_they_are_cut(group: Group) -> None:
    whole = MaskStream(b"k" * 32, group).next(5000)
    stream = MaskStream(b"k" * 32, group)
    pieces = np.concatenate([stream.next(size) for size in (1, 7, 0, 992, 4000)])
    assert np.array_equal(whole, pieces)


@pytest.mark.parametrize("group", GROUPS)
def test_masks_with_opposite_signs_cancel(group: Group) -> None:
    """A cohort of one client for each sign: whatever the chunks, additions and reductions, nothing is left."""
    count = 2 * CHUNK + 17
    keys = [bytes([i]) * 32 for i in range(9)]
    words = group.residues(np.random.default_rng(1).integers(-100, 100, count))
    hidden = words.copy()
    add_masks(hidden, group, keys[:5], keys[5:])
    assert int(hidden.max()) < group.modulus
    if group.modulus > 3:
        assert np.mean(hidden == words) < 0.05
    add_masks(hidden, group, keys[5:], keys[:5])
    assert np.array_equal(hidden, words)


def test_masks_of_a_group_are_the_keystream() -> None:
    """The definition: little-endian words of AES-256-CTR, reduced modulo a power of two, or kept if below a prime."""
    key = b"\x07" * 32
    words = np.zeros(4, np.uint32)
    add_masks(words, Group.of_bits(20), [key], [])
    assert words.tolist() == [int(w) % (1 << 20) for w in Stream(key).uint32(4)]
    residues = np.zeros(4, np.uint64)
    add_masks(residues, Group(PRIME), [key], [])
    candidates = [int(w) % (1 << 42) for w in Stream(key).uint64(40)]
    assert residues.tolist() == [w for w in candidates if w < PRIME][:4]


def test_masks_modulo_a_prime_are_uniform() -> None:
    """Chi-square over 64 equal cells of 200,000 words, fixed key; false-alarm rate 1e-6 (63 df: 140.5)."""
    group = Group(3 * (1 << 20) // 2 + 7)
    words = MaskStream(b"u" * 32, group).next(200_000)
    assert int(words.max()) < group.modulus
    counts = np.bincount((words.astype(np.int64) * 64) // group.modulus, minlength=64)
    expected = len(words) / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 140.5


def test_masking_works_in_bounded_memory() -> None:
    words = np.zeros(1 << 21, np.uint32)
    tracemalloc.start()
    try:
        add_masks(words, Group.of_bits(20), [b"a" * 32, b"b" * 32], [b"c" * 32])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


# ---- shares and agreement


def test_a_threshold_of_shares_gives_the_seed_and_fewer_do_not() -> None:
    seed = bytes(range(16))
    shares = shamir.split(seed, 4, 5)
    for chosen in combinations(range(5), 4):
        assert shamir.Combiner(chosen, 4).combine({p: shares[p] for p in chosen}) == seed
    assert shamir.Combiner(range(5), 4).combine(dict(enumerate(shares))) == seed
    with pytest.raises(ValueError, match="needed"):
        shamir.Combiner(range(3), 4)
    # One share short: the polynomial through three points and any guess of the fourth is as good as another.
    assert shamir.Combiner(range(3), 3).combine(dict(enumerate(shares))) != seed


def test_a_combiner_tells_the_share_of_any_other_party() -> None:
    for parties in (4, 17):
        threshold = recovery_threshold(parties)
        shares = dict(enumerate(shamir.split(bytes(range(16)), threshold, parties)))
        combiner = shamir.Combiner(range(1, parties), threshold)
        for other in (0, *range(threshold + 1, parties)):
            assert combiner.at(other).combine(shares) == shares[other]
        assert combiner.combine(shares) == bytes(range(16)), "and itself goes on telling the seed"
        with pytest.raises(ValueError, match="party 1 gave"):
            combiner.at(1)


def test_shares_combine_as_in_the_library_that_split_them() -> None:
    rng = np.random.default_rng(4)
    for parties in (3, 17, 100):
        threshold = recovery_threshold(parties)
        givers = sorted(rng.choice(parties, threshold, replace=False).tolist())
        combiner = shamir.Combiner(givers, threshold)
        for seed in (rng.bytes(16), bytes(16), b"\xff" * 16):
            shares = dict(enumerate(shamir.split(seed, threshold, parties)))
            assert combiner.combine(shares) == seed
            if parties < 100:
                assert Shamir.combine([(p + 1, shares[p]) for p in givers]) == seed


def test_agreement_binds_both_keys_and_the_purpose() -> None:
    a, b, c = (EphemeralKey(bytes([i]) * 16) for i in range(3))
    assert a.agree(b.public, "mask", 1) == b.agree(a.public, "mask", 1)
    different = {a.agree(b.public, "mask", 1), a.agree(b.public, "mask", 2), a.agree(c.public, "mask", 1)}
    assert len(different) == 3
    # X25519 ignores the top bit of a public key: another encoding of it agrees on the same point, not on the key.
    twin = b.public[:31] + bytes([b.public[31] | 0x80])
    assert a.agree(twin, "mask", 1) not in different
    assert "private" not in repr(a)
    with pytest.raises(AgreementError):
        a.agree(bytes(32), "mask", 1)
    with pytest.raises(AgreementError):
        a.agree(b"short", "mask", 1)


def test_a_blob_opens_with_its_key_only_and_undamaged() -> None:
    blob = seal_blob(b"k" * 32, b"shares")
    assert open_blob(b"k" * 32, blob) == b"shares"
    for key, damaged in (
        (b"x" * 32, blob),
        (b"k" * 32, blob[:-1]),
        (b"k" * 32, b""),
        (b"k" * 32, blob[::-1]),
    ):
        with pytest.raises(AgreementError):
            open_blob(key, damaged)


# ---- cohorts


@pytest.mark.parametrize("parties", [1, 2])
def test_fewer_than_three_parties_are_refused(parties: int) -> None:
    with pytest.raises(PrivetError, match="fewer than 3 parties"):
        check_cohort("masked", parties, 1)
    assert check_cohort("none", parties, 1) == 1


def test_the_least_cohort_is_the_floor_or_the_threshold() -> None:
    assert [recovery_threshold(n) for n in (3, 4, 5, 6, 9, 10)] == [3, 3, 4, 5, 7, 7]
    assert all(3 * recovery_threshold(n) > 2 * n for n in range(3, 100))
    assert check_cohort("masked", 10, 5) == 7
    assert check_cohort("masked", 10, 9) == 9
    for floor in (0, 11):
        with pytest.raises(PrivetError, match="floor"):
            check_cohort("masked", 10, floor)


def test_a_client_demands_a_roster_that_everybody_signed() -> None:
    identities = [Identity.generate() for _ in range(3)]
    signed = Roster.in_memory(["a", "b", "c"], identities)
    unsigned = Roster("local", signed.members).sign(identities[0])
    with pytest.raises(PrivetError, match="not every member"):
        MaskingClient(
            run="r",
            roster=unsigned,
            identity=identities[0],
            root=bytes(32),
            group=Group.of_bits(8),
            least=3,
            store=MemoryStore(),
        )


def test_plans_name_who_could_open_a_contribution() -> None:
    plan = masked.plan(count=1000, bits=20, parties=5)
    assert "3 of the other parties (4 if it follows the protocol)" in plan.who_can_open
    assert 2500 < plan.upload_bytes < 4000
    open_plan = none.plan(count=1000, bits=20, parties=5)
    assert open_plan.who_can_open == "the server alone"
    assert open_plan.upload_bytes == len(encode({"words": bytes(2500)}))


def test_the_plan_counts_the_bytes_that_travel() -> None:
    cohort, count = Cohort(5, epoch_rounds=4), 1000
    values = some_values(5, count)
    for number in range(4):
        cohort.round(RoundId(number), values)
    sent = sum(len(raw) for _, party, raw in cohort.received if party == 0) / 4
    planned = masked.plan(count=count, bits=cohort.bits, parties=5, rounds_per_epoch=4, rounds=4).upload_bytes
    assert sent == pytest.approx(planned, rel=0.02)


def test_malformed_replies_drop_out_alone() -> None:
    cohort, values = Cohort(5), some_values(5, 50)
    cohort.drive(cohort.server.prepare(ROUND))
    replies = cohort.seal(ROUND, values, range(5))
    replies[2] = {**replies[2], "words": b"short"}
    opened = cohort.drive(cohort.server.open(ROUND, 50, replies))
    assert opened.survivors == (0, 1, 3, 4)
    assert set(opened.refused) == {2}
    assert cohort.is_sum(opened, values)
    stale = Cohort(5)
    stale.drive(stale.server.prepare(ROUND))
    replies = stale.seal(ROUND, values, range(5))
    replies[0] = {**replies[0], "epoch": 17}
    opened = stale.drive(stale.server.open(ROUND, 50, replies))
    assert opened.survivors == (1, 2, 3, 4)
    assert "another epoch" in opened.refused[0]


def test_words_with_a_bit_behind_the_last_drop_out_alone() -> None:
    """Found while they are read; later, their sum would end the server."""
    cohort, values = Cohort(5, bits=21), some_values(5, 3)
    cohort.drive(cohort.server.prepare(ROUND))
    replies = cohort.seal(ROUND, values, range(5))
    words = bytearray(replies[3]["words"])  # type: ignore[arg-type]  # bytes by the schema
    words[-1] |= 0x80
    replies[3] = {**replies[3], "words": bytes(words)}
    opened = cohort.drive(cohort.server.open(ROUND, 3, replies))
    assert opened.survivors == (0, 1, 2, 4)
    assert opened.refused == {3: "malformed: bits after the last word are set"}
    assert cohort.is_sum(opened, values)


def test_shares_that_do_not_fit_together_abort_the_round() -> None:
    """Where none can be spared, one wrong share spoils the round, and the server notices: nothing wrong is opened."""

    class Liar:
        def __init__(self, client: masked.MaskedClient, row: int) -> None:
            self.client, self.row, self.seal = client, row, client.seal

        def handle(self, op: str, body: Body) -> Body:
            answer = self.client.handle(op, body)
            if op == UNMASK:
                shares = np.array(answer["shares"])
                shares[self.row, 3] ^= 1
                answer = {**answer, "shares": shares}
            return answer

    culprits = "do not fit together: one of the givers 0, 1, 2, 3 gave a wrong one, or party"
    for row, message in ((1, f"the seed of party 1 {culprits} 1"), (4, f"the key of party 4 {culprits} 4")):
        cohort = Cohort(5)
        cohort.clients[0] = Liar(cohort.clients[0], row)  # type: ignore[call-overload]  # what the cohort uses
        with pytest.raises(RoundAborted, match=message):
            cohort.round(ROUND, some_values(5, 50), absent=(4,))


def test_a_server_opens_prepared_rounds_with_their_survivors_only() -> None:
    cohort, values = Cohort(5), some_values(5, 50)
    cohort.drive(cohort.server.prepare(ROUND))
    replies = cohort.seal(ROUND, values, range(5))
    with pytest.raises(RoundAborted, match="was not prepared"):
        cohort.drive(cohort.server._unmasking.recover(RoundId(1), range(5)))
    with pytest.raises(RoundAborted, match="gave shares"):
        cohort.drive(cohort.server.open(ROUND, 50, replies), silent=lambda op, party: op == UNMASK)
    fewer = {party: replies[party] for party in range(4)}
    with pytest.raises(RoundAborted, match="settled before is missing now; it is party 4"):
        cohort.drive(cohort.server.open(ROUND, 50, fewer))
    assert cohort.is_sum(cohort.drive(cohort.server.open(ROUND, 50, replies)), values)


def test_the_level_none_sums_what_comes() -> None:
    client, server = none.PlainClient(16), none.PlainServer(parties=2, bits=16, floor=2)
    values = some_values(2, 9)
    replies = {p: client.seal(ROUND, values[p]) for p in range(2)}
    steps = server.open(ROUND, 9, replies)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert np.array_equal(stop.value.value.total, values.sum(axis=0))
    with pytest.raises(RoundAborted, match="1 of 2"):
        next(server.open(ROUND, 9, {0: replies[0], 1: {"words": b""}}))


def test_the_page_on_trust_says_what_the_plan_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")
    plan = masked.plan(count=1, bits=20, parties=5)
    assert plan.who_can_open in " ".join(page.split())
    assert none.plan(count=1, bits=20, parties=5).who_can_open in page
