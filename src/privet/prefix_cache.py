"""Hidden states of records at the first adapted layer, kept in memory and, if a folder is given, in files.

What the frozen layers compute for a record never changes, so it is computed once. An entry's key is a digest
of all that its bits depend on: model, tokenizer, token ids, layer, dtype and how it was computed. Entries
have their real length, without padding: SmolLM2 in bfloat16 takes 1,152 bytes a token.

Files are optional. A folder given, entries are also written to it as they come; those past the memory limit
are read from there, memory-mapped, and a later process finds all of them. Each process appends to a segment of
its own (``*.data`` and an index of fixed-size rows), so several may share the folder without locks, and a row
that a crash tore fails its checksum and counts as missing. The states are derived from private text and can be
turned back into it: the folder belongs with the records, at the site, and is made readable by its owner only.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError

Bytes = NDArray[np.uint8]
_ROW = struct.Struct("<32sQQII")  # key, offset, length, CRC-32 of the data, CRC-32 of this row before it


class PrefixCache:
    """A bounded store of byte arrays by 32-byte keys. What doesn't fit is not kept.

    Args:
        memory_bytes: Limit of what is held in memory.
        directory: Folder that holds the entries beyond the process; ``None`` keeps nothing on disk.
        disk_bytes: Limit of the folder's data files.

    Raises:
        PrivetError: if the folder can't be written.
    """

    def __init__(
        self, memory_bytes: int = 1 << 30, directory: Path | None = None, disk_bytes: int = 8 << 30
    ) -> None:
        self.memory_bytes, self.disk_bytes = memory_bytes, disk_bytes
        self._memory: dict[bytes, Bytes] = {}
        self._in_memory = 0
        self._directory = directory
        self._segments: list[_Segment] = []
        self._where: dict[bytes, tuple[_Segment, int, int, int]] = {}
        self._own: _Segment | None = None
        if directory is not None:
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise PrivetError(
                    "cannot make the folder for cached hidden states",
                    field="engine.cache_folder",
                    given=directory,
                    hint=error.strerror,
                ) from error
            for path in sorted(directory.glob("*.index")):
                self._adopt(_Segment(path))

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the entries in memory."""
        return self._in_memory

    @property
    def is_full(self) -> bool:
        """Whether neither memory nor folder has room for another entry of 1 MiB."""
        more = 1 << 20
        on_disk = self._directory is not None and self.bytes_on_disk + more <= self.disk_bytes
        return not on_disk and self._in_memory + more > self.memory_bytes

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the segments' data."""
        return sum(segment.size for segment in self._segments)

    def __contains__(self, key: bytes) -> bool:
        return key in self._memory or key in self._where

    def get(self, key: bytes) -> Bytes | None:
        """The entry as read-only uint8 [length], or ``None``. Those in files are memory-mapped."""
        if (found := self._memory.get(key)) is not None:
            return found
        if (place := self._where.get(key)) is None:
            return None
        segment, offset, length, checksum = place
        data = segment.read(offset, length)
        if data is None or zlib.crc32(data.data) != checksum:
            del self._where[key]
            return None
        return data

    def put(self, key: bytes, data: Bytes) -> None:
        """Keeps ``data`` (uint8 [length]) where there is room; an entry that is there already stays as it is."""
        if key in self:
            return
        if self._in_memory + data.nbytes <= self.memory_bytes:
            kept = data.copy()
            kept.flags.writeable = False
            self._memory[key] = kept
            self._in_memory += data.nbytes
        if self._directory is not None and self.bytes_on_disk + data.nbytes <= self.disk_bytes:
            self._write(key, data)

    def _write(self, key: bytes, data: Bytes) -> None:
        if self._own is None:
            assert self._directory is not None
            self._own = _Segment(self._directory / f"{os.getpid()}-{secrets.token_hex(8)}.index", fresh=True)
            self._segments.append(self._own)
        try:
            offset, checksum = self._own.append(key, data)
        except OSError:
            # A full disk costs speed, not the run: nothing more is written, what is there stays.
            self.disk_bytes = 0
            return
        self._where[key] = (self._own, offset, data.nbytes, checksum)

    def _adopt(self, segment: _Segment) -> None:
        self._segments.append(segment)
        for key, offset, length, checksum in segment.rows():
            self._where[key] = (segment, offset, length, checksum)


class _Segment:
    def __init__(self, index_path: Path, *, fresh: bool = False) -> None:
        self._index_path, self._data_path = index_path, index_path.with_suffix(".data")
        if fresh:
            for path in (self._data_path, self._index_path):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._map: mmap.mmap | None = None
        self.size = self._data_path.stat().st_size if self._data_path.exists() else 0

    def rows(self) -> list[tuple[bytes, int, int, int]]:
        raw = self._index_path.read_bytes()
        usable = len(raw) - len(raw) % _ROW.size
        found = []
        for start in range(0, usable, _ROW.size):
            key, offset, length, checksum, own = _ROW.unpack_from(raw, start)
            if zlib.crc32(raw[start : start + _ROW.size - 4]) == own and offset + length <= self.size:
                found.append((key, offset, length, checksum))
        return found

    def append(self, key: bytes, data: Bytes) -> tuple[int, int]:
        # Opened for every entry: that is little beside computing one, and no handle is left behind.
        with self._data_path.open("r+b") as file:
            file.seek(self.size)
            file.write(data.data)
        offset, checksum = self.size, zlib.crc32(data.data)
        row = _ROW.pack(key, offset, data.nbytes, checksum, 0)[:-4]
        with self._index_path.open("ab") as file:
            file.write(row + struct.pack("<I", zlib.crc32(row)))
        self.size = offset + data.nbytes
        return offset, checksum

    def read(self, offset: int, length: int) -> Bytes | None:
        if self._map is None or len(self._map) < offset + length:
            try:
                with self._data_path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):
                return None
            if len(self._map) < offset + length:
                return None
        return np.frombuffer(self._map, np.uint8, length, offset)
