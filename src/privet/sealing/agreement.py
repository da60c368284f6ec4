"""Ephemeral key agreement: X25519 keys out of short seeds, keys for one purpose, sealed blobs."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privet.keys import derive

SEED_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12
BLOB_OVERHEAD = NONCE_BYTES + 16


class AgreementError(ValueError):
    """A peer's public key is unusable, or a blob was not made for this key and purpose."""


class EphemeralKey:
    """An X25519 key that a seed of 16 bytes or more determines.

    Args:
        seed: Uniform bytes; they serve no other purpose.
    """

    def __init__(self, seed: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(derive(seed, "x25519"))
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"EphemeralKey(public={self.public.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is never pickled")

    def agree(self, peer: bytes, *purpose: str | int | bytes) -> bytes:
        """A 32-byte key that only the owners of the two keys can compute, bound to both and to a purpose.

        Raises:
            AgreementError: if the peer's key is no point of large order (RFC 7748, section 6.1).
        """
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise AgreementError("unusable public key") from None
        return derive(shared, *sorted((self.public, peer)), *purpose)


def usable(public: bytes) -> bool:
    """Whether a key can be agreed with the owner of this X25519 key.

    A point of low order gives zero with every private key, so one try with any key tells.
    """
    try:
        EphemeralKey(os.urandom(SEED_BYTES)).agree(public)
    except AgreementError:
        return False
    return True


def seal_blob(key: bytes, plaintext: bytes, associated: bytes = b"") -> bytes:
    """AES-256-GCM under a random nonce: nonce, ciphertext and tag."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def open_blob(key: bytes, blob: bytes, associated: bytes = b"") -> bytes:
    """The plaintext of a blob.

    Raises:
        AgreementError: if the blob is damaged or was made for another key or purpose.
    """
    try:
        return AESGCM(key).decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        raise AgreementError("blob does not open") from None
