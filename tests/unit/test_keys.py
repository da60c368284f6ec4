"""Secrets stay with their owner, and no key is used for two draws."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privet import keys as keys_module
from privet.errors import PrivetError
from privet.keys import ClientKeys, SecretStore, Stream, derive
from privet.protocol import RoundId


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "client" / "secrets")


def test_folder_and_files_are_for_the_owner_even_with_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SecretStore(tmp_path / "secrets")
        store.write("a.key", b"x" * 32)
    finally:
        os.umask(before)
    assert mode(tmp_path / "secrets") == 0o700
    assert mode(store.path("a.key")) == 0o600


def test_the_file_has_its_mode_from_the_moment_it_exists(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            seen.append(stat.S_IMODE(status.st_mode))
        fsync(descriptor)

    monkeypatch.setattr(keys_module.os, "fsync", look)
    before = os.umask(0)
    try:
        store.write("a.key", b"x")
    finally:
        os.umask(before)
    assert seen == [0o600]


@pytest.mark.parametrize("wider", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_file_that_others_can_reach_is_refused(store: SecretStore, wider: int) -> None:
    store.write("a.key", b"secret-bytes")
    store.path("a.key").chmod(wider)
    with pytest.raises(PrivetError) as caught:
        store.read("a.key")
    assert "chmod 600" in str(caught.value)
    assert f"{wider:04o}" in str(caught.value)
    assert "secret-bytes" not in str(caught.value)


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(PrivetError, match="chmod 700"):
        SecretStore(tmp_path / "open")


def test_a_link_in_place_of_a_secret_is_refused(store: SecretStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"known to an attacker")
    (tmp_path / "elsewhere").chmod(0o600)
    store.path("a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PrivetError, match="cannot be opened"):
        store.read("a.key")


def test_a_failed_write_leaves_the_old_secret_and_no_litter(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("a.key", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(keys_module.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        store.write("a.key", b"new")
    assert store.read("a.key") == b"old"
    assert [p.name for p in store.directory.iterdir()] == ["a.key"]


KILLED = """
import os, sys
from pathlib import Path
from privet.keys import SecretStore
os.replace = lambda *_: os.kill(os.getpid(), 9)
SecretStore(Path(sys.argv[1])).write("masking.current", b"of this epoch")
"""


def test_what_a_killed_write_left_is_gone_when_the_folder_is_opened(store: SecretStore) -> None:
    store.write("masking.current", b"of the epoch before")
    (store.directory / ".lock").touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, store.directory], check=False)
    assert killed.returncode == -9
    assert len(list(store.directory.iterdir())) == 3
    again = SecretStore(store.directory)
    assert {path.name for path in again.directory.iterdir()} == {"masking.current", ".lock"}
    assert again.read("masking.current") == b"of the epoch before"


def test_who_opens_the_folder_takes_nothing_from_a_writer(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`privet site ledger` looks while a worker writes: before the new file is whole, and before it is renamed."""
    fsync, replace = os.fsync, os.replace
    seen: list[int] = []

    def look() -> None:
        SecretStore(store.directory)
        seen.append(len(list(store.directory.iterdir())))

    monkeypatch.setattr(keys_module.os, "fsync", lambda descriptor: (look(), fsync(descriptor)))
    monkeypatch.setattr(keys_module.os, "replace", lambda *paths: (look(), replace(*paths)))
    store.write("a.key", b"new")
    assert seen[:2] == [1, 1]
    assert store.read("a.key") == b"new"


def test_a_file_that_was_taken_for_a_leftover_before_it_was_locked_is_made_anew(
    store: SecretStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, looks = os.open, iter([True])

    def opened(path: Path, flags: int, *mode: int) -> int:
        descriptor = create(path, flags, *mode)
        if flags & os.O_CREAT and next(looks, False):
            SecretStore(store.directory)
        return descriptor

    monkeypatch.setattr(keys_module.os, "open", opened)
    assert store.write("a.key", b"new")
    assert store.read("a.key") == b"new"
    assert [path.name for path in store.directory.iterdir()] == ["a.key"]


def test_a_secret_is_made_once(store: SecretStore) -> None:
    first = store.read_or_create("root.key")
    assert len(first) == 32
    assert store.read_or_create("root.key") == first
    assert store.write("root.key", b"other", replace=False) is False
    assert SecretStore(store.directory).read("root.key") == first


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "UPPER", "a\0b"])
def test_names_cannot_leave_the_folder(store: SecretStore, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        store.path(name)


def test_a_missing_secret_is_named(store: SecretStore) -> None:
    with pytest.raises(PrivetError, match="does not exist"):
        store.read("root.key")


def test_nothing_secret_is_pickled_or_printed(store: SecretStore) -> None:
    root = store.read_or_create("root.key")
    client = ClientKeys.open(store)
    for thing in (store, client, Stream(root)):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing)
        assert root.hex() not in repr(thing)
        assert repr(root) not in repr(thing)
        assert "hidden" in repr(thing)


def test_derived_keys_differ_for_different_parts() -> None:
    root = bytes(range(32))
    parts: list[tuple[str | int | bytes, ...]] = [
        (), ("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), ("1",), (1,), (b"1",), (-1,),
        (1, 1), (11,), ("s\0\0\0\0\0\0\0\1x",),
    ]  # fmt: skip
    derived = [derive(root, *part) for part in parts]
    assert len(set(derived)) == len(parts)
    assert derive(root, "a", length=64)[:32] == derive(root, "a")
    assert derive(bytes(32), "a") != derive(root, "a")


def test_derivation_refuses_what_is_no_key() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        derive(b"short", "a")
    with pytest.raises(TypeError, match="bool"):
        derive(bytes(32), True)


def test_a_stream_is_the_aes_keystream_however_it_is_read() -> None:
    key = bytes(range(32))
    expected = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(600_000))
    assert Stream(key).bytes(600_000) == expected
    pieces = Stream(key)
    assert b"".join(pieces.bytes(n) for n in (1, 15, 17, 300_000, 0, 299_967)) == expected
    assert (Stream(key).uint64(1000) == np.frombuffer(expected[:8000], "<u8")).all()
    assert (Stream(key).uint32(1000) == np.frombuffer(expected[:4000], "<u4")).all()
    uniform = Stream(key).uniform(50_000)
    assert 0 <= uniform.min() < 1e-3
    assert 1 - 1e-3 < uniform.max() < 1
    assert (uniform * 2.0**53 == np.floor(uniform * 2.0**53)).all()
    with pytest.raises(ValueError, match="32 bytes"):
        Stream(bytes(16))


def test_trap_10_no_key_comes_twice_over_clients_rounds_attempts_and_resumes(tmp_path: Path) -> None:
    drawn = []
    for _resume, client in itertools.product(range(2), range(3)):
        keys = ClientKeys.open(SecretStore(tmp_path / f"client-{client}"))  # the second time it is a resume
        for number, attempt, purpose in itertools.product(range(3), range(2), ("noise/share", "sampling")):
            drawn.append(keys.draw(purpose, RoundId(number, attempt)))
            drawn.append(keys.draw(purpose, RoundId(number, attempt)))  # and a crash between draw and reply
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 3 * 2 * 2 * 2


def test_trap_10_keys_differ_when_the_machines_random_generator_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [SecretStore(tmp_path / name) for name in ("a", "b")]
    for store in stores:
        store.read_or_create("root.key")
    monkeypatch.setattr(keys_module.os, "urandom", bytes)  # a cloned virtual machine
    drawn = [ClientKeys.open(store).draw("noise", RoundId(0)) for store in stores for _ in range(3)]
    assert len(set(drawn)) == 6


def test_trap_10_keys_differ_when_an_old_backup_is_restored(tmp_path: Path) -> None:
    keys = ClientKeys.open(SecretStore(tmp_path / "client"))
    keys.draw("noise", RoundId(0))
    shutil.copytree(tmp_path / "client", tmp_path / "backup")
    first = keys.draw("noise", RoundId(1))
    restored = ClientKeys.open(SecretStore(tmp_path / "backup"))
    assert restored.draw("noise", RoundId(1)) != first


def test_trap_10_the_counter_reaches_the_disk_before_the_key_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SecretStore(tmp_path / "client")
    keys = ClientKeys.open(store)
    order: list[str] = []
    fsync, derivation = os.fsync, keys_module.derive

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        order.append("fsync")

    def note_derive(*args: bytes | str | int) -> bytes:
        order.append("derive")
        return derivation(*args)

    monkeypatch.setattr(keys_module.os, "fsync", note_fsync)
    monkeypatch.setattr(keys_module, "derive", note_derive)
    keys.draw("noise", RoundId(0))
    assert order == ["fsync", "fsync", "derive"]  # the file, its folder, and only then the key

    def crash(*_: object, **__: object) -> None:
        raise OSError("power failure")

    monkeypatch.setattr(SecretStore, "write", crash)
    with pytest.raises(OSError, match="power failure"):
        keys.draw("noise", RoundId(0))


def test_a_new_folder_of_secrets_is_on_the_disk_before_a_secret_lies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure between the two would take the folder, and with it what a client signed."""
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(keys_module.os, "fsync", note)
    store = SecretStore(tmp_path / "client")
    assert synced == [tmp_path]
    store.write("root.key", bytes(32))
    SecretStore(tmp_path / "client")
    assert synced[2:] == [tmp_path / "client"]


def test_a_test_seed_repeats_draws_per_party_and_unit_keys_for_all() -> None:
    one, again, other = (ClientKeys.from_insecure_test_seed(7, party) for party in (0, 0, 1))
    assert one.insecure
    assert one.draw("noise", RoundId(3)) == again.draw("noise", RoundId(3, attempt=1))
    assert one.draw("noise", RoundId(3)) != other.draw("noise", RoundId(3))
    assert one.draw("noise", RoundId(3)) != one.draw("noise", RoundId(4))
    assert one.unit_keys("rounding", RoundId(3), ["a", "b"]) == other.unit_keys(
        "rounding", RoundId(3, 2), ["a", "b"]
    )
    assert (
        len({*one.unit_keys("rounding", RoundId(3), ["a", "b"]), *one.unit_keys("x", RoundId(3), ["a", "b"])})
        == 4
    )
    assert ClientKeys.from_insecure_test_seed(8, 0).draw("noise", RoundId(3)) != one.draw("noise", RoundId(3))


def test_unit_keys_of_real_clients_are_their_own_and_repeat(tmp_path: Path) -> None:
    a, b = (ClientKeys.open(SecretStore(tmp_path / name)) for name in "ab")
    assert not a.insecure
    assert a.unit_keys("rounding", RoundId(0), ["u"]) == a.unit_keys("rounding", RoundId(0), ["u"])
    assert a.unit_keys("rounding", RoundId(0), ["u"]) != b.unit_keys("rounding", RoundId(0), ["u"])
    assert a.unit_keys("rounding", RoundId(0), ["u"]) != a.unit_keys("rounding", RoundId(0, 1), ["u"])
