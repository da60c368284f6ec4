"""Identities and rosters: keys stay private, and nobody is in a roster whom its members did not sign."""

from __future__ import annotations

import json
import os
import pickle
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privet.errors import PrivetError
from privet.sealing.enrolment import (
    assemble,
    describe,
    describe_site,
    init_keys,
    merge_files,
    read_card,
    read_roster,
    sign_file,
    write_roster,
)
from privet.sealing.identity import IDENTITY_FILE, Identity, fingerprint, verify
from privet.sealing.roster import Member, Roster

IDENTITIES = [Identity.from_root(bytes([i + 1]) * 32) for i in range(4)]
NAMES = ["north", "south", "west"]


@pytest.fixture
def roster() -> Roster:
    return Roster.in_memory(NAMES, IDENTITIES[:3])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- identities


def test_a_private_key_is_kept_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        identity = Identity.create(tmp_path / "site")
    finally:
        os.umask(old)
    assert mode(tmp_path / "site" / IDENTITY_FILE) == 0o600
    assert mode(tmp_path / "site") == 0o700
    assert Identity.load(tmp_path / "site").public_key == identity.public_key


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    Identity.create(tmp_path)
    (tmp_path / IDENTITY_FILE).chmod(bits)
    with pytest.raises(PrivetError, match="others could read"):
        Identity.load(tmp_path)


def test_an_identity_is_never_replaced(tmp_path: Path) -> None:
    first = Identity.create(tmp_path)
    with pytest.raises(PrivetError, match="already holds"):
        Identity.create(tmp_path)
    assert Identity.load(tmp_path).public_key == first.public_key


def test_missing_and_damaged_keys_are_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match="keys init"):
        Identity.load(tmp_path)
    (tmp_path / IDENTITY_FILE).write_bytes(b"-----BEGIN nonsense")
    (tmp_path / IDENTITY_FILE).chmod(0o600)
    with pytest.raises(PrivetError, match="no Ed25519 private key"):
        Identity.load(tmp_path)


def test_an_identity_shows_and_pickles_no_secret() -> None:
    identity = IDENTITIES[0]
    assert repr(identity) == f"Identity(public_key={identity.public_key.hex()})"
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_a_signature_holds_for_one_purpose_roster_and_body_only() -> None:
    signer = IDENTITIES[0]
    signature = signer.sign("a", bytes(32), {"n": 1})
    assert verify(signer.public_key, signature, "a", bytes(32), {"n": 1})
    assert not verify(signer.public_key, signature, "b", bytes(32), {"n": 1})
    assert not verify(signer.public_key, signature, "a", b"\x01" * 32, {"n": 1})
    assert not verify(signer.public_key, signature, "a", bytes(32), {"n": 2})
    assert not verify(IDENTITIES[1].public_key, signature, "a", bytes(32), {"n": 1})
    assert not verify(signer.public_key, b"", "a", bytes(32), {"n": 1})
    assert not verify(b"short", signature, "a", bytes(32), {"n": 1})


def test_a_fingerprint_is_the_whole_key() -> None:
    key = IDENTITIES[0].public_key
    assert fingerprint(key).replace(" ", "") == key.hex()


# ---- rosters


def test_a_roster_that_all_members_signed_is_accepted(roster: Roster) -> None:
    for party, identity in enumerate(IDENTITIES[:3]):
        assert roster.accept(identity.public_key) == party
    assert roster.unsigned_by() == ()


def test_a_missing_signature_is_refused_by_everybody(roster: Roster) -> None:
    partial = replace(roster, signatures={0: roster.signatures[0], 1: roster.signatures[1]})
    for identity in IDENTITIES[:3]:
        with pytest.raises(PrivetError, match="west"):
            partial.accept(identity.public_key)


def test_a_stranger_does_not_accept_a_roster_that_it_is_not_in(roster: Roster) -> None:
    with pytest.raises(PrivetError, match="not in the roster"):
        roster.accept(IDENTITIES[3].public_key)


ServerTrick = Callable[[Roster], Roster]


def add_a_member(roster: Roster) -> Roster:
    fake = Identity.generate()
    return replace(roster, members=(*roster.members, Member("east", fake.public_key))).sign(fake)


def swap_a_key(roster: Roster) -> Roster:
    fake = Identity.generate()
    members = (roster.members[0], Member("south", fake.public_key), roster.members[2])
    return replace(roster, members=members).sign(fake)


def drop_a_member(roster: Roster) -> Roster:
    return replace(roster, members=roster.members[:2], signatures=dict(list(roster.signatures.items())[:2]))


def reorder(roster: Roster) -> Roster:
    first, second, third = roster.members
    signatures = {0: roster.signatures[1], 1: roster.signatures[0], 2: roster.signatures[2]}
    return replace(roster, members=(second, first, third), signatures=signatures)


def rename(roster: Roster) -> Roster:
    return replace(roster, consortium="another")


@pytest.mark.parametrize("trick", [add_a_member, swap_a_key, drop_a_member, reorder, rename])
def test_a_server_cannot_change_a_signed_roster(roster: Roster, trick: ServerTrick) -> None:
    changed = trick(roster)
    assert changed.hash != roster.hash
    with pytest.raises(PrivetError, match="not every member"):
        changed.accept(IDENTITIES[0].public_key)


def test_only_members_sign_and_only_as_themselves(roster: Roster) -> None:
    with pytest.raises(PrivetError, match="not in the roster"):
        roster.sign(IDENTITIES[3])
    stolen = replace(roster, signatures={**roster.signatures, 2: roster.signatures[0]})
    assert stolen.unsigned_by() == (2,)


def test_names_and_keys_are_unique_and_printable() -> None:
    key, other = IDENTITIES[0].public_key, IDENTITIES[1].public_key
    for members in (
        (Member("a", key), Member("a", other)),
        (Member("a", key), Member("b", key)),
        (Member("a\n1 b signed", key),),
        (Member("", key),),
        (Member("a", key[:31]),),
        (),
    ):
        with pytest.raises(PrivetError):
            Roster("c", members)


def test_a_roster_file_comes_back_whole(roster: Roster) -> None:
    again = Roster.from_json(roster.to_json())
    assert again == roster
    assert again.to_json() == roster.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"privet_roster": 2},
        {"consortium": 5},
        {"members": {}},
        {"members": [{"party": 1, "name": "a", "public_key": "00" * 32}]},
        {"members": [{"party": 0, "name": "a", "public_key": "0" * 63 + "g"}]},
        {"members": [{"party": 0, "name": 1, "public_key": "00" * 32}]},
        {"signatures": {"7": "00" * 64}},
        {"signatures": {"٣": "00" * 64}},
        {"signatures": {"9" * 5000: "00" * 64}},
        {"signatures": {"0": "00"}},
    ],
)
def test_damaged_roster_files_are_refused(roster: Roster, change: dict[str, object]) -> None:
    document = {**json.loads(roster.to_json()), **change}
    with pytest.raises(PrivetError):
        Roster.from_json(json.dumps(document))


# ---- the files of `privet keys`


def test_cards_become_a_roster_that_everybody_signs(tmp_path: Path) -> None:
    cards = [init_keys(tmp_path / name, name) for name in NAMES]
    out = tmp_path / "roster.json"
    draft = assemble(cards, "clinics", out)
    assert [member.name for member in draft.members] == sorted(NAMES)
    assert assemble(list(reversed(cards)), "clinics", tmp_path / "twin.json").hash == draft.hash
    copies = []
    for name in NAMES:
        copy = tmp_path / f"signed by {name}.json"
        write_roster(read_roster(out), copy)
        sign_file(tmp_path / name, copy)
        copies.append(copy)
        with pytest.raises(PrivetError, match="not every member"):
            read_roster(copy).accept(Identity.load(tmp_path / name).public_key)
    merged = merge_files(copies, out)
    for name in NAMES:
        party = read_roster(out).accept(Identity.load(tmp_path / name).public_key)
        assert merged.members[party].name == name
    lines = describe(read_roster(out))
    assert len(lines) == 2 + len(NAMES)
    assert all(line.endswith("  signed") for line in lines[2:])
    assert describe(draft)[2].endswith("not signed")


def test_a_card_that_its_owner_did_not_sign_is_refused(tmp_path: Path) -> None:
    card = init_keys(tmp_path / "north", "north")
    assert read_card(card).name == "north"
    document = json.loads(card.read_text())
    card.write_text(json.dumps({**document, "name": "south"}))
    with pytest.raises(PrivetError, match="has not signed this name"):
        read_card(card)
    card.write_text(json.dumps({**document, "public_key": IDENTITIES[0].public_key.hex()}))
    with pytest.raises(PrivetError, match="has not signed this name"):
        read_card(card)


def test_a_site_shows_its_name_and_whole_key(tmp_path: Path) -> None:
    init_keys(tmp_path / "a", "north")
    init_keys(tmp_path / "b", "south")
    name, key = describe_site(tmp_path / "a")
    assert name == "site north"
    assert key.removeprefix("key  ").replace(" ", "") == Identity.load(tmp_path / "a").public_key.hex()
    (tmp_path / "a" / "card.json").write_text((tmp_path / "b" / "card.json").read_text())
    with pytest.raises(PrivetError, match="another key"):
        describe_site(tmp_path / "a")


def test_two_rosters_do_not_merge(tmp_path: Path, roster: Roster) -> None:
    write_roster(roster, tmp_path / "a.json")
    write_roster(replace(rename(roster), signatures={}), tmp_path / "b.json")
    with pytest.raises(PrivetError, match="two different rosters"):
        merge_files([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_a_copy_with_a_signature_that_does_not_match_is_named_and_not_merged(
    tmp_path: Path, roster: Roster
) -> None:
    write_roster(roster, tmp_path / "good.json")
    wrong = replace(roster, signatures={**roster.signatures, 1: bytes(64)})
    write_roster(wrong, tmp_path / "bad.json")
    for order in (("bad", "good"), ("good", "bad")):
        with pytest.raises(PrivetError, match="changed after it was signed") as raised:
            merge_files([tmp_path / f"{name}.json" for name in order], tmp_path / "out.json")
        assert raised.value.field == str(tmp_path / "bad.json")
        assert roster.members[1].name in str(raised.value)
    assert not (tmp_path / "out.json").exists()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(PrivetError, match=r"absent\.json"):
        read_roster(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PrivetError, match="no text"):
        read_roster(tmp_path / "binary.json")
