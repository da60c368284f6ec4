"""Everything that a masking client refuses because it could open a contribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.sealing import Cohort, some_values

from privet.protocol import RoundAborted, RoundId
from privet.sealing import none
from privet.sealing.agreement import EphemeralKey
from privet.sealing.base import SealingRefused
from privet.sealing.masking_messages import (
    DELIVER,
    SHARE,
    SURVIVORS,
    UNMASK,
    Context,
)
from privet.wire import Body

ROUND = RoundId(0)


@pytest.fixture
def cohort() -> Cohort:
    return Cohort(5)


def refuse(reason: str, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(SealingRefused) as caught:
        call(*args)
    assert caught.value.reason == reason


def masked_round(cohort: Cohort, round: RoundId = ROUND, parties: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """Keys are exchanged and these parties have masked."""
    cohort.drive(cohort.server.prepare(round))
    cohort.seal(round, some_values(5, 50, seed=round.number), parties)


def survivor_question(
    cohort: Cohort, survivors: tuple[int, ...], round: RoundId = ROUND, epoch: int | None = None
) -> Body:
    current = cohort.server._unmasking.epoch_of(round)
    return {
        "epoch": current if epoch is None else epoch,
        "number": round.number,
        "attempt": round.attempt,
        "survivors": np.array(survivors, np.int64),
    }


def unmask_question(
    cohort: Cohort, survivors: tuple[int, ...], signers: tuple[int, ...], round: RoundId = ROUND
) -> Body:
    """With signatures that the identities really make, as if these parties had agreed."""
    question = survivor_question(cohort, survivors, round)
    content = Context("a run", cohort.roster).survivors(int(question["epoch"]), round, survivors)
    signatures = [cohort.identities[p].sign(SURVIVORS, cohort.roster.hash, content) for p in signers]
    rows = np.frombuffer(b"".join(signatures), np.uint8).reshape(-1, 64)
    return {**question, "signers": np.array(signers, np.int64), "signatures": rows}


def test_a_server_that_swaps_a_public_key_is_refused(cohort: Cohort) -> None:
    attacker = EphemeralKey(b"the server's own")

    def swap(name: str) -> Callable[[str, int, Body], Body]:
        def tamper(op: str, party: int, body: Body) -> Body:
            if op != SHARE or party != 0:
                return body
            keys = np.array(body[name])
            keys[2] = np.frombuffer(attacker.public, np.uint8)
            return {**body, name: keys}

        return tamper

    for name in ("encryption_keys", "mask_keys", "commitments"):
        fresh = Cohort(5)
        fresh.drive(fresh.server.prepare(ROUND), tamper=swap(name))
        assert fresh.refusals == [(SHARE, 0, "swapped-key")]


def test_a_server_that_swaps_a_clients_own_key_is_refused(cohort: Cohort) -> None:
    """The server shows client 0 a list in which its own entry is that of another party."""

    def tamper(op: str, party: int, body: Body) -> Body:
        if op != SHARE or party != 0:
            return body
        keys = np.array(body["encryption_keys"])
        keys[0] = keys[1]
        return {**body, "encryption_keys": keys}

    cohort.drive(cohort.server.prepare(ROUND), tamper=tamper)
    assert cohort.refusals == [(SHARE, 0, "swapped-key")]


def test_a_list_without_the_clients_own_keys_is_refused() -> None:
    def leave_out(op: str, party: int, body: Body) -> Body:
        if op != SHARE or party != 0:
            return body
        return {name: value[1:] if isinstance(value, np.ndarray) else value for name, value in body.items()}

    cohort = Cohort(5)
    cohort.drive(cohort.server.prepare(ROUND), tamper=leave_out)
    assert cohort.refusals == [(SHARE, 0, "swapped-key")]


def test_members_of_an_epoch_are_settled_once() -> None:
    asked: list[Body] = []

    def record(op: str, party: int, body: Body) -> Body:
        if op == DELIVER and party == 0:
            asked.append(body)
        return body

    cohort = Cohort(5)
    cohort.drive(cohort.server.prepare(ROUND), tamper=record)
    assert cohort.ask(DELIVER, 0, asked[0]) == {}
    fewer = {n: v[:3] if isinstance(v, np.ndarray) else v for n, v in asked[0].items()}
    refuse("two-member-lists", cohort.ask, DELIVER, 0, fewer)


def test_an_advert_of_another_epoch_is_refused(cohort: Cohort) -> None:
    """Replaying the keys of an old epoch, whose seeds may have been shared, does not pass for the new one."""
    lists: list[Body] = []

    def record(op: str, party: int, body: Body) -> Body:
        if op == SHARE and party == 0:
            lists.append(body)
        return body

    def replay(op: str, party: int, body: Body) -> Body:
        if op != SHARE or party != 0:
            return body
        changed = {name: np.array(value) for name, value in body.items() if isinstance(value, np.ndarray)}
        for name in ("encryption_keys", "mask_keys", "commitments", "signatures"):
            changed[name][1] = np.asarray(lists[0][name])[1]
        return {**body, **changed}

    cohort.drive(cohort.server.prepare(ROUND), tamper=record)
    cohort.drive(cohort.server.prepare(RoundId(4)), tamper=replay)
    assert cohort.refusals == [(SHARE, 0, "swapped-key")]


def test_a_wrong_roster_or_run_is_refused(cohort: Cohort) -> None:
    body: Body = {
        "roster": cohort.roster.hash,
        "run": "a run",
        "epoch": 0,
        "rounds": np.array([[0, 0]], np.int64),
    }
    refuse("wrong-roster", cohort.ask, "keys.advertise", 0, {**body, "roster": bytes(32)})
    refuse("wrong-run", cohort.ask, "keys.advertise", 0, {**body, "run": "another"})
    for rounds in (np.zeros((0, 2), np.int64), np.zeros((2, 2), np.int64), np.array([[-1, 0]])):
        refuse("malformed", cohort.ask, "keys.advertise", 0, {**body, "rounds": rounds})
    cohort.ask("keys.advertise", 0, body)


def test_keys_of_an_epoch_are_advertised_and_shared_once(cohort: Cohort) -> None:
    body: Body = {
        "roster": cohort.roster.hash,
        "run": "a run",
        "epoch": 3,
        "rounds": np.array([[0, 0]], np.int64),
    }
    first = cohort.ask("keys.advertise", 0, body)
    again = cohort.ask("keys.advertise", 0, body)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    refuse("replayed-epoch", cohort.ask, "keys.advertise", 0, {**body, "rounds": np.array([[1, 0]])})
    refuse("replayed-epoch", cohort.ask, "keys.advertise", 0, {**body, "epoch": 2})
    refuse("unknown-epoch", cohort.ask, DELIVER, 0, {
        "epoch": 2,
        "senders": np.array([1, 2, 3, 4]),
        "blobs": np.zeros((4, 60), np.uint8),
    })  # fmt: skip


def test_a_second_list_of_keys_is_refused(cohort: Cohort) -> None:
    """Shares of one epoch's seeds are made for one list of receivers only."""
    asked: list[Body] = []

    def record(op: str, party: int, body: Body) -> Body:
        if op == SHARE and party == 0:
            asked.append(body)
        return body

    steps = cohort.server.prepare(ROUND)
    cohort.drive(steps, silent=lambda op, party: op == DELIVER and party == 0, tamper=record)
    repeated = cohort.ask(SHARE, 0, asked[0])
    assert np.array_equal(repeated["blobs"], cohort.ask(SHARE, 0, asked[0])["blobs"])
    shorter = {n: v[:4] if isinstance(v, np.ndarray) else v for n, v in asked[0].items()}
    refuse("two-key-lists", cohort.ask, SHARE, 0, shorter)


def test_damaged_or_foreign_shares_are_refused(cohort: Cohort) -> None:
    def tamper(op: str, party: int, body: Body) -> Body:
        if op != DELIVER or party not in (0, 1):
            return body
        blobs = np.array(body["blobs"])
        if party == 0:
            blobs[1, 20] ^= 1
        else:
            blobs[[0, 1]] = blobs[[1, 0]]
        return {**body, "blobs": blobs}

    with pytest.raises(RoundAborted):
        cohort.drive(cohort.server.prepare(ROUND), tamper=tamper)
    assert cohort.refusals == [(DELIVER, 0, "bad-shares-of-2"), (DELIVER, 1, "bad-shares-of-0")]


def test_too_small_cohorts_are_refused_at_each_phase(cohort: Cohort) -> None:
    def shorten(op_to_cut: str, names: tuple[str, ...]) -> Callable[[str, int, Body], Body]:
        def tamper(op: str, party: int, body: Body) -> Body:
            if op != op_to_cut or party != 0:
                return body
            return {**body, **{name: np.asarray(body[name])[:2] for name in names}}

        return tamper

    lists = ("parties", "encryption_keys", "mask_keys", "commitments", "signatures")
    for op, names in ((SHARE, lists), (DELIVER, ("senders", "blobs"))):
        fresh = Cohort(5)
        fresh.drive(fresh.server.prepare(ROUND), tamper=shorten(op, names))
        assert fresh.refusals == [(op, 0, "too-few-parties")]


def test_a_slot_masks_one_value_only(cohort: Cohort) -> None:
    masked_round(cohort)
    values = some_values(5, 50, seed=0)
    client = cohort.clients[0]
    first = client.seal(ROUND, values[0])
    assert client.seal(ROUND, values[0]) == first
    others = [values[0][:-1], np.append(values[0], 0), np.zeros(50, np.int64), values[0][::-1]]
    for place in range(50):
        others.append(values[0].copy())
        others[-1][place] += 1
    for other in others:
        refuse("slot-used", client.seal, ROUND, other)
    cohort.restart([0])
    assert cohort.clients[0].seal(ROUND, values[0]) == first
    for other in others:
        refuse("slot-used", cohort.clients[0].seal, ROUND, other)


def test_a_replayed_round_is_refused(cohort: Cohort) -> None:
    masked_round(cohort)
    masked_round(cohort, RoundId(1), parties=(1, 2, 3, 4))
    masked_round(cohort, RoundId(2))
    values = some_values(5, 50)
    refuse("replayed-round", cohort.clients[0].seal, RoundId(1), values[0])
    refuse("no-keys", cohort.clients[0].seal, RoundId(9), values[0])
    refuse("no-keys", cohort.clients[0].seal, RoundId(2, 1), values[0])
    body: Body = {
        "roster": cohort.roster.hash,
        "run": "a run",
        "epoch": 7,
        "rounds": np.array([[2, 0]], np.int64),
    }
    refuse("replayed-round", cohort.ask, "keys.advertise", 0, body)


def test_a_slot_stays_with_the_keys_it_was_used_with(cohort: Cohort) -> None:
    """Keys for a round that are advertised before it is masked, and delivered after, do not take it over."""
    cohort.drive(cohort.server.prepare(ROUND))
    second = cohort.make_server()
    second._unmasking._memory.progress = type(second._unmasking._memory.progress)(next_epoch=5)
    second._unmasking._memory.epoch = None
    steps = second.prepare(ROUND)

    def mask_before_delivery(op: str, party: int, body: Body) -> Body:
        if op == DELIVER:
            cohort.seal(ROUND, some_values(5, 50), [party])
        return body

    with pytest.raises(RoundAborted):
        cohort.drive(steps, tamper=mask_before_delivery)
    assert cohort.refusals == [(DELIVER, party, "replayed-round") for party in range(5)]


def test_two_survivor_sets_are_refused(cohort: Cohort) -> None:
    masked_round(cohort)
    everybody, four = (0, 1, 2, 3, 4), (0, 1, 2, 3)
    signature = cohort.ask(SURVIVORS, 0, survivor_question(cohort, everybody))
    assert cohort.ask(SURVIVORS, 0, survivor_question(cohort, everybody)) == signature
    refuse("two-survivor-sets", cohort.ask, SURVIVORS, 0, survivor_question(cohort, four))
    cohort.restart([0])
    refuse("two-survivor-sets", cohort.ask, SURVIVORS, 0, survivor_question(cohort, four))
    refuse("two-survivor-sets", cohort.ask, UNMASK, 0, unmask_question(cohort, four, four))


def test_both_kinds_of_share_of_one_client_are_refused(cohort: Cohort) -> None:
    """The first question gives shares of party 4's self mask; the second would give those of its key."""
    masked_round(cohort)
    everybody, four = (0, 1, 2, 3, 4), (0, 1, 2, 3)
    given = cohort.ask(UNMASK, 0, unmask_question(cohort, everybody, everybody))
    epoch = cohort.clients[0]._masking._book.current
    assert epoch is not None
    rows = np.stack([epoch.shares[p][0, 0] for p in range(5)])
    assert np.array_equal(np.asarray(given["shares"]), rows)
    refuse("two-survivor-sets", cohort.ask, UNMASK, 0, unmask_question(cohort, four, four))
    cohort.restart([0])
    refuse("two-survivor-sets", cohort.ask, UNMASK, 0, unmask_question(cohort, four, four))
    refuse("malformed", cohort.clients[0].handle, UNMASK, {
        **unmask_question(cohort, everybody, everybody),
        "keys_of": np.array([4]),
    })  # fmt: skip


def test_a_dropped_party_gives_key_shares_only(cohort: Cohort) -> None:
    masked_round(cohort, parties=(0, 1, 2, 3))
    four = (0, 1, 2, 3)
    given = np.asarray(cohort.ask(UNMASK, 0, unmask_question(cohort, four, four))["shares"])
    epoch = cohort.clients[0]._masking._book.current
    assert epoch is not None
    assert np.array_equal(given[4], epoch.shares[4][1, 0])
    assert not np.array_equal(given[4], epoch.shares[4][0, 0])


def test_unmasking_needs_the_signatures_of_a_threshold(cohort: Cohort) -> None:
    masked_round(cohort)
    everybody, four = (0, 1, 2, 3, 4), (0, 1, 2, 3)
    refuse("too-few-parties", cohort.ask, UNMASK, 0, unmask_question(cohort, everybody, (0, 1, 2)))
    question = unmask_question(cohort, everybody, four)
    repeated = {**question, "signers": np.array([0, 1, 2, 2])}
    refuse("malformed", cohort.ask, UNMASK, 0, repeated)
    wrong_signer = {**question, "signers": np.array([0, 1, 2, 4])}
    refuse("bad-signature", cohort.ask, UNMASK, 0, wrong_signer)
    other_set = unmask_question(cohort, four, four)
    refuse("bad-signature", cohort.ask, UNMASK, 0, {**other_set, "survivors": np.array(everybody)})
    other_round = unmask_question(cohort, everybody, everybody, RoundId(1))
    refuse("bad-signature", cohort.ask, UNMASK, 0, {**other_round, "number": 0})
    missing = {**question, "signatures": np.asarray(question["signatures"])[:3]}
    refuse("malformed", cohort.ask, UNMASK, 0, missing)
    assert not cohort.clients[0]._masking.exposed(ROUND)
    cohort.ask(UNMASK, 0, question)
    assert cohort.clients[0]._masking.exposed(ROUND)


def test_survivor_lists_are_checked(cohort: Cohort) -> None:
    masked_round(cohort, parties=(1, 2, 3, 4))
    refuse("too-few-parties", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (1, 2, 3)))
    refuse("malformed", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (1, 2, 3, 3)))
    refuse("malformed", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (4, 3, 2, 1)))
    refuse("malformed", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (1, 2, 3, 7)))
    refuse("not-masked", cohort.ask, SURVIVORS, 0, survivor_question(cohort, (0, 1, 2, 3)))
    refuse("unknown-epoch", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (1, 2, 3, 4), epoch=9))
    refuse("no-keys", cohort.ask, SURVIVORS, 1, survivor_question(cohort, (1, 2, 3, 4), RoundId(8), 0))
    cohort.ask(SURVIVORS, 0, survivor_question(cohort, (1, 2, 3, 4)))
    refuse("survivors-signed", cohort.clients[0].seal, ROUND, some_values(5, 50)[0])


def test_operations_of_other_levels_are_refused(cohort: Cohort) -> None:
    refuse("unknown-operation", cohort.clients[0].handle, "keys.give", {})
    refuse("malformed", cohort.clients[0].handle, SHARE, {})
    refuse("not-encrypted", cohort.clients[0].unseal, ROUND, {}, 3)
    refuse("unknown-operation", none.PlainClient(8).handle, "keys.advertise", {})


def test_trap_12_below_the_floor_nothing_opens() -> None:
    """Whatever phase loses parties: below the floor the round aborts, and no client has given a share."""
    for floor, missing in ((1, 2), (5, 1)):
        cohort = Cohort(5, floor=floor)
        values = some_values(5, 50)
        absent = range(5 - missing, 5)
        with pytest.raises(RoundAborted):
            cohort.round(ROUND, values, absent=absent)
        assert not any(op.startswith("recover") for op, _ in cohort.asked)
        assert not any(client._masking.exposed(ROUND) for client in cohort.clients)
    cohort = Cohort(5)
    with pytest.raises(RoundAborted, match="3 of 4 parties signed"):
        cohort.round(ROUND, some_values(5, 50), gone=(3, 4))
    assert not any(op == UNMASK for op, _ in cohort.asked)
    cohort = Cohort(5)
    with pytest.raises(RoundAborted, match="3 of 4 parties gave shares"):
        cohort.round(ROUND, some_values(5, 50), lost=(3, 4))


@pytest.mark.parametrize("fresh_noise", [False, True])
def test_trap_12_the_same_contribution_is_never_opened_under_two_survivor_sets(fresh_noise: bool) -> None:
    """Another attempt with the same values and another set would show the difference: one contribution.

    Values that were rounded or trained anew differ and tell almost the same; only noise of their own makes them
    another release.
    """
    values = some_values(5, 50)
    cohort = Cohort(5, fresh_noise=fresh_noise)
    opened = cohort.round(RoundId(0, 0), values)
    assert opened.survivors == (0, 1, 2, 3, 4)
    with pytest.raises(RoundAborted, match="opened-before"):
        cohort.round(RoundId(0, 1), values, absent=(4,))
    assert {reason for _, _, reason in cohort.refusals} == {"opened-before"}
    assert not any(client._masking.exposed(RoundId(0, 1)) for client in cohort.clients)
    # The same set tells nothing new, and zeros tell nothing at all.
    assert cohort.round(RoundId(0, 2), values).survivors == opened.survivors
    if fresh_noise:
        assert cohort.round(RoundId(0, 3), values + 1, absent=(4,)).survivors == (0, 1, 2, 3)
    else:
        with pytest.raises(RoundAborted, match="opened-before"):
            cohort.round(RoundId(0, 3), values + 1, absent=(4,))
        assert cohort.round(RoundId(0, 4), values + 1).survivors == opened.survivors
    zeros = np.zeros_like(values)
    assert cohort.round(RoundId(1), zeros).survivors == (0, 1, 2, 3, 4)
    assert cohort.round(RoundId(2), zeros, absent=(0,)).survivors == (1, 2, 3, 4)


def test_parties_that_answer_different_questions_sum_to_noise() -> None:
    """Masks are bound to the question: of a cohort that was shown two adapters nothing opens."""
    values = np.zeros((5, 2000), np.int64)
    for shown, readable in (((b"a",) * 5, True), ((b"a", b"a", b"b", b"a", b"a"), False)):
        cohort = Cohort(5)
        cohort.drive(cohort.server.prepare(ROUND))
        replies = {
            party: client.seal(ROUND, values[party], shown[party])
            for party, client in enumerate(cohort.clients)
        }
        opened = cohort.drive(cohort.server.open(ROUND, 2000, replies, b"a"))
        assert opened.total is not None
        assert cohort.is_sum(opened, values) == readable
        if not readable:
            assert abs(opened.total.mean()) < 6 * opened.total.std() / 2000**0.5, "uniform on the whole group"
            assert opened.total.std() > 2**18
    client = cohort.clients[0]
    refuse("slot-used", client.seal, ROUND, values[0], b"b")


def test_trap_12_a_set_that_was_only_signed_counts_as_opened() -> None:
    """A client cannot know whether the others gave their shares, so its signature decides."""
    cohort, values = Cohort(5), some_values(5, 50)
    with pytest.raises(RoundAborted):
        cohort.round(RoundId(0, 0), values, lost=(0, 1, 2, 3, 4))
    with pytest.raises(RoundAborted, match="opened-before"):
        cohort.round(RoundId(0, 1), values, absent=(4,))
