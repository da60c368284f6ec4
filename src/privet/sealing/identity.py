"""A site's identity: an Ed25519 key that never leaves the site, and signatures bound to one purpose.

Every signature of the sealing protocol is made over a context (what it is for), the hash of the roster, and
the deterministic wire bytes of a body, so a signature for one run, round or roster is worth nothing in
another.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from privet.errors import PrivetError
from privet.keys import derive
from privet.wire import Body, encode

IDENTITY_FILE = "identity.pem"
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
_LARGEST_KEY_FILE = 4096


class Identity:
    """The private key of one site; shows only its public half.

    Make one with `generate`, `from_root` (test seeds) or `load`.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return f"Identity(public_key={self.public_key.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an identity is never pickled")

    @classmethod
    def generate(cls) -> Identity:
        """A fresh random identity in memory."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_root(cls, root: bytes) -> Identity:
        """The identity that belongs to a 32-byte root, the same every time."""
        return cls(Ed25519PrivateKey.from_private_bytes(derive(root, "identity")))

    @classmethod
    def create(cls, directory: Path) -> Identity:
        """Make a fresh identity and keep it in ``directory`` (0700) as ``identity.pem`` (0600).

        Raises:
            PrivetError: if there already is one: it is never replaced.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / IDENTITY_FILE
        identity = cls.generate()
        pem = identity._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise PrivetError(
                "this folder already holds an identity",
                field=str(path),
                hint="use it, or name another folder; members know this site by that key",
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        return identity

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Read the identity that `create` made.

        Raises:
            PrivetError: if it is missing, damaged, or readable by anybody but its owner.
        """
        path = directory / IDENTITY_FILE
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                pem = file.read(_LARGEST_KEY_FILE)
        except OSError:
            raise PrivetError(
                "no identity to read", field=str(path), hint=f"make one with: privet keys init {directory}"
            ) from None
        check_mode(path, mode, otherwise="make a new key and a new roster")
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise PrivetError(
                "this file holds no Ed25519 private key",
                field=str(path),
                allowed="the file as 'privet keys init' wrote it",
                hint="restore it from your backup, or make a new key and a new roster",
            )
        return cls(key)

    def sign(self, context: str, roster_hash: bytes, body: Body) -> bytes:
        """Sign a body for one purpose under one roster: 64 bytes, deterministic (RFC 8032)."""
        return self._key.sign(_signed_bytes(context, roster_hash, body))


def check_mode(path: Path, mode: int, *, otherwise: str) -> None:
    """Refuse a private key that others on this machine can read.

    Args:
        path: Its file.
        mode: The file's mode bits.
        otherwise: What to do if others did have access.

    Raises:
        PrivetError: if the mode lets group or others in.
    """
    if mode & 0o077:
        raise PrivetError(
            "others could read this private key",
            field=str(path),
            given=f"mode {mode:04o}",
            allowed="mode 0600",
            hint=f"chmod 600 {path}; if others did have access, {otherwise}",
        )


def verify(public_key: bytes, signature: bytes, context: str, roster_hash: bytes, body: Body) -> bool:
    """Whether ``signature`` is that of ``public_key`` for this purpose, roster and body."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, _signed_bytes(context, roster_hash, body))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """The whole public key in groups of four hex digits, for two people to compare aloud."""
    digits = public_key.hex()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def _signed_bytes(context: str, roster_hash: bytes, body: Body) -> bytes:
    return encode({"context": f"privet/{context}/1", "roster": roster_hash, "body": encode(body)})
