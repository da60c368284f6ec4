"""Clients that cheat when keys for masks are exchanged, or masks recovered: the round goes on, or they are named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.sealing import Cohort, some_values

from privet.keys import derive
from privet.protocol import RoundAborted, RoundId
from privet.sealing.agreement import EphemeralKey
from privet.sealing.base import Opened, SealingRefused, recovery_threshold
from privet.sealing.masking_messages import (
    ADVERTISE,
    DELIVER,
    SHARE,
    SURVIVORS,
    UNMASK,
    Context,
    rounds_of,
)
from privet.sealing.masks import add_masks
from privet.wire import Body

ROUND = RoundId(0)


@dataclass
class Cheat:
    """The last party, whose answers are not its client's own."""

    client: Any
    lie: Callable[[str, Body, Callable[[], Body]], Body]

    def handle(self, op: str, body: Body) -> Body:
        return self.lie(op, body, lambda: self.client.handle(op, body))

    def seal(self, *args: Any) -> Body:
        sealed: Body = self.client.seal(*args)
        return sealed


def cheating(lie: Callable[[str, Body, Callable[[], Body]], Body]) -> Cohort:
    cohort = Cohort(5)
    cohort.clients[4] = Cheat(cohort.clients[4], lie)  # type: ignore[call-overload]  # what the cohort uses
    return cohort


def test_shares_of_another_length_drop_their_sender_out() -> None:
    def short(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        return {"blobs": np.asarray(honest()["blobs"])[:, :7]} if op == SHARE else honest()

    cohort, values = cheating(short), some_values(5, 50)
    assert cohort.drive(cohort.server.prepare(ROUND)) == (0, 1, 2, 3)
    opened = cohort.drive(cohort.server.open(ROUND, 50, cohort.seal(ROUND, values, range(4))))
    assert opened.survivors == (0, 1, 2, 3)
    assert cohort.is_sum(opened, values)


@pytest.mark.parametrize("name", ["encryption_key", "mask_keys"])
@pytest.mark.parametrize("point", [bytes(32), bytes([1]) + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_keys_of_low_order_drop_their_owner_out(name: str, point: bytes) -> None:
    """A signed key with which no agreement comes about: shown to the others, all of them would refuse the list."""

    def low(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        answer = honest()
        if op != ADVERTISE:
            return answer
        key = np.array(answer[name])
        key[..., :] = np.frombuffer(point, np.uint8)
        fields: Any = body
        keys = {**answer, name: key}
        rounds = rounds_of(fields["rounds"])
        content = Context("a run", cohort.roster).advert(fields["epoch"], rounds, 4, keys)
        return {**keys, "signature": cohort.identities[4].sign(ADVERTISE, cohort.roster.hash, content)}

    cohort, values = cheating(low), some_values(5, 50)
    assert cohort.drive(cohort.server.prepare(ROUND)) == (0, 1, 2, 3)
    assert cohort.refusals == []
    opened = cohort.drive(cohort.server.open(ROUND, 50, cohort.seal(ROUND, values, range(4))))
    assert cohort.is_sum(opened, values)


def test_a_party_whose_shares_open_nowhere_is_named_and_left_out_of_the_next_exchange() -> None:
    def rubbish(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        return {"blobs": np.zeros_like(honest()["blobs"])} if op == SHARE else honest()

    cohort, values, again = cheating(rubbish), some_values(5, 50), RoundId(0, 1)
    with pytest.raises(RoundAborted, match="party 0: bad-shares-of-4; party 1: bad-shares-of-4"):
        cohort.drive(cohort.server.prepare(ROUND))
    assert cohort.drive(cohort.server.prepare(again)) == (0, 1, 2, 3)
    opened = cohort.drive(cohort.server.open(again, 50, cohort.seal(again, values, range(4))))
    assert cohort.is_sum(opened, values)
    assert cohort.drive(cohort.server.prepare(RoundId(1))) == (0, 1, 2, 3), "nor does it come back at once"


@pytest.mark.parametrize(("accusers", "left_out"), [((0, 1), False), ((0, 1, 2), True)])
def test_half_of_the_others_are_not_believed_when_they_accuse_a_party(
    accusers: tuple[int, ...], left_out: bool
) -> None:
    """Of five, two may lie; that the shares of an honest one do not open is what at most those say."""
    cohort = Cohort(5)
    for party in accusers:
        honest = cohort.clients[party]

        def lie(op: str, body: Body, answer: Callable[[], Body]) -> Body:
            if op == DELIVER:
                raise SealingRefused("bad-shares-of-4")
            return answer()

        cohort.clients[party] = Cheat(honest, lie)  # type: ignore[call-overload]  # what the cohort uses
    with pytest.raises(RoundAborted, match="bad-shares-of-4"):
        cohort.drive(cohort.server.prepare(ROUND))
    cohort.restart(range(4))
    everybody = (0, 1, 2, 3) if left_out else (0, 1, 2, 3, 4)
    assert cohort.drive(cohort.server.prepare(RoundId(0, 1))) == everybody


@pytest.mark.parametrize("absent", [(), (3,)], ids=["of all", "of one that dropped out"])
def test_a_party_that_gives_wrong_shares_is_named_and_the_round_goes_on(absent: tuple[int, ...]) -> None:
    """At every attempt: five shares are enough, and six or seven are given."""

    def flip(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        answer = honest()
        return {"shares": np.asarray(answer["shares"]) ^ np.uint8(1)} if op == UNMASK else answer

    cohort = Cohort(7, fresh_noise=True)
    cohort.clients[1] = Cheat(cohort.clients[1], flip)  # type: ignore[call-overload]  # what the cohort uses
    for attempt in range(2):
        values, round = some_values(7, 50, seed=attempt), RoundId(0, attempt)
        cohort.drive(cohort.server.prepare(round))
        sealed = cohort.seal(round, values, [party for party in range(7) if party not in absent])
        try:
            opened = cohort.drive(cohort.server.open(round, 50, sealed))
        except RoundAborted as reason:
            pytest.fail(f"the round ends: {reason}")
        assert cohort.is_sum(opened, values)
        assert opened.survivors == tuple(sorted(sealed))
        misfit = "its shares from parties 0, 1, 2, 3, 4, 5, 6 do not fit those of the others"
        assert opened.refused == {1: misfit}


def test_a_party_that_signs_other_survivors_is_named() -> None:
    def sign(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        return {"signature": bytes(64)} if op == SURVIVORS else honest()

    with pytest.raises(RoundAborted, match=r"3 of 4 parties signed .*; party 4: signed something else"):
        cheating(sign).round(ROUND, some_values(5, 50), absent=(3,))


def test_a_party_that_gives_shares_of_another_number_is_named() -> None:
    def short(op: str, body: Body, honest: Callable[[], Body]) -> Body:
        answer = honest()
        return {"shares": np.asarray(answer["shares"])[:-1]} if op == UNMASK else answer

    cohort, values = cheating(short), some_values(5, 50)
    with pytest.raises(RoundAborted, match="party 3: no answer; party 4: shares of another number"):
        cohort.round(ROUND, values, lost=(3,))


def test_a_party_without_which_nobody_signs_is_named() -> None:
    """Without noise survivors are settled once they are signed; then one of them withholds or spoils its words."""
    cohort, values = Cohort(4), some_values(4, 50)
    with pytest.raises(RoundAborted, match="gave shares"):
        cohort.round(RoundId(0), values, lost=(0, 1, 2, 3))
    for attempt, reason in (
        (1, "party 2: masked with the keys of another epoch"),
        (2, "no words of party 2"),
    ):
        round = RoundId(0, attempt)
        cohort.drive(cohort.server.prepare(round))
        sealed = cohort.seal(round, values, range(4))
        sealed[2] = {**sealed[2], "epoch": int(sealed[2]["epoch"]) + 99}  # type: ignore[call-overload]  # a number
        if attempt == 2:
            del sealed[2]
        with pytest.raises(RoundAborted, match=f"party 3: opened-before.*{reason}"):
            cohort.drive(cohort.server.open(round, 50, sealed))


@pytest.mark.parametrize(
    ("copied", "victim"), [(0, 1), (1, 0)], ids=["between the two", "at one side of them"]
)
def test_a_party_that_advertises_anothers_keys_takes_no_mask_off(copied: int, victim: int) -> None:
    """The server shows it the keys of an honest party, and it signs them for its own.

    Were the masks of the two with a third party the same, they would cancel in the words of a party that stands
    between them in the roster, and add up to even numbers elsewhere. The server has the third mask in any case: it
    recovers self masks.
    """
    cohort, values = Cohort(3), some_values(3, 2000)
    rounds = [RoundId(number) for number in range(cohort.epoch_rounds)]

    def copy(op: str, party: int, body: Body) -> Body:
        if op != SHARE or party == 2:
            return body
        shown: Any = {
            **body,
            "mask_keys": np.array(body["mask_keys"]),
            "signatures": np.array(body["signatures"]),
        }
        shown["mask_keys"][2] = shown["mask_keys"][copied]
        keys = {"encryption_key": shown["encryption_keys"][2], "mask_keys": shown["mask_keys"][2]}
        keys["commitments"] = shown["commitments"][2]
        content = Context("a run", cohort.roster).advert(shown["epoch"], rounds, 2, keys)
        signature = cohort.identities[2].sign(ADVERTISE, cohort.roster.hash, content)
        shown["signatures"][2] = np.frombuffer(signature, np.uint8)
        return shown  # type: ignore[no-any-return]

    assert cohort.drive(cohort.server.prepare(ROUND), tamper=copy) == (0, 1, 2)
    left = cohort.words(cohort.seal(ROUND, values, [victim])[victim], 2000).astype(cohort.group.dtype)
    masking = cohort.clients[victim]._masking
    epoch, context = masking._book.current, masking._context
    assert epoch is not None
    assert np.array_equal(epoch.peers[2].mask_keys, epoch.peers[copied].mask_keys)
    add_masks(
        left, cohort.group, [], [derive(epoch.self_seed(0), *context.self_mask(epoch.number, ROUND, victim))]
    )
    plain = cohort.group.residues(values[victim])
    assert 0.4 < np.mean((left - plain) % 2) < 0.6
    # With the masks of both pairs off as well, the values are there: so these are all there were.
    own, plus, minus = EphemeralKey(epoch.key_seed(0)), [], []
    for peer in (copied, 2):
        purpose = context.pair_mask(epoch.number, ROUND, b"", victim, peer)
        (minus if victim < peer else plus).append(
            own.agree(epoch.peers[peer].mask_keys[0].tobytes(), *purpose)
        )
    add_masks(left, cohort.group, plus, minus)
    assert np.array_equal(left, plain)


@dataclass
class MemberLists:
    """A server that tells victims of other members of the epoch than everybody else, and calls the rest survivors.

    The victims' masks are then with colluders, whom it asks, and with ``apart``, who are no survivors and whose keys
    are recovered. So whoever gives shares opens the victims' sum alone.

    Attributes:
        cohort: Honest clients; colluders are the last, who sign and give whatever is asked.
        victims: They are asked nothing after their words.
        apart: The only other honest members that victims hear of.
        colluders: Parties of the server's.
    """

    cohort: Cohort
    victims: list[int]
    apart: list[int]
    colluders: list[int]

    def signed(self) -> tuple[Body, dict[int, Any]]:
        """The survivors that were signed, and the signatures."""
        everybody, server = range(self.cohort.parties), self.cohort.server
        few = sorted([*self.victims, *self.apart, *self.colluders])

        def lie(op: str, party: int, body: Body) -> Body:
            if op != DELIVER or party not in self.victims:
                return body
            told = [i for i, sender in enumerate(np.asarray(body["senders"]).tolist()) if sender in few]
            return {
                **body,
                "senders": np.asarray(body["senders"])[told],
                "blobs": np.asarray(body["blobs"])[told],
            }

        assert self.cohort.drive(server.prepare(ROUND), tamper=lie) == tuple(everybody)
        self.cohort.seal(ROUND, some_values(self.cohort.parties, 50), everybody)
        survivors = np.array([p for p in everybody if p not in self.apart], np.int64)
        body: Body = {"epoch": 0, "number": 0, "attempt": 0, "survivors": survivors}
        signers = [p for p in everybody if p not in self.victims]
        return body, {p: self.cohort.clients[p].handle(SURVIVORS, body)["signature"] for p in signers}

    def givers(self, body: Body, signatures: dict[int, Any]) -> set[int]:
        """Who gives shares against these signatures."""
        rows = [np.frombuffer(bytes(signature), np.uint8) for signature in signatures.values()]
        question: Body = {
            **body,
            "signers": np.array(list(signatures), np.int64),
            "signatures": np.stack(rows),
        }
        given = set()
        for party in signatures:
            with contextlib.suppress(SealingRefused):
                self.cohort.clients[party].handle(UNMASK, question)
                given.add(party)
        return given


@pytest.mark.parametrize(("parties", "victims", "colluders"), [(4, 1, 1), (5, 1, 2), (7, 2, 1), (10, 1, 3)])
def test_parties_that_are_no_survivors_do_not_stand_for_who_is(
    parties: int, victims: int, colluders: int
) -> None:
    """Else a server with fewer colluders than it takes opens a sum of victims that never signed anything."""
    floor = 5 if parties == 7 else 1
    cohort = Cohort(parties, floor=floor)
    least = cohort.least
    apart = list(range(victims, least - colluders))
    attack = MemberLists(cohort, list(range(victims)), apart, list(range(parties - colluders, parties)))
    body, signatures = attack.signed()
    assert len(signatures) >= recovery_threshold(parties)
    assert attack.givers(body, signatures) == set()
    among = {p: s for p, s in signatures.items() if p not in apart}
    assert len(among) < recovery_threshold(parties)
    assert attack.givers(body, among) == set()


def test_so_many_colluders_as_are_said_to_be_enough_open_a_single_contribution() -> None:
    """2t - n of them: the bound above is no smaller than it has to be."""
    attack = MemberLists(Cohort(4), [0], [], [2, 3])
    body, signatures = attack.signed()
    assert attack.givers(body, signatures) == {1, 2, 3}


def test_those_who_contribute_nothing_do_not_help_to_open_a_round_without_one_of_the_others() -> None:
    """Three of five sign what the fourth was not shown: the difference of the two sums would be the fifth's values."""
    values = some_values(5, 50)
    values[:3] = 0
    cohort = Cohort(5)
    signers: tuple[int, ...] = (0, 1, 2, 4)

    def unasked(op: str, party: int) -> bool:
        return op in (SURVIVORS, UNMASK) and party not in signers

    def attempt(number: int, parties: tuple[int, ...]) -> Opened:
        round_id = RoundId(0, number)
        cohort.drive(cohort.server.prepare(round_id))
        sealed = cohort.seal(round_id, values, range(5))
        replies = {party: sealed[party] for party in parties}
        return cohort.drive(cohort.server.open(round_id, 50, replies), unasked)

    assert attempt(0, (0, 1, 2, 3, 4)).survivors == (0, 1, 2, 3, 4)
    signers = (0, 1, 2, 3)
    with pytest.raises(RoundAborted, match="opened-before"):
        attempt(1, (0, 1, 2, 3))
