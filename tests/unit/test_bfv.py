"""Exact sums under BFV: what is packed, what is refused, how large it is and where the key is not."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.ciphertexts import REPEATED, cancelling, frame, message

from privet.errors import PrivetError
from privet.sealing.additive import CiphertextRefused, SumRefused
from privet.sealing.bfv import SEED_BYTES, Bfv, BfvKey
from privet.sealing.bfv_parameters import BfvParameters, is_prime, prime_from
from privet.sealing.seal_memory import MemoryFile
from privet.sealing.zstd_frame import MOST_BLOCKS

Integers = NDArray[np.int64]
SEED = bytes(range(SEED_BYTES))
OTHER_SEED = bytes(reversed(range(SEED_BYTES)))


def make(bits: int = 16, parties: int = 3) -> tuple[Bfv, BfvKey]:
    bfv = Bfv(BfvParameters.for_values(bits, parties))
    return bfv, BfvKey(bfv, SEED)


def sum_encrypted(bfv: Bfv, key: BfvKey, contributions: list[Integers]) -> Integers:
    uploads = [list(key.encrypt(bfv.pack(values))) for values in contributions]
    sums = [bfv.save(bfv.add(column)) for column in zip(*uploads, strict=True)]
    return bfv.unpack(key.decrypt(sums), len(contributions[0]))


def draw(bits: int, parties: int, count: int, seed: int = 0) -> list[Integers]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-(1 << bits - 1), 1 << bits - 1, count) for _ in range(parties)]


@pytest.mark.parametrize("parties", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("bits", [2, 8, 16, 21, 30])
def test_encrypted_sum_equals_the_integer_sum(bits: int, parties: int) -> None:
    bfv, key = make(bits, parties)
    contributions = draw(bits, parties, 5000, seed=bits * parties)
    np.testing.assert_array_equal(sum_encrypted(bfv, key, contributions), np.sum(contributions, axis=0))


@pytest.mark.parametrize("bits", [16, 22, 40])
@pytest.mark.parametrize("parties", [1, 3, 16])
def test_extremes_of_the_range_are_exact_in_every_place_of_a_slot(bits: int, parties: int) -> None:
    bfv, key = make(bits, parties)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    count = bfv.parameters.values_per_ciphertext
    rng = np.random.default_rng(1)
    for pattern in (np.full(count, low), np.full(count, high), rng.choice([low, high, 0, -1], count)):
        total = sum_encrypted(bfv, key, [pattern.astype(np.int64)] * parties)
        np.testing.assert_array_equal(total, parties * pattern)


@given(
    bits=st.integers(1, 50),
    parties=st.integers(1, 40),
    values=st.lists(st.integers(-(1 << 62), 1 << 62), max_size=40),
)
@settings(max_examples=60)
def test_packing_is_linear_and_wraps_like_the_field(bits: int, parties: int, values: list[int]) -> None:
    p = BfvParameters.for_values(bits, parties)
    bfv = Bfv(p)
    given_values = np.array(values, dtype=np.int64)
    rows = list(bfv.pack(given_values))
    assert all(row.max() < p.plain_modulus for row in rows)
    doubled = [(2 * row) % np.uint64(p.plain_modulus) for row in rows]
    for words, factor in ((rows, 1), (doubled, 2)):
        expected = [(factor * _residue(v, p) - p.lowest) % p.radix + p.lowest for v in values]
        in_range = all(p.lowest <= factor * _residue(v, p) < p.lowest + p.radix for v in values)
        unpacked = bfv.unpack(iter(words), len(values)).tolist()
        assert unpacked == expected or not in_range


def _residue(value: int, p: BfvParameters) -> int:
    return (value - p.lowest) % p.radix + p.lowest


def test_a_value_out_of_range_spoils_no_other_value_of_its_slot() -> None:
    bfv, key = make(16, 3)
    p = bfv.parameters
    contributions = draw(15, 3, p.values_per_ciphertext)
    contributions[0][7] = p.radix + 5
    expected = np.sum(contributions, axis=0)
    expected[7] -= p.radix
    np.testing.assert_array_equal(sum_encrypted(bfv, key, contributions), expected)


@given(bits=st.integers(1, 52), parties=st.integers(1, 500))
@settings(max_examples=200)
def test_parameters_prove_exact_decryption_and_128_bits(bits: int, parties: int) -> None:
    assume((parties << bits) < 1 << 58)
    p = BfvParameters.for_values(bits, parties)
    q = math.prod(p.data_primes)
    noise_doubled = 2 * 21 * p.parties + p.parties + 1
    assert q > p.plain_modulus * noise_doubled
    assert p.radix**p.per_slot <= p.plain_modulus < 1 << 60
    primes = [*p.data_primes, *([p.special_prime] if p.special_prime else []), p.plain_modulus]
    assert len(set(primes)) == len(primes)
    assert all(is_prime(prime) and prime % (2 * p.degree) == 1 for prime in primes)
    assert Bfv(p).context.parameters_set()


@pytest.mark.parametrize(("bits", "parties"), [(16, 1), (16, 3), (8, 3), (22, 16), (55, 3), (16, 100)])
def test_a_sum_of_all_declared_parties_opens_at_setup(bits: int, parties: int) -> None:
    for seed in range(20 if parties < 50 else 1):
        BfvKey(Bfv(BfvParameters.for_values(bits, parties)), bytes([seed]) * 64).check_budget()


@pytest.mark.parametrize("parties", [1, 2, 3, 16])
def test_sums_open_also_where_the_largest_error_leaves_no_whole_bit(
    parties: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # by chance about one sum in a few hundred shows a budget of 0 under the tightest parameters; here all do
    monkeypatch.setattr(BfvKey, "budget", lambda self, ciphertext: 0)
    bfv, key = make(16, parties)
    words = np.arange(bfv.parameters.degree, dtype=np.uint64)
    for _ in range(30):
        total = bfv.save(bfv.add([next(key.encrypt([words])) for _ in range(parties)]))
        (opened,) = key.decrypt([total])
        np.testing.assert_array_equal(opened, parties * words)
        with pytest.raises(CiphertextRefused, match="another key"):
            list(BfvKey(bfv, OTHER_SEED).decrypt([total]))


def test_errors_that_fill_the_limit_are_refused_also_with_the_right_key() -> None:
    # a hundred times as many terms as declared
    bfv, key = make(40, 1)
    (data,) = key.encrypt([np.zeros(bfv.parameters.degree, np.uint64)])
    total = bfv.load(data, fresh=True)
    for data in key.encrypt([np.zeros(bfv.parameters.degree, np.uint64)] * 99):
        bfv._evaluator.add_inplace(total, bfv.load(data, fresh=True))
    with pytest.raises(CiphertextRefused, match="noise budget"):
        list(key.decrypt([bfv.save(total)]))


def test_a_seal_that_is_noisier_than_proved_is_refused_at_setup() -> None:
    good = BfvParameters.for_values(16, 3)
    crammed = replace(good, plain_modulus=prime_from(1 << 55, 4096))
    with pytest.raises(PrivetError, match="exactly"):
        BfvKey(Bfv(crammed), SEED).check_budget()


def test_the_documented_errors_of_seal_are_at_most_21() -> None:
    bfv = Bfv(BfvParameters.for_values(16, 1))
    key = BfvKey(bfv, SEED)
    q = bfv.parameters.data_primes[0]
    least = 64
    for data in key.encrypt([np.zeros(bfv.parameters.degree, np.uint64)] * 200):
        least = min(least, key.budget(bfv.load(data, fresh=True)))
    bound = (q // (2 * bfv.parameters.plain_modulus) // 21).bit_length() - 1
    assert least >= bound


def test_parameters_that_seal_finds_insecure_are_refused() -> None:
    good = BfvParameters.for_values(55, 3)
    assert len(good.data_primes) == 2
    first = prime_from(1 << 58, 4096)
    second = prime_from(first + 1, 4096)
    special = prime_from(second + 1, 4096)
    weak = BfvParameters(4096, (first, second), special, good.plain_modulus, good.radix, 1, 3)
    with pytest.raises(PrivetError, match="128-bit"):
        Bfv(weak)


def test_sums_that_are_too_wide_are_refused_with_a_way_out() -> None:
    with pytest.raises(PrivetError, match="masked"):
        BfvParameters.for_values(60, 4)


def test_upload_of_16_bit_values_is_smaller_than_float32() -> None:
    bfv, key = make(16, 3)
    assert bfv.parameters.per_slot == 3
    (values,) = draw(16, 1, 4 * bfv.parameters.values_per_ciphertext)
    fresh = list(key.encrypt(bfv.pack(values)))
    assert sum(map(len, fresh)) <= 0.70 * 4 * len(values)
    assert max(map(len, fresh)) <= bfv.parameters.most_fresh_bytes
    assert len(bfv.save(bfv.add(fresh[:1]))) > 1.9 * len(fresh[0])


@pytest.mark.parametrize("parties", [3, 4, 10])
def test_two_or_more_16_bit_values_share_a_slot_and_cost_at_most_1_05_float32(parties: int) -> None:
    bfv, key = make(16, parties)
    assert bfv.parameters.per_slot >= 2
    (values,) = draw(16, 1, 2 * bfv.parameters.values_per_ciphertext)
    assert sum(map(len, key.encrypt(bfv.pack(values)))) <= 1.05 * 4 * len(values)


def test_the_same_words_never_give_the_same_ciphertext() -> None:
    bfv, key = make()
    words = list(bfv.pack(np.arange(10)))
    assert len({next(key.encrypt(words)) for _ in range(5)}) == 5


def test_another_key_opens_nothing() -> None:
    bfv, key = make()
    (data,) = key.encrypt(bfv.pack(np.arange(10)))
    with pytest.raises(CiphertextRefused, match="another key"):
        list(BfvKey(bfv, OTHER_SEED).decrypt([data], fresh=True))


def test_the_same_seed_gives_the_same_key_in_another_object() -> None:
    bfv, key = make()
    again = BfvKey(Bfv(bfv.parameters), SEED)
    values = np.arange(-5, 5)
    words = again.decrypt(key.encrypt(bfv.pack(values)), fresh=True)
    np.testing.assert_array_equal(bfv.unpack(words, 10), values)


def test_more_ciphertexts_than_declared_are_refused() -> None:
    bfv, key = make(16, 3)
    (data,) = key.encrypt(bfv.pack(np.arange(10)))
    with pytest.raises(CiphertextRefused, match="more ciphertexts"):
        bfv.add([data] * 4)


def test_malformed_ciphertexts_are_refused_with_the_reason() -> None:
    bfv, key = make()
    (data,) = key.encrypt(bfv.pack(np.arange(10)))
    full = bfv.save(bfv.add([data]))
    narrower = BfvParameters.for_values(12, 3)
    wider = BfvParameters(8192, (prime_from(1 << 59, 8192),), None, prime_from(1 << 20, 8192), 1 << 16, 1, 3)
    cases = {
        b"": "size",
        data[:16]: "size",
        full: "size of a seed-compressed",
        zeros_under(wider): "size",
        data[:-1]: "truncated or trailing",
        data[: len(data) // 2]: "truncated or trailing",
        data + b"\0": "truncated or trailing",
        data[:16] + bytes(len(data) - 16): "as SEAL packs",
        data[:40] + bytes(len(data) - 40): "SEAL refuses",
        zeros_under(narrower): "SEAL refuses",
    }
    for malformed, reason in cases.items():
        with pytest.raises(CiphertextRefused, match=reason):
            bfv.load(malformed, fresh=True)
    assert bfv.load(full, fresh=False).size() == 2


def test_a_full_ciphertext_is_refused_however_small_it_was_packed() -> None:
    """Half of it is one byte over and over, so it has the size of one whose uniform half is a seed."""
    bfv, _ = make()
    for data in cancelling(bfv):
        assert len(data) <= bfv.parameters.most_fresh_bytes
        with pytest.raises(CiphertextRefused, match="unpacks to more"):
            bfv.load(data, fresh=True)
        assert bfv.load(data, fresh=False).size() == 2


@pytest.mark.parametrize(
    "blocks",
    [
        [(0, b"x", 1)],
        [(REPEATED, b"\0", 1 << 17)] * 3,
        [(REPEATED, b"\0", 500)] * (MOST_BLOCKS + 1),
        [(3, b"", 0)],
    ],
    ids=["less than it says", "more than it says", "many small blocks", "a block of no kind"],
)
def test_what_unpacks_to_another_size_than_it_says_is_refused(blocks: list[tuple[int, bytes, int]]) -> None:
    bfv, _ = make()
    with pytest.raises(CiphertextRefused, match=r"SEAL refuses|not one whole frame"):
        bfv.load(message(bfv, frame(33_000, *blocks)), fresh=True)


def test_what_would_unpack_to_150_megabytes_is_refused_before() -> None:
    """SEAL would unpack it and then read no more than the ciphertext at its beginning."""
    bfv, key = make(16, 4)
    (data,) = key.encrypt(bfv.pack(np.arange(10)))
    bomb = frame(150 << 20, *[(REPEATED, b"\0", 1 << 17)] * 1200)
    for body in (bomb, data[16:] + bomb, bomb[:4] + b"\0\x88" + bomb[9:]):
        with pytest.raises(CiphertextRefused, match=r"unpacks to more|as SEAL packs"):
            bfv.load(message(bfv, body), fresh=True)


def test_ciphertexts_of_two_primes_and_a_large_degree_are_packed_in_one_frame_too() -> None:
    first = prime_from(1 << 55, 8192)
    second = prime_from(first + 1, 8192)
    special = prime_from(second + 1, 8192)
    large = BfvParameters(8192, (first, second), special, prime_from(1 << 20, 8192), 1 << 16, 1, 3)
    assert BfvKey(Bfv(large), SEED).check_budget() > 0


@pytest.mark.parametrize("senders", [2, 3])
def test_ciphertexts_of_whose_sum_nothing_is_left_are_refused_together(
    senders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were full ciphertexts taken, as under CKKS: SEAL adds none whose encryption would be gone."""
    bfv, key = make(16, 4)
    honest = next(key.encrypt(bfv.pack(np.arange(10))))
    monkeypatch.setattr(BfvParameters, "most_fresh_bytes", BfvParameters.most_sum_bytes)
    with pytest.raises(SumRefused) as caught:
        bfv.add([*cancelling(bfv, senders), honest])
    assert caught.value.terms == senders
    bfv.add([honest, *cancelling(bfv, senders)])


def zeros_under(p: BfvParameters) -> bytes:
    return next(BfvKey(Bfv(p), SEED).encrypt([np.zeros(p.degree, np.uint64)]))


def test_a_trivial_ciphertext_is_refused() -> None:
    bfv, _ = make()
    trivial = seal.Ciphertext(bfv.context)
    trivial.resize(bfv.context, 2)
    with pytest.raises(CiphertextRefused, match="clothes"):
        bfv.load(bfv.save(trivial), fresh=False)


def test_masks_come_off_a_sum_without_a_key() -> None:
    bfv, key = make(16, 3)
    p = bfv.parameters
    contributions = draw(16, 3, 5000)
    rng = np.random.default_rng(3)
    masks = rng.integers(0, p.plain_modulus, (3, p.degree)).astype(np.uint64)
    uploads = []
    for values, mask in zip(contributions, masks, strict=True):
        masked = [(row + mask) % np.uint64(p.plain_modulus) for row in bfv.pack(values)]
        uploads.append(next(key.encrypt(masked)))
    total = bfv.add(uploads)
    bfv.subtract_words(total, masks.sum(axis=0) % np.uint64(p.plain_modulus))
    opened = bfv.unpack(key.decrypt([bfv.save(total)]), 5000)
    np.testing.assert_array_equal(opened, np.sum(contributions, axis=0))


def test_unpack_wants_exactly_the_rows_that_the_values_take() -> None:
    bfv, _ = make()
    rows = list(bfv.pack(np.arange(10)))
    with pytest.raises(CiphertextRefused, match="more"):
        bfv.unpack(rows * 2, 10)
    with pytest.raises(CiphertextRefused, match="fewer"):
        bfv.unpack([], 10)


def test_nothing_secret_or_process_bound_can_be_pickled_or_printed() -> None:
    bfv, key = make()
    for thing in (bfv, key, MemoryFile()):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    assert "hidden" in repr(key)
    assert SEED.hex() not in repr(vars(key))


def test_no_named_file_is_made_and_no_secret_is_ever_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[bytes] = []
    original = MemoryFile.save

    def record(self: MemoryFile, source: object) -> bytes:
        data = original(self, source)  # type: ignore[arg-type]  # whatever the code under test saves
        saved.append(data)
        assert not isinstance(source, seal.SecretKey)
        return data

    monkeypatch.setattr(MemoryFile, "save", record)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sum_encrypted(*make(), draw(16, 3, 100))
    assert saved
    assert list(tmp_path.iterdir()) == []


def test_memory_file_is_private_unnamed_and_not_inherited() -> None:
    memory = MemoryFile()
    descriptor = int(memory.path.rsplit("/", 1)[1])
    status = os.fstat(descriptor)
    assert status.st_mode & 0o777 == 0o600
    assert status.st_nlink == 0
    assert not os.get_inheritable(descriptor)
    memory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_forked_process_gets_a_memory_file_of_its_own() -> None:
    memory = MemoryFile()
    path = memory.path
    inode = os.fstat(int(path.rsplit("/", 1)[1])).st_ino
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of other threads; the child uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        own = os.fstat(int(memory.path.rsplit("/", 1)[1])).st_ino
        os.write(write, str(own).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 100)) != inode
    os.close(read)
    os.close(write)


def test_primality_against_a_sieve_and_known_strong_pseudoprimes() -> None:
    sieve = np.ones(3000, dtype=bool)
    sieve[:2] = False
    for i in range(2, 55):
        sieve[i * i :: i] = False
    assert [is_prime(i) for i in range(3000)] == sieve.tolist()
    for composite in (2047, 3215031751, 341550071728321, 3825123056546413051):
        assert not is_prime(composite)
    assert is_prime((1 << 61) - 1)
    found = [prime_from(1 << 40, 4096), prime_from((1 << 40) + 10**6, 4096)]
    assert all(low <= high for low, high in pairwise(found))
