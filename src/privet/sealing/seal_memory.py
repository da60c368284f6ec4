"""Carry SEAL's objects as bytes without touching a disk.

``tenseal.sealapi`` saves and loads by path only, and the files that it makes are readable by everybody (mode
0644). Here the path names an anonymous file in memory (``memfd_create(2)``): it has no name in any directory,
only this process can reach it, and it is gone when it is closed. Only public objects go through it all the
same: the secret key is computed from a seed at each holder (`privet.sealing.bfv.BfvKey`) and never saved.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, NoReturn, Protocol

from privet.errors import PrivetError
from privet.sealing.zstd_frame import unpacked_bytes

HEADER_BYTES = 16


class Saves(Protocol):
    """An object of SEAL that writes itself to a path."""

    def save(self, path: str, /) -> None:
        """Write to ``path``."""


class Loads(Protocol):
    """An object of SEAL that reads itself from a path and checks itself against a context."""

    def load(self, context: Any, path: str, /) -> None:
        """Read from ``path``."""


class MemoryFile:
    """One anonymous file in memory, used for one object at a time; one thread at a time.

    Raises:
        PrivetError: where the operating system has no ``memfd_create`` (it is Linux's).
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise PrivetError(
                "ciphertexts are carried in anonymous memory files, which this system does not have",
                field="sealing.kind",
                allowed="encrypted levels on Linux; masked or none anywhere",
                hint="run this party on Linux",
            )
        self._open()

    def _open(self) -> None:
        # close-on-exec is the default of os.memfd_create, so no child program inherits the file
        self._descriptor = os.memfd_create("privet-seal")
        os.fchmod(self._descriptor, 0o600)
        self._owner = os.getpid()
        self._close = weakref.finalize(self, os.close, self._descriptor)

    @property
    def path(self) -> str:
        """A path that names the file inside this process; a forked process gets a file of its own."""
        if self._owner != os.getpid():
            self._close()
            self._open()
        return f"/proc/self/fd/{self._descriptor}"

    def save(self, source: Saves) -> bytes:
        """The bytes of one of SEAL's objects."""
        source.save(self.path)
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def load(self, target: Loads, context: Any, data: bytes | memoryview, most: int) -> None:
        """Read ``data`` into one of SEAL's objects, which checks it against its context.

        Args:
            target: The object.
            context: SEAL's context.
            data: What `save` gave.
            most: Bytes that it may unpack to.

        Raises:
            ValueError: if the bytes are not one whole object of this context. A flipped bit of the payload
                passes: only a signature or an AEAD around the message finds it.
        """
        # SEAL reads what the header announces and ignores what follows, so a tail would go unseen
        if len(data) < HEADER_BYTES or int.from_bytes(data[8:HEADER_BYTES], "little") != len(data):
            raise ValueError("truncated or trailing bytes")
        if unpacked_bytes(data[HEADER_BYTES:]) > most:
            raise ValueError("unpacks to more than such a ciphertext has")
        path = self.path
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        try:
            target.load(context, path)
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise ValueError(f"SEAL refuses it: {str(error)[:80]}") from None

    def close(self) -> None:
        """Give the memory back."""
        self._close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an anonymous memory file belongs to one process")
