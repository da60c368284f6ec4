"""The server half of masking: collect keys and sealed shares, settle who survived, rebuild their masks' sum.

The server is driven by what clients answer and keeps nothing secret of theirs but what they gave to open a
sum. What it settled is in its `Store` before it asks for it: a server that comes back asks the same again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privet import wire
from privet.keys import derive
from privet.protocol import Ask, Replies, RoundAborted, RoundId, Steps
from privet.sealing.agreement import BLOB_OVERHEAD, EphemeralKey, usable
from privet.sealing.base import Store, missing_survivors, reasons, recovery_threshold
from privet.sealing.epochs import BAD_SHARES, PublicKeys, pack_peers
from privet.sealing.identity import verify
from privet.sealing.masking_messages import (
    ADVERTISE,
    DELIVER,
    MAX_SLOTS,
    SHARE,
    SURVIVORS,
    UNMASK,
    Context,
    bundle_bytes,
    byte_row,
    masking_messages,
    round_array,
)
from privet.sealing.masks import Group, Words, add_masks
from privet.sealing.recombining import Recombination, commits_to, makes
from privet.sealing.roster import Roster
from privet.sealing.server_memory import ServerEpoch, ServerMemory
from privet.wire import Body, Message

_ACCUSATION = re.compile(BAD_SHARES + r"(\d{1,6})$")


@dataclass(frozen=True)
class Masks:
    """The masks that are left in the sum of the survivors' words.

    Attributes:
        survivors: Parties whose words belong in the sum, ascending.
        group: The group.
        plus: Keys of masks that are in the sum.
        minus: Keys of masks that are in the sum with the opposite sign.
        misfits: Parties whose shares did not fit and were not used, and how that is said.
    """

    survivors: tuple[int, ...]
    group: Group
    plus: tuple[bytes, ...] = field(repr=False)
    minus: tuple[bytes, ...] = field(repr=False)
    misfits: Mapping[int, str] = field(default_factory=dict)

    def remove(self, words: Words) -> None:
        """Take the masks off a sum of the survivors' words, residues ``[count]``, in place."""
        add_masks(words, self.group, self.minus, self.plus)

    def total(self, count: int) -> Words:
        """The masks themselves as residues ``[count]``, to be subtracted from an encrypted sum."""
        words = np.zeros(count, self.group.dtype)
        add_masks(words, self.group, self.plus, self.minus)
        return words


class MaskingServer:
    """The server's side of a run's masks.

    Args:
        run: Name of the run.
        roster: The members.
        group: Where words are added.
        least: Fewest survivors of a sum.
        store: Where the state is kept.
        rounds_per_epoch: Rounds that one key exchange serves, 1 to 64.
        timeout: Seconds that a party has for one answer.
        probe_timeout: Seconds that a party has which was away before.
        tries: How often recovery is asked before the round is given up.
    """

    def __init__(
        self,
        *,
        run: str,
        roster: Roster,
        group: Group,
        least: int,
        store: Store,
        rounds_per_epoch: int = 8,
        timeout: float = 600.0,
        probe_timeout: float = 5.0,
        tries: int = 2,
    ) -> None:
        if not 1 <= rounds_per_epoch <= MAX_SLOTS:
            raise ValueError(f"an epoch covers 1 to {MAX_SLOTS} rounds")
        self.group = group
        self._context, self._roster = Context(run, roster), roster
        self._threshold = recovery_threshold(roster.size)
        self._least = max(least, self._threshold)
        self._slots, self._tries = rounds_per_epoch, tries
        self._timeout, self._probe_timeout = timeout, probe_timeout
        self._memory = ServerMemory(store)
        self._left_out: set[int] = set()

    def messages(self) -> dict[str, Message]:
        """Schemas of ``keys.*`` and ``recover.*``."""
        return masking_messages(self._roster.size)

    def epoch_of(self, round: RoundId) -> int:
        """Number of the epoch whose keys a prepared round uses."""
        epoch = self._memory.epoch
        return epoch.number if epoch is not None and round in epoch.rounds else -1

    # ---- keys

    def prepare(self, round: RoundId) -> Steps[tuple[int, ...]]:
        """Make sure that there are keys for a round, and let parties in that were away; returns who has keys.

        Raises:
            RoundAborted: if too few parties have.
        """
        memory = self._memory
        if memory.progress.due != round:
            have_keys = memory.epoch is not None and round in memory.epoch.rounds
            try:
                yield from self._renew(round, have_keys)
            except RoundAborted:
                # Somebody came back and was gone again: the keys of the epoch in use are still good.
                if not have_keys:
                    raise
            memory.keep_progress(due=round, survivors=())
        failed = yield from self._deliver()
        ready = memory.progress.ready
        self._require(len(ready), f"have keys for masks{reasons(failed)}")
        return ready

    def _renew(self, round: RoundId, have_keys: bool) -> Steps[None]:
        """Begin an epoch if there are no keys for the round, or if a party without keys answers."""
        memory = self._memory
        everybody = [p for p in range(self._roster.size) if p not in self._left_out]
        members = memory.epoch.members if memory.epoch is not None and have_keys else {}
        outside = [p for p in everybody if p not in members]
        if not outside:
            return
        number, rounds = memory.progress.next_epoch, self._slots_from(round)
        memory.keep_progress(next_epoch=number + 1)
        timeout = self._probe_timeout if have_keys else self._timeout
        adverts = yield from self._advertise(number, rounds, outside, timeout)
        if members and adverts:
            adverts |= yield from self._advertise(number, rounds, members, self._timeout)
        if adverts or not members:
            yield from self._begin_epoch(number, rounds, adverts)

    def _slots_from(self, round: RoundId) -> tuple[RoundId, ...]:
        """The slots of an epoch: this attempt, and the first attempts at the rounds that follow."""
        return (round, *(RoundId(round.number + i) for i in range(1, self._slots)))

    def _advertise(
        self, number: int, rounds: tuple[RoundId, ...], to: Iterable[int], timeout: float
    ) -> Steps[dict[int, Body]]:
        body: Body = {
            "roster": self._roster.hash,
            "run": self._context.run,
            "epoch": number,
            "rounds": round_array(rounds),
        }
        replies = yield Ask(ADVERTISE, body, to=tuple(to), timeout=timeout)
        valid = {}
        for party, reply in self._well_formed(ADVERTISE, replies).items():
            content = self._context.advert(number, rounds, party, reply)
            key, signature = self._roster.public_key(party), bytes(reply["signature"])
            whole = len(reply["mask_keys"]) == len(reply["commitments"]) == len(rounds)
            if not whole or not verify(key, signature, ADVERTISE, self._roster.hash, content):
                continue
            # With a key of low order everybody else would refuse the whole list.
            if all(usable(key.tobytes()) for key in (reply["encryption_key"], *reply["mask_keys"])):
                valid[party] = dict(reply)
        return valid

    def _begin_epoch(
        self, number: int, rounds: tuple[RoundId, ...], adverts: Mapping[int, Mapping[str, Any]]
    ) -> Steps[None]:
        self._require(len(adverts), "advertised keys")
        parties = sorted(adverts)
        keys = {
            p: PublicKeys(adverts[p]["encryption_key"], adverts[p]["mask_keys"], adverts[p]["commitments"])
            for p in parties
        }
        body: Body = {
            "epoch": number,
            "parties": np.array(parties, np.int64),
            "signatures": np.stack([byte_row(adverts[p]["signature"]) for p in parties]),
            **pack_peers(keys, len(rounds)),
        }
        replies = yield Ask(SHARE, body, to=tuple(parties), timeout=self._timeout)
        shared = {
            p: np.asarray(reply["blobs"])
            for p, reply in self._well_formed(SHARE, replies).items()
            if reply["blobs"].shape == (len(parties) - 1, bundle_bytes(len(rounds)) + BLOB_OVERHEAD)
        }
        self._require(len(shared), "shared seeds")
        members = sorted(shared)
        # A sender's row leaves out the sender itself.
        blobs = np.array(
            [
                [
                    shared[s][parties.index(r) - (r > s)] if r != s else np.zeros_like(shared[s][0])
                    for r in members
                ]
                for s in members
            ]
        )
        self._memory.keep_epoch(ServerEpoch(number, rounds, {p: keys[p] for p in members}, blobs))

    def _deliver(self) -> Steps[Mapping[int, str]]:
        """Hand the sealed shares to members that have not confirmed them, also to those that come back.

        Returns why parties did not confirm.
        """
        epoch, ready = self._epoch(), self._memory.progress.ready
        members = sorted(epoch.members)
        waiting = [p for p in members if p not in ready]
        if not waiting:
            return {}
        bodies: dict[int, Body] = {}
        for receiver in waiting:
            senders = [p for p in members if p != receiver]
            rows = [members.index(sender) for sender in senders]
            bodies[receiver] = {
                "epoch": epoch.number,
                "senders": np.array(senders, np.int64),
                "blobs": epoch.blobs[rows, members.index(receiver)],
            }
        timeout = self._probe_timeout if ready else self._timeout
        replies = yield Ask(DELIVER, per_node=bodies, to=tuple(waiting), timeout=timeout)
        self._memory.keep_progress(ready=tuple(sorted({*ready, *replies.ok} & set(members))))
        self._left_out |= _accused(members, replies.failed)
        return replies.failed

    def _epoch(self) -> ServerEpoch:
        if self._memory.epoch is None:
            raise RoundAborted("no keys were exchanged")
        return self._memory.epoch

    # ---- recovery

    def absent(self, came: Collection[int]) -> tuple[int, ...]:
        """Members of the roster that are not among those whose words came."""
        return tuple(party for party in range(self._roster.size) if party not in came)

    def recover(self, round: RoundId, candidates: Collection[int], question: bytes = b"") -> Steps[Masks]:
        """Settle the survivors of a round and rebuild the masks in their sum.

        Args:
            round: The attempt that was prepared last.
            candidates: Parties whose well-formed words have come.
            question: Digest of what their words answer.

        Raises:
            RoundAborted: if too few parties sent words, signed the survivors or gave shares. By then nothing
                was revealed but fewer shares than the threshold, which tell nothing.
        """
        epoch, progress = self._epoch(), self._memory.progress
        if progress.due != round:
            raise RoundAborted("this round was not prepared")
        survivors = progress.survivors
        if not survivors:
            survivors = tuple(sorted(set(candidates) & set(epoch.members)))
            self._require(len(survivors), "sent words")
            self._memory.keep_progress(survivors=survivors)
        elif not set(survivors) <= set(candidates):
            raise RoundAborted(missing_survivors(survivors, candidates))
        signatures = yield from self._collect_signatures(round, survivors)
        shares = yield from self._collect_shares(round, survivors, signatures)
        return self._rebuild(epoch, round, survivors, shares, question)

    def _slot_body(self, round: RoundId, survivors: tuple[int, ...]) -> Body:
        return {
            "epoch": self._epoch().number,
            "number": round.number,
            "attempt": round.attempt,
            "survivors": np.array(survivors, np.int64),
        }

    def _collect_signatures(
        self, round: RoundId, survivors: tuple[int, ...]
    ) -> Steps[dict[int, NDArray[np.uint8]]]:
        content = self._context.survivors(self._epoch().number, round, survivors)
        body = self._slot_body(round, survivors)
        signatures: dict[int, NDArray[np.uint8]] = {}
        failed: dict[int, str] = {}
        for _ in range(self._tries):
            missing = tuple(p for p in survivors if p not in signatures)
            replies = yield Ask(SURVIVORS, body, to=missing, timeout=self._timeout)
            failed |= replies.failed
            for party, reply in self._well_formed(SURVIVORS, replies).items():
                key, signature = self._roster.public_key(party), bytes(reply["signature"])
                if verify(key, signature, SURVIVORS, self._roster.hash, content):
                    signatures[party] = byte_row(signature)
                else:
                    failed[party] = "signed something else"
            if len(signatures) >= self._threshold:
                return signatures
        raise RoundAborted(
            f"{len(signatures)} of {self._threshold} parties signed the survivors{reasons(failed)}"
        )

    def _addressees(self, first: Iterable[int]) -> list[tuple[int, ...]]:
        """Whom to ask, try by try: those who answered last, so that nobody waits for the absent; then all."""
        return [tuple(first), *[tuple(self._epoch().members)] * (self._tries - 1)]

    def _collect_shares(
        self, round: RoundId, survivors: tuple[int, ...], signatures: Mapping[int, NDArray[np.uint8]]
    ) -> Steps[dict[int, NDArray[np.uint8]]]:
        signers = sorted(signatures)
        body: Body = {
            **self._slot_body(round, survivors),
            "signers": np.array(signers, np.int64),
            "signatures": np.stack([signatures[p] for p in signers]),
        }
        shares: dict[int, NDArray[np.uint8]] = {}
        failed: dict[int, str] = {}
        for to in self._addressees(signers):
            missing = tuple(p for p in to if p not in shares)
            replies = yield Ask(UNMASK, body, to=missing, timeout=self._timeout)
            failed |= replies.failed
            for party, reply in self._well_formed(UNMASK, replies).items():
                if len(reply["shares"]) == len(self._epoch().members):
                    shares[party] = reply["shares"]
                else:
                    failed[party] = "shares of another number of seeds"
            if len(shares) >= self._threshold:
                return shares
        raise RoundAborted(f"{len(shares)} of {self._threshold} parties gave shares{reasons(failed)}")

    def _rebuild(
        self,
        epoch: ServerEpoch,
        round: RoundId,
        survivors: tuple[int, ...],
        shares: Mapping[int, NDArray[np.uint8]],
        question: bytes,
    ) -> Masks:
        plus: list[bytes] = []
        minus: list[bytes] = []
        recombination = Recombination(shares, self._threshold)
        slot = epoch.rounds.index(round)
        for index, (party, keys) in enumerate(epoch.members.items()):
            if party in survivors:
                fits = commits_to(keys.commitments[slot].tobytes())
                seed = recombination.seed(index, party, f"the seed of party {party}", fits)
                plus.append(derive(seed, *self._context.self_mask(epoch.number, round, party)))
                continue
            fits = makes(keys.mask_keys[slot].tobytes())
            key = EphemeralKey(recombination.seed(index, party, f"the key of party {party}", fits))
            for survivor in survivors:
                purpose = self._context.pair_mask(epoch.number, round, question, party, survivor)
                pair = key.agree(epoch.members[survivor].mask_keys[slot].tobytes(), *purpose)
                (plus if survivor < party else minus).append(pair)
        return Masks(survivors, self.group, tuple(plus), tuple(minus), recombination.misfits)

    def _require(self, count: int, what: str) -> None:
        if count < self._least:
            raise RoundAborted(f"{count} of {self._least} parties {what}")

    def _well_formed(self, op: str, replies: Replies) -> dict[int, Mapping[str, Any]]:
        schema = self.messages()[op].reply
        good: dict[int, Mapping[str, Any]] = {}
        for party in sorted(replies.ok):
            try:
                schema.check(replies.ok[party])
            except wire.WireError:
                continue
            good[party] = replies.ok[party]
        return good


def _accused(members: Sequence[int], failed: Mapping[int, str]) -> set[int]:
    """Members whose shares do not open, as more than half of the others say: a few who lie exclude nobody."""
    named = [int(found[1]) for reason in failed.values() if (found := _ACCUSATION.search(reason))]
    return {party for party in members if 2 * named.count(party) > len(members) - 1}
