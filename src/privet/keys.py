"""A client's secrets and every key it draws randomness from: stored, derived and never used twice.

- `SecretStore` keeps secrets in files that only their owner can read, written atomically and durably.
- `derive` makes independent keys out of one root key (HKDF-SHA256), `Stream` makes bytes out of a key
(AES-256-CTR).
- `ClientKeys` hands out the keys of a client: fresh ones for noise and sampling, repeatable ones for
rounding.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.protocol import RoundId

KEY_BYTES = 32
_SALT = b"privet/key-derivation/v1"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_LEFT = re.compile(rf"\.{_NAME.pattern}\.[0-9a-f]{{16}}")
"""What a write that was killed leaves: a whole secret perhaps, under no name that anybody reads."""
_ZEROS = bytes(1 << 18)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def _encode_part(part: str | int | bytes) -> bytes:
    """One part with its type and its length in front, so that no two sequences of parts share an encoding."""
    if isinstance(part, bool):
        raise TypeError("a key is derived from str, int or bytes; a bool would be taken for an int")
    if isinstance(part, bytes):
        kind, data = b"b", part
    elif isinstance(part, str):
        kind, data = b"s", part.encode()
    else:
        kind, data = b"i", str(part).encode()
    return kind + len(data).to_bytes(8, "big") + data


def derive(root: bytes, *info: str | int | bytes, length: int = KEY_BYTES) -> bytes:
    """A key for one purpose, computed from a root key with HKDF-SHA256 (RFC 5869).

    Args:
        root: Key material of at least 16 bytes.
        info: What the key is for. Types and lengths are encoded, so ``("ab", "c")``, ``("a", "bc")`` and
            ``("1",)``, ``(1,)`` give unrelated keys.
        length: Bytes to return, at most 8160.

    Raises:
        ValueError: if the root is too short to be a key.
        TypeError: if a part is neither str, int nor bytes.
    """
    if len(root) < 16:
        raise ValueError("a root key has at least 16 bytes")
    label = b"".join(_encode_part(part) for part in info)
    return HKDF(algorithm=SHA256(), length=length, salt=_SALT, info=label).derive(root)


class _Unpicklable:
    """Secrets do not travel inside pickles: not into checkpoints, not to worker processes, not into logs."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds secrets and cannot be pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: hidden>"


class Stream(_Unpicklable):
    """The AES-256-CTR keystream of a key, counter from zero: the source of all random numbers that matter.

    A key must serve one stream only. That its bytes pass for uniform is the computational assumption that
    all guarantees rest on (counter mode never repeats a block; even an ideal cipher's 8 MB therefore differ
    from uniform bytes by up to 2**-91, the PRP/PRF switching lemma).

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a stream's key has {KEY_BYTES} bytes, not {len(key)}")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def _fill(self, count: int) -> NDArray[np.uint8]:
        # update_into wants room for one block more than it writes
        buffer = np.empty(count + 15, dtype=np.uint8)
        view = buffer.data
        for start in range(0, count, len(_ZEROS)):
            size = min(len(_ZEROS), count - start)
            self._encryptor.update_into(memoryview(_ZEROS)[:size], view[start : start + size + 15])
        return buffer[:count]

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        return self._fill(count).tobytes()

    def uint32(self, count: int) -> NDArray[np.uint32]:
        """The next ``count`` little-endian words, uniform on [0, 2**32)."""
        return self._fill(4 * count).view("<u4").astype(np.uint32, copy=False)

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` little-endian words, uniform on [0, 2**64)."""
        return self._fill(8 * count).view("<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` floats in [0, 1), multiples of 2**-53 (one word each)."""
        return np.asarray((self.uint64(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


class SecretStore(_Unpicklable):
    """A folder of secrets: mode 0700, files 0600 from the moment they exist, replaced atomically and durably.

    What writes left that were killed is removed when the folder is opened.

    Args:
        directory: The folder; made if it is missing.

    Raises:
        PrivetError: if the folder exists and others than its owner can enter it, or it belongs to somebody
            else.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(self._directory, 0o700)
            _sync(self._directory.parent)  # a secret is on the disk only with the folder that it lies in
        except FileExistsError:
            _require_private(self._directory, os.stat(self._directory), "0700", "chmod 700")
            self._tidy()

    def __repr__(self) -> str:
        return f"<SecretStore at {self._directory}: hidden>"

    @property
    def directory(self) -> Path:
        """Where the secrets lie."""
        return self._directory

    def path(self, name: str) -> Path:
        """The file of a secret.

        Raises:
            ValueError: if the name is not made of lower-case letters, digits, ``.``, ``_`` and ``-``.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"a secret's name is made of a-z, 0-9, '.', '_' and '-', not {name!r}")
        return self._directory / name

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str) -> bytes:
        """The secret ``name``.

        Raises:
            PrivetError: if there is none, or others than its owner may read or write the file.
        """
        path = self.path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise PrivetError(
                "this secret does not exist",
                field=str(path),
                hint="is this the folder that the client was made in?",
            ) from None
        except OSError as error:
            raise PrivetError(
                "this secret cannot be opened", field=str(path), given=error.strerror, allowed="a plain file"
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            # asked of the open file, so nobody can swap it between the check and the reading
            _require_private(path, os.fstat(file.fileno()), "0600", "chmod 600")
            return file.read()

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Stores a secret; when this returns it has reached the disk, whole or not at all.

        Args:
            name: Name of the secret.
            data: Its bytes.
            replace: Whether an existing secret is replaced.

        Returns:
            Whether the secret was written: false only if it existed and ``replace`` is false.
        """
        path = self.path(name)
        temporary, descriptor = self._temporary(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if replace:
                    os.replace(temporary, path)
                else:
                    try:
                        os.link(temporary, path)
                    except FileExistsError:
                        return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self._directory)
        return True

    def _temporary(self, name: str) -> tuple[Path, int]:
        """A new file, locked as long as it is open: who opens the folder meanwhile sees that its writer lives."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            temporary = self._directory / f".{name}.{secrets.token_hex(8)}"
            descriptor = os.open(temporary, flags, 0o600)
            with contextlib.suppress(OSError):  # where nothing can be locked, nothing is removed
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return temporary, descriptor
            os.close(descriptor)  # it was taken for a leftover before it was locked

    def _tidy(self) -> None:
        """Remove temporary files whose writers are gone: each writer holds a lock on its own until it is renamed."""
        for path in self._directory.iterdir():
            if not _LEFT.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(descriptor)

    def read_or_create(self, name: str, length: int = KEY_BYTES) -> bytes:
        """The secret ``name``; random bytes of the operating system if it is new (two creators get the
        same)."""
        if name not in self:
            self.write(name, os.urandom(length), replace=False)
        return self.read(name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_private(path: Path, status: os.stat_result, allowed: str, command: str) -> None:
    if status.st_uid != os.geteuid():
        raise PrivetError(
            "secrets must belong to the user who runs this",
            field=str(path),
            given=f"owner uid {status.st_uid}",
            allowed=f"owner uid {os.geteuid()}",
            hint=f"chown {os.geteuid()} {path}",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        raise PrivetError(
            "others than the owner can get at these secrets",
            field=str(path),
            given=f"mode {mode:04o}",
            allowed=f"mode {allowed}",
            hint=f"{command} {path}",
        )


class ClientKeys(_Unpicklable):
    """Every key that one client draws randomness from.

    Made by `open` for real runs and by `from_insecure_test_seed` for tests of bit-identity.
    """

    def __init__(self, root: bytes, store: SecretStore | None, party: int | None) -> None:
        self._root, self._store, self._party = root, store, party

    @classmethod
    def open(cls, store: SecretStore) -> ClientKeys:
        """The keys of the client whose secrets lie in ``store``; a new root key if it has none."""
        return cls(store.read_or_create("root.key"), store, None)

    @classmethod
    def from_insecure_test_seed(cls, seed: int, party: int) -> ClientKeys:
        """Keys that anybody who knows ``seed`` can compute, so a run with them has no finite ε.

        A redraw after a crash or another attempt gives the same key again, which makes whole runs repeatable.
        """
        return cls(derive(b"privet insecure test seed", seed), None, party)

    @property
    def insecure(self) -> bool:
        """Whether the keys come from a test seed; ε is then ``none``."""
        return self._store is None

    def draw(self, purpose: str, round_id: RoundId) -> bytes:
        """A key for exactly one draw, e.g. of a noise share: no call ever returns a key that another call
        returned.

        It depends on the root key, the purpose, the round, the attempt, a counter and fresh bytes of the
        operating system. The counter is on the disk before the key exists, so a crash at any point cannot
        bring a key back; the fresh bytes keep keys apart when a backup of the folder is restored or two
        processes share it; the root key and the counter keep them apart when the machine's random generator
        starts in a cloned state.

        Under a test seed the key depends on seed, party, purpose and the round's number only.
        """
        if self._store is None:
            return derive(self._root, "draw", self._party or 0, purpose, round_id.number)
        count = self._next_count(self._store)
        fresh = os.urandom(KEY_BYTES)
        return derive(self._root, "draw", purpose, round_id.number, round_id.attempt, count, fresh)

    def unit_keys(self, purpose: str, round_id: RoundId, unit_ids: Sequence[str]) -> list[bytes]:
        """One key for each privacy unit, the same at every call; for randomness that protects nobody, as
        rounding.

        Under a test seed it depends on seed, purpose, unit and the round's number only, not on the party:
        however the records are split over silos, each record meets the same randomness.
        """
        attempt = 0 if self.insecure else round_id.attempt
        key = derive(self._root, "units", purpose, round_id.number, attempt)
        # the whole message is one identifier, so HMAC needs no framing
        return [hmac.digest(key, unit.encode(), "sha256") for unit in unit_ids]

    def _next_count(self, store: SecretStore) -> int:
        name = "draws.count"
        count = int(store.read(name)) + 1 if name in store else 0
        store.write(name, str(count).encode())
        return count
