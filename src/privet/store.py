"""Where a party keeps what it must not lose: bytes by name, in files that only their owner can read."""

from __future__ import annotations

from privet.keys import SecretStore


class FolderStore:
    """Entries as files of a `SecretStore`: mode 0600, replaced atomically, on the disk before ``put`` returns."""

    def __init__(self, secrets: SecretStore) -> None:
        self._secrets = secrets

    def put(self, name: str, data: bytes) -> None:
        """Replace the entry ``name``."""
        self._secrets.write(name, data)

    def get(self, name: str) -> bytes | None:
        """The entry ``name``, or ``None``."""
        return self._secrets.read(name) if name in self._secrets else None


class MemoryStore:
    """Entries of a party that lives as long as its process: for what can be made anew, and for tests."""

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        """Replace the entry ``name``."""
        self._entries[name] = data

    def get(self, name: str) -> bytes | None:
        """The entry ``name``, or ``None``."""
        return self._entries.get(name)
