"""CKKS, for comparison: what it sums, what it refuses, where its key is, and how large it is."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pyarrow
import pytest
import tenseal

from privet.sealing.additive import CiphertextRefused, SumRefused, refused_sum
from privet.sealing.agreement import seal_blob
from privet.sealing.base import SealingRefused
from privet.sealing.ckks import SLOTS, CkksHolder, CkksScheme, new_context
from privet.sealing.run_key import RunKey
from privet.sealing.zstd_frame import unpacked_bytes
from privet.store import MemoryStore

KEY = RunKey(bytes(range(32)))


def make(parties: int = 3) -> tuple[CkksScheme, CkksHolder, MemoryStore]:
    scheme, store = CkksScheme(parties), MemoryStore()
    courier = scheme.attachment(store)
    courier.accept(KEY, courier.make(KEY))
    return scheme, scheme.holder(KEY, store), store


@pytest.mark.parametrize("count", [1, 4095, 4096, 9000])
def test_rounded_sums_are_the_integer_sums(count: int) -> None:
    scheme, holder, _ = make()
    half = 1 << 20
    values = [np.random.default_rng(p).integers(-half, half, count) for p in range(3)]
    values[0][0], values[1][0] = -half, half - 1
    uploads = [list(holder.seal(v)) for v in values]
    sums = [scheme.save(scheme.add(column)) for column in zip(*uploads, strict=True)]
    np.testing.assert_array_equal(holder.open(sums, count), np.sum(values, axis=0))


def test_decryptions_carry_an_error_that_rounding_removes() -> None:
    # the error that Li and Micciancio's attack lives on: present in what TenSEAL returns, absent in what `open` does
    scheme, holder, _ = make()
    values = np.random.default_rng(0).integers(-(1 << 20), 1 << 20, SLOTS)
    (data,) = holder.seal(values)
    raw = np.array(tenseal.ckks_vector_from(holder._context, data).decrypt())
    assert 0 < np.abs(raw - values).max() < 1e-3
    np.testing.assert_array_equal(holder.open([data], SLOTS), values)
    assert scheme.load(data, fresh=True).size() == SLOTS


def test_upload_is_twenty_times_float32() -> None:
    _, holder, _ = make()
    (data,) = holder.seal(np.arange(SLOTS))
    assert len(data) / (4 * SLOTS) == pytest.approx(20.2, abs=0.3)


def test_the_public_half_holds_no_key() -> None:
    scheme, _, _ = make()
    assert not scheme.context.has_secret_key()
    assert not scheme.context.has_public_key()


def test_the_context_travels_and_rests_sealed() -> None:
    scheme, holder, store = make()
    sealed = scheme.attachment(store).make(KEY)
    assert sealed == store.get("ckks.context")
    secret = holder._context.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    assert secret[1000:1064] not in sealed
    for stranger in (RunKey(bytes(32)), None):
        with pytest.raises(SealingRefused, match="bad-context"):
            scheme.attachment(MemoryStore()).accept(stranger or KEY, sealed if stranger else sealed[:-1])
    with pytest.raises(SealingRefused, match="no-run-key"):
        scheme.holder(KEY, MemoryStore())
    other = RunKey(bytes(32))
    assert scheme.attachment(store).make(other) != sealed


@pytest.mark.parametrize("wrong", ["primes", "scale", "public key"])
def test_a_context_under_which_honest_uploads_would_be_refused_is_not_kept(wrong: str) -> None:
    """Its maker sent it: else every other client would be named for it at each attempt."""
    context = new_context()
    if wrong == "primes":
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 30, 30, 60], n_threads=1
        )
    context.global_scale = 2.0 ** (30 if wrong == "scale" else 40)
    secret = context.serialize(save_public_key=wrong != "public key", save_secret_key=True)
    store = MemoryStore()
    with pytest.raises(SealingRefused, match="bad-context"):
        CkksScheme(3).attachment(store).accept(KEY, seal_blob(KEY.derive("ckks.context"), secret, b"ckks"))
    assert store.get("ckks.context") is None


def test_a_ciphertext_out_of_its_form_is_blamed_on_its_sender_alone() -> None:
    scheme, holder, _ = make(3)
    honest = [next(iter(holder.seal(np.arange(10)))) for _ in range(2)]
    changed = out_of_form(honest[0])
    with pytest.raises(CiphertextRefused) as caught:
        scheme.add([*honest, changed])
    assert not isinstance(caught.value, SumRefused)
    with pytest.raises(CiphertextRefused):
        scheme.load(changed, fresh=True)
    assert not isinstance(
        refused_sum(RuntimeError("encrypted1 and encrypted2 NTT form mismatch"), 3), SumRefused
    )
    assert isinstance(refused_sum(RuntimeError("result ciphertext is transparent"), 3), SumRefused)


def out_of_form(vector: bytes) -> bytes:
    """A vector whose ciphertext says that it holds coefficients, not their transform."""
    start = vector.index(b"\x5e\xa1\x10")  # SEAL's magic
    end = start + int.from_bytes(vector[start + 8 : start + 16], "little")
    header, frame = vector[start : start + 16], vector[start + 16 : end]
    plain = bytearray(
        pyarrow.Codec("zstd").decompress(frame, decompressed_size=unpacked_bytes(frame), asbytes=True)
    )
    assert plain[32] == 1, "the byte that says so"
    plain[32] = 0
    pieces = [bytes(plain[at : at + (1 << 17)]) for at in range(0, len(plain), 1 << 17)]
    packed = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(plain))
    for place, piece in enumerate(pieces, start=1):
        packed += struct.pack("<I", len(piece) << 3 | (place == len(pieces)))[:3] + piece
    whole = header[:8] + struct.pack("<Q", 16 + len(packed)) + packed
    before = vector[:start].removesuffix(varint(end - start))
    return before + varint(len(whole)) + whole + vector[end:]


def varint(number: int) -> bytes:
    """A length as protocol buffers write it."""
    written = b""
    while number > 127:
        written += bytes([number & 127 | 128])
        number >>= 7
    return written + bytes([number])


def test_another_key_opens_nothing() -> None:
    _, holder, _ = make()
    _, other, _ = make()
    (data,) = holder.seal(np.arange(10))
    with pytest.raises(CiphertextRefused, match="another key"):
        other.open([data], 10)


def test_malformed_ciphertexts_are_refused() -> None:
    scheme, holder, _ = make()
    (data,) = holder.seal(np.arange(10))
    smaller = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[40, 20, 40], n_threads=1)
    smaller.global_scale = 2**20
    other_scale = holder._context.copy()
    other_scale.global_scale = 2**30
    switched = tenseal.ckks_vector(holder._context, [1.0] * SLOTS) * 1.0
    short = tenseal.ckks_vector(holder._context, [1.0, 2.0]).serialize()
    cases = [
        b"",
        b"rubbish",
        data[:-1],
        data[: len(data) // 2],
        data * 2,
        tenseal.ckks_vector(smaller, [1.0]).serialize(),
        tenseal.ckks_vector(other_scale, [1.0] * SLOTS).serialize(),
        short,
        switched.serialize(),
    ]
    for bad in cases:
        with pytest.raises(CiphertextRefused):
            scheme.load(bad, fresh=True)


def test_ciphertexts_of_whose_sum_nothing_is_left_are_refused_together() -> None:
    scheme, holder, _ = make(3)
    (data,) = holder.seal(np.arange(10))
    vector = scheme.load(data, fresh=True)
    opposite = vector.neg().serialize()
    with pytest.raises(SumRefused) as caught:
        scheme.add([data, opposite, data])
    assert caught.value.terms == 2


def test_more_ciphertexts_than_parties_are_refused() -> None:
    scheme, holder, _ = make(3)
    (data,) = holder.seal(np.arange(10))
    with pytest.raises(CiphertextRefused, match="more"):
        scheme.add([data] * 4)


def test_nothing_secret_or_process_bound_can_be_pickled_or_printed() -> None:
    scheme, holder, _ = make()
    for thing in (scheme, holder):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    assert "hidden" in repr(holder)
