"""How many bytes a Zstandard frame unpacks to, read off its header (RFC 8878) before anything is unpacked.

SEAL unpacks whatever comes before it looks at it. A few kilobytes can stand for hundreds of megabytes or, where half of
what is packed is one byte over and over, for a ciphertext that is twice as large as it may be. A decoder refuses a
frame that does not unpack to what its header says, so the header can be believed once there is only one frame. An
array inside that is packed once more is not seen here; SEAL unpacks it no further than what it stands for is long.
"""

from __future__ import annotations

MOST_BLOCKS = 64
"""An encoder makes a few at most; a decoder compares the size that the header says only at the end of the last."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_SIZE_BYTES = {0x20: 1, 0x60: 2, 0xA0: 4, 0xE0: 8}
"""Bytes of the content's size by descriptor: in one segment, without checksum and dictionary, as SEAL packs."""
_REPEATED = 1


def unpacked_bytes(data: bytes | memoryview) -> int:
    """Bytes that one whole frame unpacks to.

    Args:
        data: The frame and nothing else.

    Raises:
        ValueError: if it is no such frame as SEAL makes, or something follows it.
    """
    width = _SIZE_BYTES.get(data[4], 0) if bytes(data[:4]) == _MAGIC and len(data) > 4 else 0
    if not width:
        raise ValueError("not packed as SEAL packs")
    end = 5 + width
    size = int.from_bytes(data[5:end], "little") + (256 if width == 2 else 0)
    for _ in range(MOST_BLOCKS):
        header = int.from_bytes(data[end : end + 3], "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        end += 3 + (1 if kind == _REPEATED else length)
        if last or end >= len(data):
            break
    if not last or end != len(data):
        raise ValueError("not one whole frame as SEAL packs it")
    return size
