"""The roster: who takes part, under which key, and the members' own signatures that say so.

Parties are numbered 0..n-1 in the order of the roster. The server is no member and no signature of its own
counts: a site accepts a roster only if its own key is in it and *every member* has signed it. A server that
adds, drops or swaps a key makes another roster, and the signatures do not fit. The roster's hash enters every
signature and key derivation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from privet.errors import PrivetError
from privet.sealing.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, verify
from privet.wire import Body

LARGEST_ROSTER = 10_000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,62}[A-Za-z0-9])?")
_SIGNING = "roster"


def check_name(name: str, where: str) -> str:
    """The name itself, if it can stand in a roster.

    Raises:
        PrivetError: if it cannot.
    """
    if not _NAME.fullmatch(name):
        raise PrivetError(
            "this name cannot stand in a roster",
            field=where,
            given=ascii(name[:80]),
            allowed="1 to 64 of a-z A-Z 0-9 space . _ - with a letter or digit at both ends",
        )
    return name


@dataclass(frozen=True)
class Member:
    """One site: its name and its Ed25519 public key (32 bytes)."""

    name: str
    public_key: bytes


@dataclass(frozen=True)
class Roster:
    """The members in order of their party numbers, and signatures over that list.

    Attributes:
        consortium: Name of the group, part of what is signed.
        members: At least one; names and keys are unique.
        signatures: Signatures of members, by party number.
    """

    consortium: str
    members: tuple[Member, ...]
    signatures: Mapping[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.consortium, "consortium")
        if not 1 <= len(self.members) <= LARGEST_ROSTER:
            raise PrivetError(
                "a roster must have members", field="members", given=len(self.members), allowed="1 to 10,000"
            )
        for party, member in enumerate(self.members):
            check_name(member.name, f"members[{party}].name")
            if len(member.public_key) != PUBLIC_KEY_BYTES:
                raise PrivetError("a public key has 32 bytes", field=f"members[{party}].public_key")
        for what in ("name", "public_key"):
            if len({getattr(member, what) for member in self.members}) != len(self.members):
                raise PrivetError(
                    f"two members have the same {what.replace('_', ' ')}",
                    field="members",
                    hint="each site makes its own key and has its own name",
                )

    @property
    def size(self) -> int:
        """Number of parties."""
        return len(self.members)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the consortium's name and the members: 32 bytes, without the signatures."""
        return hashlib.sha256(b"privet/roster/1\0" + self._canonical()).digest()

    def _canonical(self) -> bytes:
        members = [[member.name, member.public_key.hex()] for member in self.members]
        return json.dumps([self.consortium, members], separators=(",", ":"), ensure_ascii=True).encode()

    def party_of(self, public_key: bytes) -> int:
        """The number of the member with this key.

        Raises:
            PrivetError: if there is none.
        """
        for party, member in enumerate(self.members):
            if member.public_key == public_key:
                return party
        raise PrivetError(
            "this site's key is not in the roster",
            field="members",
            hint="compare 'privet keys show' of this site with the roster; the roster may be an older one",
        )

    def public_key(self, party: int) -> bytes:
        """The Ed25519 public key of a party."""
        return self.members[party].public_key

    def sign(self, identity: Identity) -> Roster:
        """This roster with the signature of one member added.

        Raises:
            PrivetError: if the identity is not a member's.
        """
        party = self.party_of(identity.public_key)
        signature = identity.sign(_SIGNING, self.hash, _CONTENT)
        return replace(self, signatures={**self.signatures, party: signature})

    def unsigned_by(self) -> tuple[int, ...]:
        """Parties without a valid signature on exactly this roster."""
        return tuple(
            party
            for party, member in enumerate(self.members)
            if not verify(member.public_key, self.signatures.get(party, b""), _SIGNING, self.hash, _CONTENT)
        )

    def mismatched(self) -> tuple[int, ...]:
        """Parties whose signature is there and is none on exactly this roster: it was changed after they signed."""
        return tuple(party for party in self.unsigned_by() if party in self.signatures)

    def accept(self, public_key: bytes) -> int:
        """Check this roster from the point of view of one site, and return its party number.

        Args:
            public_key: The site's own key. Every member must have signed, this site among them.

        Raises:
            PrivetError: if the site is no member, or signatures are missing or wrong.
        """
        party = self.party_of(public_key)
        missing = self.unsigned_by()
        if missing:
            raise PrivetError(
                "not every member has signed this roster",
                field="signatures",
                given="missing or wrong: " + ", ".join(self.members[p].name for p in missing[:10]),
                allowed="a valid signature of every member",
                hint="each of these sites runs 'privet keys sign', then merge the files",
            )
        return party

    def merge(self, other: Roster) -> Roster:
        """This roster with the signatures of another copy of it.

        Raises:
            PrivetError: if the other is a different roster.
        """
        if other.hash != self.hash:
            raise PrivetError(
                "these files are two different rosters",
                field="members",
                given=f"{self.hash.hex()[:16]} and {other.hash.hex()[:16]}",
                hint="every member must sign the same file",
            )
        return replace(self, signatures={**other.signatures, **self.signatures})

    def to_json(self) -> str:
        """The file's text; the same roster with the same signatures gives the same text."""
        members = [
            {"party": party, "name": member.name, "public_key": member.public_key.hex()}
            for party, member in enumerate(self.members)
        ]
        document: dict[str, Any] = {
            "privet_roster": 1,
            "consortium": self.consortium,
            "members": members,
            "signatures": {str(party): self.signatures[party].hex() for party in sorted(self.signatures)},
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str | None = None) -> Roster:
        """Read what `to_json` wrote, in the file ``where``. Signatures are read, not believed: call `accept`.

        Raises:
            PrivetError: if the text is no roster.
        """
        document = read_document(text, "privet_roster", where)
        members = document.get("members")
        signatures = document.get("signatures")
        if not isinstance(members, list) or not isinstance(signatures, dict):
            raise _malformed("members or signatures")
        read = []
        for party, member in enumerate(members):
            if not isinstance(member, dict) or member.get("party") != party:
                raise _malformed(f"members[{party}]")
            name = member.get("name")
            if not isinstance(name, str):
                raise _malformed(f"members[{party}].name")
            read.append(Member(name, read_hex(member.get("public_key"), PUBLIC_KEY_BYTES, "public_key")))
        signed = {}
        for party, signature in signatures.items():
            if not re.fullmatch("[0-9]{1,6}", party) or int(party) >= len(read):
                raise _malformed("signatures")
            signed[int(party)] = read_hex(signature, SIGNATURE_BYTES, "signatures")
        return cls(
            consortium=document["consortium"] if isinstance(document.get("consortium"), str) else "",
            members=tuple(read),
            signatures=signed,
        )

    @classmethod
    def in_memory(cls, names: Sequence[str], identities: Iterable[Identity]) -> Roster:
        """A roster that all of its members have signed, for a run inside one process."""
        known = tuple(identities)
        members = tuple(
            Member(name, identity.public_key) for name, identity in zip(names, known, strict=True)
        )
        roster = cls("local", members)
        signatures = {
            party: identity.sign(_SIGNING, roster.hash, _CONTENT) for party, identity in enumerate(known)
        }
        return replace(roster, signatures=signatures)


_CONTENT: Body = {"what": "the members of this roster, as hashed"}


def read_document(text: str, marker: str, where: str | None = None) -> dict[str, Any]:
    """The JSON object that carries ``marker: 1``; a `PrivetError` that names the file ``where`` if the text is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get(marker) != 1:
        what = "a card" if marker == "privet_card" else "a roster"
        raise PrivetError(
            f"this is not {what}",
            field=where,
            allowed=f"a file that 'privet keys' wrote, with '{marker}': 1",
            hint="`privet keys init` writes cards, `privet keys roster` and `merge` write rosters",
        )
    return document


def read_hex(value: object, size: int, where: str) -> bytes:
    """Exactly ``size`` bytes in hex; a `PrivetError` that names ``where`` if not."""
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise _malformed(where)
    return raw


def _malformed(where: str) -> PrivetError:
    return PrivetError(
        "this part of the roster cannot be read", field=where, allowed="a file that 'privet keys' wrote"
    )
