from __future__ import annotations

import numpy as np
import pytest

from privet.packing import pack, packed_size, unpack


@pytest.mark.parametrize("bits", [1, 7, 8, 13, 19, 20, 32, 33, 42, 62, 63, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 40_003])
def test_layout_is_the_plain_little_endian_one(bits: int, count: int) -> None:
    """Against one Python integer that holds all values, value i shifted by i * bits."""
    rng = np.random.Generator(np.random.PCG64(bits * 100_000 + count))
    values = rng.integers(0, 2**bits - 1, count, dtype=np.uint64, endpoint=True)
    data = pack(values, bits)
    assert len(data) == packed_size(count, bits) == (count * bits + 7) // 8
    if count < 100:
        whole = sum(int(v) << (i * bits) for i, v in enumerate(values))
        assert data == whole.to_bytes(len(data), "little")
    assert (unpack(data, bits, count) == values).all()


def test_a_value_that_does_not_fit_is_refused_and_never_cut() -> None:
    with pytest.raises(ValueError, match="does not fit 5 bits"):
        pack(np.array([31, 32], dtype=np.uint64), 5)


@pytest.mark.parametrize("length", [0, 4, 6, 1000])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="take 5 bytes"):
        unpack(bytes(length), 13, 3)


def test_bits_after_the_last_value_must_be_zero() -> None:
    data = bytearray(pack(np.array([1, 2, 3], dtype=np.uint64), 13))
    data[-1] |= 0x80
    with pytest.raises(ValueError, match="bits after the last"):
        unpack(bytes(data), 13, 3)


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_widths_that_no_word_has_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 bits"):
        pack(np.zeros(1, dtype=np.uint64), bits)
    with pytest.raises(ValueError, match="1 to 64 bits"):
        unpack(b"", bits, 0)
    with pytest.raises(ValueError, match="bytes"):
        unpack(b"", 8, -1)
