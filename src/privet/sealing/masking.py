"""The client half of masking: advertise keys, share their seeds, mask once, and help to unmask one sum only.

Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine Learning", figure 4),
with double masks and the consistency check of survivors; its key rounds serve an epoch of several sums,
each with seeds of its own. Each answer is a decision that was written down first and that is never taken
twice.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305
from numpy.typing import NDArray

from privet.keys import derive
from privet.protocol import RoundId
from privet.sealing import shamir
from privet.sealing.agreement import SEED_BYTES, AgreementError, EphemeralKey, open_blob, seal_blob
from privet.sealing.base import FEWEST_PARTIES, SealingRefused, Store, checked, recovery_threshold
from privet.sealing.epochs import (
    BAD_SHARES,
    QUESTION_BYTES,
    Epoch,
    EpochBook,
    PublicKeys,
    Slot,
    unpack_peers,
)
from privet.sealing.identity import Identity, verify
from privet.sealing.masking_messages import (
    ADVERTISE,
    DELIVER,
    SHARE,
    SURVIVORS,
    UNMASK,
    Context,
    byte_row,
    masking_messages,
    rounds_of,
)
from privet.sealing.masks import Group, Words, add_masks
from privet.sealing.roster import Roster
from privet.wire import Body


class MaskingClient:
    """One party's masks.

    Args:
        run: Name of the run; enters every signature and key.
        roster: The members; must be signed as `Roster.accept` demands.
        identity: This site's key; its place in the roster is the party's number.
        root: 32 secret bytes of this client for this run.
        group: Where words are added.
        least: Fewest survivors of a sum that this client helps to open; never below the recovery threshold.
        store: Where decisions and secrets are kept.
        fresh_noise: Each attempt's words hold noise of their own. Else those of two attempts at a round are nearly
            the same, and are not opened with two survivor sets, even if training or rounding came out otherwise.
        insecure_test_seed: All keys follow from ``root``, so that a run repeats bit by bit.

    Raises:
        PrivetError: if the identity is not in the roster or signatures are missing.
    """

    def __init__(
        self,
        *,
        run: str,
        roster: Roster,
        identity: Identity,
        root: bytes,
        group: Group,
        least: int,
        store: Store,
        fresh_noise: bool = False,
        insecure_test_seed: bool = False,
    ) -> None:
        self.party = roster.accept(identity.public_key)
        self.group, self._fresh_noise = group, fresh_noise
        self._context = Context(run, roster)
        self._roster, self._identity = roster, identity
        self._threshold = recovery_threshold(roster.size)
        self._least = max(least, self._threshold, FEWEST_PARTIES)
        self._messages = masking_messages(roster.size)
        self._book = EpochBook(store, root, (roster.hash, run), insecure_test_seed)
        key = derive(root, "masking tag", roster.hash, run)
        self._tag_keys = derive(key, "universal hash"), derive(key, "function of it")

    def handle(self, op: str, body: Body) -> Body:
        """Answer ``keys.*`` and ``recover.*``.

        Raises:
            SealingRefused: with the reason; nothing was revealed.
        """
        steps: dict[str, Callable[[Mapping[str, Any]], Body]] = {
            ADVERTISE: self._advertise,
            SHARE: self._share,
            DELIVER: self._deliver,
            SURVIVORS: self._sign_survivors,
            UNMASK: self._unmask,
        }
        step = steps.get(op)
        if step is None:
            raise SealingRefused("unknown-operation")
        return step(checked(self._messages[op].request, body))

    def exposed(self, round: RoundId) -> bool:
        """Whether this client gave shares that open the sum of this attempt."""
        return self._book.slot(round).exposed

    # ---- key phases, once an epoch

    def _advertise(self, body: Mapping[str, Any]) -> Body:
        if body["roster"] != self._roster.hash:
            raise SealingRefused(
                "wrong-roster", "the server shows another roster than the one that was signed"
            )
        if body["run"] != self._context.run:
            raise SealingRefused("wrong-run")
        rounds = rounds_of(body["rounds"])
        if not rounds or len(set(rounds)) != len(rounds) or (body["rounds"] < 0).any():
            raise SealingRefused("malformed", "an epoch covers one or more different rounds")
        pending = self._book.pending
        if pending is not None and pending.number == body["epoch"] and pending.rounds == rounds:
            epoch = pending
        else:
            if body["epoch"] <= self._book.latest:
                raise SealingRefused("replayed-epoch", "keys of this epoch were already advertised")
            self._check_undecided(rounds)
            epoch = self._book.new_epoch(body["epoch"], rounds)
        return self._advert(epoch)

    def _check_undecided(self, rounds: Sequence[RoundId]) -> None:
        """A slot belongs to one epoch: what was decided with its keys is not decided again with others."""
        if any(self._book.slot(round) != Slot() for round in rounds):
            raise SealingRefused("replayed-round", "a round of this epoch was already masked or signed")

    def _advert(self, epoch: Epoch) -> Body:
        keys = vars(epoch.public_keys())
        if not epoch.signature:
            content = self._context.advert(epoch.number, epoch.rounds, self.party, keys)
            epoch = replace(epoch, signature=self._identity.sign(ADVERTISE, self._roster.hash, content))
            self._book.keep_pending(epoch)
        return {**keys, "signature": epoch.signature}

    def _share(self, body: Mapping[str, Any]) -> Body:
        epoch = self._pending(body["epoch"])
        parties = self._party_list(body["parties"], among=range(self._roster.size))
        try:
            peers = unpack_peers(body["parties"], body)
            signatures = dict(zip(parties, body["signatures"], strict=True))
        except ValueError:
            raise SealingRefused("malformed", "lists of different lengths") from None
        if epoch.peers:
            same = parties == tuple(epoch.peers) and all(peers[p].same_as(epoch.peers[p]) for p in parties)
            if not same:
                raise SealingRefused("two-key-lists", "shares were already made for another list of keys")
            return {"blobs": epoch.blobs}
        if self.party not in peers or not peers[self.party].same_as(epoch.public_keys()):
            raise SealingRefused("swapped-key", "the list does not hold this client's own keys")
        for party in parties:
            self._check_advert(epoch, party, peers[party], signatures[party].tobytes())
        epoch = self._with_shares(replace(epoch, peers=peers))
        self._book.keep_pending(epoch)
        return {"blobs": epoch.blobs}

    def _check_advert(self, epoch: Epoch, party: int, keys: PublicKeys, signature: bytes) -> None:
        content = self._context.advert(epoch.number, epoch.rounds, party, vars(keys))
        if not verify(self._roster.public_key(party), signature, ADVERTISE, self._roster.hash, content):
            raise SealingRefused("swapped-key", f"the keys shown for party {party} are not signed by it")

    def _with_shares(self, epoch: Epoch) -> Epoch:
        """Split every seed of the epoch, keep the own shares and seal the others'."""
        slots = range(len(epoch.rounds))
        seeds = [epoch.self_seed(slot) for slot in slots] + [epoch.key_seed(slot) for slot in slots]
        split = [shamir.split(seed, self._threshold, self._roster.size) for seed in seeds]
        key, blobs = epoch.encryption_key(), []
        for party in epoch.peers:
            bundle = b"".join(shares[party] for shares in split)
            if party == self.party:
                own = byte_row(bundle).reshape(2, len(slots), SEED_BYTES)
                continue
            purpose = self._context.blob(epoch.number, self.party, party)
            try:
                shared = key.agree(epoch.peers[party].encryption_key.tobytes(), *purpose)
            except AgreementError:
                raise SealingRefused("unusable-key", f"party {party}") from None
            blobs.append(byte_row(seal_blob(shared, bundle)))
        return replace(epoch, blobs=np.stack(blobs), own_shares=own)

    def _deliver(self, body: Mapping[str, Any]) -> Body:
        senders = self._party_list(body["senders"], among=range(self._roster.size), fewest=self._least - 1)
        current = self._book.current
        if current is not None and current.number == body["epoch"]:
            if tuple(sorted({*senders, self.party})) != tuple(current.shares):
                raise SealingRefused("two-member-lists", "this epoch began with other members")
            return {}
        epoch = self._pending(body["epoch"])
        if (
            len(senders) != len(body["blobs"])
            or self.party in senders
            or not set(senders) <= set(epoch.peers)
        ):
            raise SealingRefused("malformed", "senders are other parties whose keys were shown")
        self._check_undecided(epoch.rounds)
        key, shares = epoch.encryption_key(), {self.party: epoch.own_shares}
        for sender, blob in zip(senders, body["blobs"], strict=True):
            purpose = self._context.blob(epoch.number, sender, self.party)
            try:
                shared = key.agree(epoch.peers[sender].encryption_key.tobytes(), *purpose)
                bundle = byte_row(open_blob(shared, blob.tobytes()))
                shares[sender] = bundle.reshape(epoch.own_shares.shape)
            except (AgreementError, ValueError):
                raise SealingRefused(f"{BAD_SHARES}{sender}", "its shares do not open") from None
        self._book.keep_current(replace(epoch, shares={p: shares[p] for p in sorted(shares)}))
        return {}

    def _pending(self, number: int) -> Epoch:
        if self._book.pending is None or self._book.pending.number != number:
            raise SealingRefused(
                "unknown-epoch", "no keys were advertised for this epoch, or newer ones were"
            )
        return self._book.pending

    # ---- masking, once a slot

    def mask(self, round: RoundId, words: Words, question: bytes = b"") -> tuple[int, Words]:
        """The number of the epoch, and the words with all masks of this slot added; ``words`` is not changed.

        Args:
            round: The slot.
            words: Residues ``[count]`` of the group's dtype.
            question: Digest of what the words answer; masks cancel among parties with the same one.

        Raises:
            SealingRefused: if the slot has masked other words or for another question, or there are no keys for it.
        """
        epoch, slot = self._slot(round)
        tag = self._tag(words)
        decided = self._book.slot(round)
        if decided.tag is None:
            if decided.survivors is not None:
                raise SealingRefused("survivors-signed", "this attempt goes on without this client")
            if any(later > round and other.tag for later, other in self._book.slots.items()):
                raise SealingRefused("replayed-round", "a later round was already masked")
            self._book.decide(round, tag=tag, zero=not words.any(), question=_padded(question))
        elif not hmac.compare_digest(decided.tag, tag) or decided.question != _padded(question):
            raise SealingRefused("slot-used", "this attempt's masks have hidden other values")
        plus = [derive(epoch.self_seed(slot), *self._context.self_mask(epoch.number, round, self.party))]
        minus: list[bytes] = []
        own = EphemeralKey(epoch.key_seed(slot))
        for peer in epoch.shares:
            if peer != self.party:
                purpose = self._context.pair_mask(epoch.number, round, question, self.party, peer)
                try:
                    key = own.agree(epoch.peers[peer].mask_keys[slot].tobytes(), *purpose)
                except AgreementError:
                    raise SealingRefused("unusable-key", f"party {peer}") from None
                (plus if self.party < peer else minus).append(key)
        masked = words.copy()
        add_masks(masked, self.group, plus, minus)
        return epoch.number, masked

    def _tag(self, words: Words) -> bytes:
        """32 bytes that equal words share, at every attempt, and that others get with negligible probability.

        A pseudo-random function of a universal hash (Wegman and Carter 1981; Boneh and Shoup, section 7.3): under
        Poly1305 two given sequences of 2**20 words collide with probability at most 2**-85 (Bernstein 2005, theorem
        3.3). Nobody sees the inner hash, so one key of it may serve all attempts, which a bare Poly1305 must not.
        Measured on 4 MiB: 0.34 ms; SHA-256 takes 2.2 ms with the processor's instructions for it, BLAKE2b 4.0 ms.
        """
        universal, pseudorandom = self._tag_keys
        content = np.ascontiguousarray(words).view(np.uint8).data
        return hmac.digest(pseudorandom, Poly1305.generate_tag(universal, content), "sha256")

    def _slot(self, round: RoundId) -> tuple[Epoch, int]:
        epoch = self._book.current
        if epoch is None or round not in epoch.rounds:
            raise SealingRefused("no-keys", "this client has no keys for this round and attempt")
        return epoch, epoch.rounds.index(round)

    # ---- recovery

    def _sign_survivors(self, body: Mapping[str, Any]) -> Body:
        round, epoch, _, survivors = self._survivor_question(body)
        self._check_survivors(round, survivors)
        self._book.decide(round, survivors=survivors)
        content = self._context.survivors(epoch.number, round, survivors)
        return {"signature": self._identity.sign(SURVIVORS, self._roster.hash, content)}

    def _survivor_question(self, body: Mapping[str, Any]) -> tuple[RoundId, Epoch, int, tuple[int, ...]]:
        round = RoundId(body["number"], body["attempt"])
        epoch, slot = self._slot(round)
        if body["epoch"] != epoch.number:
            raise SealingRefused("unknown-epoch", "this round's keys are of another epoch")
        return round, epoch, slot, self._party_list(body["survivors"], among=epoch.shares)

    def _check_survivors(self, round: RoundId, survivors: tuple[int, ...]) -> None:
        decided = self._book.slot(round)
        if decided.survivors is not None and decided.survivors != survivors:
            raise SealingRefused("two-survivor-sets", "another survivor set was signed for this attempt")
        if self.party not in survivors:
            return
        if decided.tag is None:
            raise SealingRefused("not-masked", "this client is listed but sent nothing in this attempt")
        for number, other in self._book.slots.items():
            opened = other.survivors is not None and self.party in other.survivors
            alike = other.tag == decided.tag or (number.number == round.number and not self._fresh_noise)
            silent = other.zero and decided.zero and number.number != round.number
            if opened and alike and other.survivors != survivors and not silent:
                raise SealingRefused("opened-before", "these values were opened with other survivors")

    def _unmask(self, body: Mapping[str, Any]) -> Body:
        round, epoch, slot, survivors = self._survivor_question(body)
        self._check_survivors(round, survivors)
        # Survivors alone: each signs that its masks are with these, so nobody was told of other members of the epoch.
        signers = self._party_list(body["signers"], among=survivors, fewest=self._threshold)
        if len(signers) != len(body["signatures"]):
            raise SealingRefused("malformed", "lists of different lengths")
        content = self._context.survivors(epoch.number, round, survivors)
        for signer, signature in zip(signers, body["signatures"], strict=True):
            key = self._roster.public_key(signer)
            if not verify(key, signature.tobytes(), SURVIVORS, self._roster.hash, content):
                raise SealingRefused("bad-signature", f"party {signer} has not signed these survivors")
        self._book.decide(round, survivors=survivors, exposed=True)
        # Row 0 holds shares of self-mask seeds, row 1 of key seeds: for each party only one of them leaves.
        rows = [shares[0 if party in survivors else 1, slot] for party, shares in epoch.shares.items()]
        return {"shares": np.stack(rows)}

    def _party_list(
        self, given: NDArray[np.int64], among: Container[int], fewest: int | None = None
    ) -> tuple[int, ...]:
        """A strictly ascending list of known parties, by default long enough for a sum to be opened."""
        parties = tuple(int(party) for party in given)
        if list(parties) != sorted(set(parties)) or not all(party in among for party in parties):
            raise SealingRefused("malformed", "not an ascending list of known parties")
        fewest = self._least if fewest is None else fewest
        if len(parties) < fewest:
            raise SealingRefused("too-few-parties", f"{len(parties)} of {fewest}")
        return parties


def _padded(question: bytes) -> bytes:
    """A digest, or none, in the length that is kept."""
    return question.ljust(QUESTION_BYTES, b"\0")
