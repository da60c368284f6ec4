"""The server's half of the run's key: it relays, and remembers only who holds the key of which name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from privet.protocol import Ask, Replies, RoundAborted, Steps
from privet.sealing.agreement import usable
from privet.sealing.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from privet.sealing.masking_messages import Context
from privet.sealing.run_key import (
    ACCEPT,
    ADVERTISE,
    NAME_BYTES,
    SCOPE_BYTES,
    WRAP,
    WRAPPED_BYTES,
    byte_rows,
    scope_of,
    verify_advert,
)
from privet.traffic import Sizes, Traffic
from privet.wire import Array, Blob, Body, Message, Schema, UpTo, Whole

SECONDS_TO_ANSWER = 600.0
SECONDS_TO_PROBE = 5.0
"""For a party that was away, while others hold the key: a dead site must not hold up every round."""

_REFUSALS = ("refused", "malformed", "failed")


class RunKeyServer:
    """The server's half: it relays, and remembers only who holds the key of which name.

    Args:
        context: The run and its roster.
        purpose: As at the clients.
        attachment_bytes: Most bytes of an attachment.
    """

    def __init__(self, context: Context, purpose: str, attachment_bytes: int) -> None:
        self._context, self._attachment_bytes = context, attachment_bytes
        self.scope = scope_of(context, purpose)
        self._name = b""
        self._holders: set[int] = set()
        self._doubted: set[int] = set()
        """Makers whose key somebody refused; they are asked last. Forgotten when the server starts again."""
        self.failed: dict[int, str] = {}
        """Why parties did not advertise, hand the key on or take it, the last time that they were asked."""

    @property
    def name(self) -> bytes:
        """Name of the run's key."""
        return self._name

    def forget(self, parties: Sequence[int]) -> None:
        """Ask these parties again before the next round: they may have lost the key."""
        self._holders -= set(parties)

    def messages(self) -> dict[str, Message]:
        """Schemas of the three operations."""
        return run_key_messages(self._context.roster.size, self._attachment_bytes)

    def prepare(self) -> Steps[tuple[int, ...]]:
        """See that every party that answers holds one key, and return those who do, ascending.

        Raises:
            RoundAborted: if nobody can hand the key on.
        """
        roster = self._context.roster
        absent = tuple(party for party in range(roster.size) if party not in self._holders)
        if not absent:
            return tuple(range(roster.size))
        self.failed = {}
        timeout = SECONDS_TO_PROBE if self._holders else SECONDS_TO_ANSWER
        replies = yield Ask(ADVERTISE, {"scope": self.scope}, to=absent, timeout=timeout)
        adverts: dict[int, Mapping[str, Any]] = {
            party: reply
            for party, reply in sorted(replies.ok.items())
            if usable(reply["public"])  # type: ignore[arg-type]  # Blobs by the schema
            and verify_advert(self._context, self.scope, party, reply["public"], reply["signature"])  # type: ignore[arg-type]
        }
        self.failed |= replies.failed
        if self._holders:
            yield from self._hand_on(adverts)
        else:
            # after a restart of the server, the key that most of them hold is the run's
            names = Counter(advert["key"] for advert in adverts.values() if advert["key"])
            for name in sorted(names, key=lambda name: (names[name], name), reverse=True):
                self._name = name
                taken = yield from self._hand_on(adverts)
                if taken or 2 * names[name] > len(adverts):
                    break
                # a few who say that they hold a key, and give it to nobody, are not believed
                self._doubted |= self._holders
                self._holders, self._name = set(), b""
            else:
                yield from self._hand_on(adverts)
        if not self._holders:
            raise RoundAborted("no client can make or hand on the run's key")
        return tuple(sorted(self._holders))

    def _hand_on(self, adverts: Mapping[int, Mapping[str, Any]]) -> Steps[bool]:
        """Have one holder after another wrap the key until all have it, also those that were just given it.

        Returns false if a maker that answered has given it to nobody, though somebody lacks it.

        Whoever refuses a key may be lying, and so may its maker, who can wrap it rightly for some and not for others:
        what one made is refused, another makes. The silent wait for the next round, or each maker would wait for them.
        """
        if self._name:
            self._holders |= {party for party, advert in adverts.items() if advert["key"] == self._name}
        missing = [party for party in adverts if party not in self._holders]
        asked: set[int] = set()
        waiting, taken, heard = list(missing), False, False
        while waiting:
            makers = [party for party in self._holders or missing if party not in asked]
            if not makers:
                break
            maker = min(makers, key=lambda party: (party in self._doubted, party))
            asked.add(maker)
            receivers = [party for party in waiting if party != maker]
            question: Body = {
                "parties": np.array(receivers, np.int64),
                "publics": byte_rows([adverts[p]["public"] for p in receivers], PUBLIC_KEY_BYTES),
                "signatures": byte_rows([adverts[p]["signature"] for p in receivers], SIGNATURE_BYTES),
            }
            replies = yield Ask(WRAP, question, to=(maker,), timeout=SECONDS_TO_ANSWER)
            self.failed |= replies.failed
            # the silent may be what they say they are
            heard |= replies.failed.get(maker, _REFUSALS[0]).startswith(_REFUSALS)
            answer: Mapping[str, Any] | None = replies.ok.get(maker)
            if answer is None or not len(answer["wrapped"]) == len(answer["signatures"]) == len(receivers):
                continue
            if self._holders and answer["key"] != self._name:
                continue
            handed: dict[int, Body] = {
                party: {
                    "maker": maker,
                    "ephemeral": answer["ephemeral"],
                    "wrapped": answer["wrapped"][row].tobytes(),
                    "signature": answer["signatures"][row].tobytes(),
                    "attachment": answer["attachment"],
                }
                for row, party in enumerate(receivers)
            }
            accepted = Replies({}, {})
            if handed:
                accepted = yield Ask(ACCEPT, per_node=handed, to=tuple(handed), timeout=SECONDS_TO_ANSWER)
            self.failed |= accepted.failed
            taken |= bool(accepted.ok)
            waiting = [
                party for party, reason in sorted(accepted.failed.items()) if reason.startswith(_REFUSALS)
            ]
            if waiting:
                self._doubted.add(maker)
            if accepted.ok or not waiting:
                self._name = answer["key"]
                self._holders |= {maker, *accepted.ok}
            elif not self._holders:
                waiting.append(maker)  # nobody took the key that it made, so it has to take another's
        return taken or not waiting or not heard


def run_key_messages(parties: int, attachment_bytes: int) -> dict[str, Message]:
    """Schemas of the three operations, for a roster of this size and attachments of at most so many bytes."""
    some = UpTo(parties)
    party = Whole(0, parties - 1)
    public, signature = Blob(PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES), Blob(SIGNATURE_BYTES, SIGNATURE_BYTES)
    signatures = Array("uint8", (some, SIGNATURE_BYTES))
    attachment = Blob(attachment_bytes)
    return {
        ADVERTISE: Message(
            Schema({"scope": Blob(SCOPE_BYTES, SCOPE_BYTES)}),
            Schema({"public": public, "signature": signature, "key": Blob(NAME_BYTES)}),
        ),
        WRAP: Message(
            Schema(
                {
                    "parties": Array("int64", (some,)),
                    "publics": Array("uint8", (some, PUBLIC_KEY_BYTES)),
                    "signatures": signatures,
                }
            ),
            Schema(
                {
                    "key": Blob(NAME_BYTES, NAME_BYTES),
                    "ephemeral": public,
                    "wrapped": Array("uint8", (some, WRAPPED_BYTES)),
                    "signatures": signatures,
                    "attachment": attachment,
                }
            ),
        ),
        ACCEPT: Message(
            Schema(
                {
                    "maker": party,
                    "ephemeral": public,
                    "wrapped": Blob(WRAPPED_BYTES, WRAPPED_BYTES),
                    "signature": signature,
                    "attachment": attachment,
                }
            ),
            Schema({}),
        ),
    }


def run_key_traffic(parties: int, attachment: int) -> Traffic:
    """A client's part of making and handing on the run's key, once a run, if nobody comes late.

    Args:
        parties: Size of the roster.
        attachment: Bytes that travel along with the key.
    """
    messages, others = run_key_messages(parties, attachment), parties - 1

    def traffic(op: str, asked: Sizes, answered: Sizes | None = None) -> Traffic:
        return Traffic.of(messages[op].request, messages[op].reply, asked, answered)

    signed = (others, SIGNATURE_BYTES)
    wrap = traffic(
        WRAP,
        {"parties": others, "publics": (others, PUBLIC_KEY_BYTES), "signatures": signed},
        {"wrapped": (others, WRAPPED_BYTES), "signatures": signed, "attachment": attachment},
    )
    accept = traffic(ACCEPT, {"attachment": attachment})
    return traffic(ADVERTISE, {}, {"key": 0}) + wrap * (1 / parties) + accept * (others / parties)
