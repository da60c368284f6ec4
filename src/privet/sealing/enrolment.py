"""What ``privet keys`` does: each site makes a key and a card, cards become a roster, every site signs it.

1. Each site: `init_keys` makes ``identity.pem`` (0600, stays) and ``card.json`` (public, to be sent
   around).
2. Anybody: `assemble` makes ``roster.json`` from all cards; the order of the cards makes no difference.
3. Each site: `sign_file` after comparing the fingerprints by telephone; `merge_files` collects the
   signatures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from privet import durable
from privet.errors import PrivetError
from privet.sealing.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Identity, fingerprint, verify
from privet.sealing.roster import Member, Roster, check_name, read_document, read_hex
from privet.wire import Body

CARD_FILE = "card.json"
_LARGEST_FILE = 8 << 20


def init_keys(directory: Path, name: str) -> Path:
    """Make a site's identity and its public card; returns the card's path.

    Args:
        directory: New folder, or one without an identity; made with mode 0700.
        name: The site's name, as it will stand in the roster.

    Raises:
        PrivetError: if the name is not allowed or an identity is there already.
    """
    check_name(name, "name")
    identity = Identity.create(directory)
    signature = identity.sign("card", b"", _card_body(name, identity.public_key))
    card = {
        "privet_card": 1,
        "name": name,
        "public_key": identity.public_key.hex(),
        "signature": signature.hex(),
    }
    path = directory / CARD_FILE
    _write(path, json.dumps(card, indent=2) + "\n")
    return path


def read_card(path: Path) -> Member:
    """The name and key on a card that its owner signed.

    Raises:
        PrivetError: if the file is no card or the key's owner did not sign the name.
    """
    document = read_document(_read(path), "privet_card", str(path))
    name = check_name(str(document.get("name")), f"{path}: name")
    public_key = read_hex(document.get("public_key"), PUBLIC_KEY_BYTES, f"{path}: public_key")
    signature = read_hex(document.get("signature"), SIGNATURE_BYTES, f"{path}: signature")
    if not verify(public_key, signature, "card", b"", _card_body(name, public_key)):
        raise PrivetError(
            "the owner of this key has not signed this name",
            field=str(path),
            hint="ask the site for its card.json again",
        )
    return Member(name, public_key)


def assemble(cards: Sequence[Path], consortium: str, out: Path) -> Roster:
    """Make an unsigned roster from the cards of all sites, ordered by name, and write it.

    Raises:
        PrivetError: if a card is bad, or two sites share a name or a key.
    """
    members = sorted((read_card(card) for card in cards), key=lambda member: member.name)
    roster = Roster(consortium, tuple(members))
    write_roster(roster, out)
    return roster


def sign_file(directory: Path, path: Path) -> Roster:
    """Add the signature of the identity in ``directory`` to a roster's file.

    Args:
        directory: Folder of the identity.
        path: The roster; replaced atomically.

    Raises:
        PrivetError: if the identity is not a member's, a file cannot be read, or the roster was changed after
            somebody signed it.
    """
    identity = Identity.load(directory)
    roster = _read_unchanged(path, "so it is not signed again")
    signed = roster.sign(identity)
    write_roster(signed, path)
    return signed


def merge_files(paths: Sequence[Path], out: Path) -> Roster:
    """Collect the signatures of several copies of one roster.

    Raises:
        PrivetError: if they are not copies of one roster, or one was changed after somebody signed it.
    """
    if not paths:
        raise PrivetError("no roster to merge", allowed="one file or more")
    roster = reduce(Roster.merge, [_read_unchanged(path, "so it is not merged") for path in paths])
    write_roster(roster, out)
    return roster


def read_roster(path: Path) -> Roster:
    """Read a roster's file; believe it only after `Roster.accept`.

    Raises:
        PrivetError: if there is no roster in it.
    """
    return Roster.from_json(_read(path), str(path))


def _read_unchanged(path: Path, therefore: str) -> Roster:
    """A roster whose signatures, as far as it has any, are on exactly this roster."""
    roster = read_roster(path)
    if wrong := roster.mismatched():
        raise PrivetError(
            f"was changed after it was signed, {therefore}",
            field=str(path),
            given="signatures that do not match: " + ", ".join(roster.members[p].name for p in wrong[:10]),
            allowed="a roster whose signatures, if it has any, are on exactly these members",
            hint="ask who put the roster together for the file that was signed, or have a new one made from all cards",
        )
    return roster


def write_roster(roster: Roster, path: Path) -> None:
    """Write a roster's file, atomically."""
    _write(path, roster.to_json())


def describe(roster: Roster) -> list[str]:
    """Lines that two sites read to each other before they sign: each key in full, and who has signed."""
    missing, wrong = set(roster.unsigned_by()), set(roster.mismatched())
    lines = [
        f"roster of {roster.consortium}: {roster.size} members",
        f"hash {fingerprint(roster.hash)}",
    ]
    for party, member in enumerate(roster.members):
        mark = "signed" if party not in missing else "not signed"
        if party in wrong:
            mark = "SIGNATURE DOES NOT MATCH"
        lines.append(f"{party:3d}  {member.name}  {fingerprint(member.public_key)}  {mark}")
    return lines


def describe_site(directory: Path) -> list[str]:
    """Lines that tell others this site's key: its name and the fingerprint that they compare.

    Raises:
        PrivetError: if the folder holds no identity, or a card of another key.
    """
    identity, card = Identity.load(directory), read_card(directory / CARD_FILE)
    if card.public_key != identity.public_key:
        raise PrivetError(
            "this card belongs to another key than the identity beside it",
            field=str(directory / CARD_FILE),
            hint="look for the card that 'privet keys init' wrote, or make a new key in a new folder",
        )
    return [f"site {card.name}", f"key  {fingerprint(identity.public_key)}"]


def _card_body(name: str, public_key: bytes) -> Body:
    return {"name": name, "public_key": public_key}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        if len(raw) > _LARGEST_FILE:
            raise PrivetError("this file is too large", field=str(path), allowed="at most 8 MiB")
        return raw.decode()
    except OSError as error:
        raise PrivetError("cannot read this file", field=str(path), given=error.strerror) from None
    except UnicodeDecodeError:
        raise PrivetError("this file is no text", field=str(path), allowed="UTF-8") from None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(path, text)
