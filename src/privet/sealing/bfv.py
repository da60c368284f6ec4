"""Exact sums of integers under encryption: SEAL's BFV, packed for addition and for nothing else.

- Parameters (`BfvParameters`) follow from two public numbers: how many values a sum may take, and how many
  parties are added.
- Packing is linear: ``x_0 + R x_1 + R^2 x_2 (mod t)``, R the number of values that a sum may take, t a prime.
  So two, three or more values share one plaintext slot, and adding words adds each of them.
- Uploads are symmetric ciphertexts whose uniform half is a 64-byte seed: half the size of full ciphertexts. Full
  ones are refused by their size: of two halves that were chosen to cancel, nothing encrypted would be left. One that is
  packed twice over still passes; then SEAL does not add it up, and its senders are left out.
- `Bfv` holds public things only and is all that a server has; `BfvKey` adds the secret, at the clients.

Fan and Vercauteren, IACR ePrint 2012/144 (the scheme); Bajard et al., ePrint 2016/510 (its RNS form, SEAL's).
BFV decryption is exact, so an opened sum carries no decryption error (Li and Micciancio, ePrint 2020/1533,
attack the error of approximate schemes). BFV is not circuit-private: to a holder of the key, the noise of a
sum shows the sum of the ciphertexts' rounding errors (each at most 1/2, a function of the plaintext) under
that of their errors (standard deviation 3.2 each). `encrypted+masked` makes the rounded words uniform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from privet.errors import PrivetError
from privet.sealing.additive import CiphertextRefused, refused_sum
from privet.sealing.bfv_parameters import BfvParameters
from privet.sealing.seal_memory import HEADER_BYTES, MemoryFile

SEED_BYTES = 64

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


class Bfv:
    """The public side: packing, adding, checking. It cannot encrypt symmetrically and cannot decrypt.

    Args:
        parameters: Public parameters.

    Raises:
        PrivetError: if SEAL does not find 128-bit security in them.
    """

    def __init__(self, parameters: BfvParameters) -> None:
        import tenseal.sealapi as seal

        self.parameters = parameters
        self.context = _context(parameters, None)
        self._seal: Any = seal
        self._encoder = seal.BatchEncoder(self.context)
        self._evaluator = seal.Evaluator(self.context)
        self._id = self.context.first_parms_id()
        self._memory = MemoryFile()

    def pack(self, values: Integers) -> Iterator[Words]:
        """Packed words of ``values``, int64 ``[k]``, one row of N words in ``[0, t)`` for each ciphertext.

        The tail is filled with zeros. A value outside the range of a sum is taken modulo the radix: it would
        wrap in the sum as well, and must not spill into the slot's other values.
        """
        p = self.parameters
        values = np.ascontiguousarray(values, dtype=np.int64)
        if len(values) and (values.min() < p.lowest or values.max() >= p.lowest + p.radix):
            values = (values % p.radix - p.lowest) % p.radix + p.lowest
        for start in range(0, len(values), p.values_per_ciphertext):
            piece = values[start : start + p.values_per_ciphertext]
            if len(piece) < p.values_per_ciphertext:
                piece = np.concatenate([piece, np.zeros(p.values_per_ciphertext - len(piece), np.int64)])
            planes = piece.reshape(p.per_slot, p.degree)
            word = planes[-1].copy()
            for plane in planes[-2::-1]:
                word *= p.radix
                word += plane
            word += (word >> 63) & p.plain_modulus
            yield word.view(np.uint64)

    def unpack(self, rows: Iterable[Words], count: int) -> Integers:
        """The sums, int64 ``[count]``, of summed words, the inverse of `pack` for sums in range.

        Raises:
            CiphertextRefused: if there are not as many rows as ``count`` values take.
        """
        p = self.parameters
        offset = -p.lowest * ((p.radix**p.per_slot - 1) // (p.radix - 1)) % p.plain_modulus
        values = np.empty(p.ciphertexts(count) * p.values_per_ciphertext, dtype=np.int64)
        planes = values.reshape(-1, p.per_slot, p.degree)
        filled = 0
        for row in rows:
            if filled == len(planes):
                raise CiphertextRefused("more ciphertexts than the values take")
            word = row.astype(np.int64)
            word += offset
            word -= (word >= p.plain_modulus) * np.int64(p.plain_modulus)
            for plane in planes[filled][:-1]:
                higher = word // p.radix
                np.subtract(word, higher * p.radix, out=plane)
                word = higher
            planes[filled][-1] = word
            filled += 1
        if filled != len(planes):
            raise CiphertextRefused("fewer ciphertexts than the values take")
        values += p.lowest
        return values[:count]

    def encode(self, words: Words) -> Any:
        """A plaintext with one word a slot."""
        plain = self._seal.Plaintext()
        # a list of int is the quickest way over the boundary: 0.11 ms for 4,096 words, as an array 0.21 ms
        self._encoder.encode(words.tolist(), plain)
        return plain

    def decode(self, plain: Any) -> Words:
        """The words of a plaintext, uint64 ``[N]``."""
        return np.array(self._encoder.decode_uint64(plain), dtype=np.uint64)

    def load(self, data: bytes | memoryview, *, fresh: bool) -> Any:
        """One ciphertext out of bytes, if it belongs to these parameters.

        Args:
            data: What `BfvKey.encrypt` or `save` gave.
            fresh: Whether it must be a seed-compressed upload; a full one is too long once it is unpacked.

        Raises:
            CiphertextRefused: with the reason. Nothing here tells a flipped bit from a ciphertext: the bytes
                must come out of a signed message.
        """
        p = self.parameters
        most = p.most_fresh_bytes if fresh else p.most_sum_bytes
        if not HEADER_BYTES < len(data) <= most:
            raise CiphertextRefused("not the size of a seed-compressed ciphertext" if fresh else "wrong size")
        ciphertext = self._seal.Ciphertext()
        try:
            self._memory.load(ciphertext, self.context, data, most)
        except ValueError as error:
            raise CiphertextRefused(str(error)) from None
        if ciphertext.parms_id() != self._id or ciphertext.poly_modulus_degree() != p.degree:
            raise CiphertextRefused("encrypted under other parameters")
        if ciphertext.size() != 2 or ciphertext.is_ntt_form():
            raise CiphertextRefused("not two polynomials in coefficient form")
        if ciphertext.is_transparent():
            raise CiphertextRefused("a plaintext in a ciphertext's clothes")
        return ciphertext

    def save(self, ciphertext: Any) -> bytes:
        """The bytes of a ciphertext."""
        return self._memory.save(ciphertext)

    def add(self, column: Sequence[bytes | memoryview]) -> Any:
        """The sum of one fresh ciphertext of each party.

        Raises:
            CiphertextRefused: if one is refused, or there are more than the parameters were made for.
            SumRefused: if SEAL does not add them up.
        """
        if not 1 <= len(column) <= self.parameters.parties:
            raise CiphertextRefused("more ciphertexts than the parameters were made for")
        total = self.load(column[0], fresh=True)
        for terms, data in enumerate(column[1:], start=2):
            term = self.load(data, fresh=True)
            try:
                self._evaluator.add_inplace(total, term)
            except (RuntimeError, ValueError) as error:
                raise refused_sum(error, terms) from None
        return total

    def subtract_words(self, ciphertext: Any, words: Words) -> None:
        """Take words, uint64 ``[N]`` in ``[0, t)``, off what a ciphertext hides: no key is needed."""
        self._evaluator.sub_plain_inplace(ciphertext, self.encode(words))

    def __reduce__(self) -> NoReturn:
        raise TypeError("SEAL's objects belong to one process; keep the parameters")


class BfvKey:
    """The secret side, at the clients only: the key is computed from a seed and never leaves SEAL's memory.

    Args:
        bfv: The public side.
        seed: 64 secret bytes; the same seed gives the same key at every holder.
    """

    def __init__(self, bfv: Bfv, seed: bytes) -> None:
        import tenseal.sealapi as seal

        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key's seed has {SEED_BYTES} bytes")
        self._bfv = bfv
        self._seal: Any = seal
        # a context whose randomness is the seed serves this one line: encryption must draw fresh randomness
        secret = seal.KeyGenerator(_context(bfv.parameters, seed)).secret_key()
        self._encryptor = seal.Encryptor(bfv.context, secret)
        self._decryptor = seal.Decryptor(bfv.context, secret)
        self._evaluator = seal.Evaluator(bfv.context)

    def encrypt(self, rows: Iterable[Words]) -> Iterator[bytes]:
        """One seed-compressed ciphertext for each row of N words; each call draws fresh randomness."""
        for words in rows:
            # with a second argument sealapi encrypts into a full ciphertext, twice the size
            yield self._bfv.save(self._encryptor.encrypt_symmetric(self._bfv.encode(words)))

    def decrypt(self, ciphertexts: Iterable[bytes | memoryview], *, fresh: bool = False) -> Iterator[Words]:
        """The words, uint64 ``[N]``, of each ciphertext.

        Raises:
            CiphertextRefused: if one is refused, or has no noise budget left: more was added than declared,
                it was encrypted under another key, or it was changed.
        """
        plain = self._seal.Plaintext()
        for data in ciphertexts:
            ciphertext = self._bfv.load(data, fresh=fresh)
            self._decryptor.decrypt(ciphertext, plain)
            if self.budget(ciphertext) < 1 and not self._errors_are_small(ciphertext, plain):
                raise CiphertextRefused(
                    "no noise budget left: another key, a changed ciphertext, or too many terms"
                )
            yield self._bfv.decode(plain)

    def budget(self, ciphertext: Any) -> int:
        """SEAL's noise budget: whole bits between the largest error of all coefficients and the limit."""
        return int(self._decryptor.invariant_noise_budget(ciphertext))

    def _errors_are_small(self, ciphertext: Any, plain: Any) -> bool:
        """Whether few errors exceed half the limit, where the largest one does.

        Parameters leave no bit unused: the errors of an honest sum stay below the limit, but one in thousands may
        come so near that no whole bit is left. Under another key they are uniform, and half of them do. Taking the
        plaintext off and doubling leaves twice the errors, which decrypt to zero exactly where they are small.
        """
        zero, doubled, large = self._seal.Ciphertext(), self._seal.Ciphertext(), self._seal.Plaintext()
        self._evaluator.sub_plain(ciphertext, plain, zero)
        self._evaluator.add(zero, zero, doubled)
        self._decryptor.decrypt(doubled, large)
        return int(large.nonzero_coeff_count()) <= self._bfv.parameters.degree // 64

    def check_budget(self) -> int:
        """Add as many fresh ciphertexts as there are parties, and return the noise budget left, in bits.

        The bound behind the parameters is a proof about SEAL as documented; this asks the SEAL at hand.

        Raises:
            PrivetError: if the sum does not decrypt exactly, with errors that are plainly in bounds.
        """
        p = self._bfv.parameters
        words = np.full(p.degree, p.plain_modulus - 1, dtype=np.uint64)
        budget, expected = 0, (p.plain_modulus - p.parties) % p.plain_modulus
        try:
            total = self._bfv.add([next(self.encrypt([words])) for _ in range(p.parties)])
            budget = self.budget(total)
            (opened,) = self.decrypt([self._bfv.save(total)])
            exact = bool((opened == expected).all())
        except CiphertextRefused:
            exact = False
        if not exact:
            raise PrivetError(
                "the installed SEAL does not open a sum of this many ciphertexts exactly",
                field="sealing.kind",
                given=f"{p.parties} parties, noise budget {budget} bits",
                hint="install the version of tenseal that the project pins, or use kind: masked",
            )
        return budget

    def __reduce__(self) -> NoReturn:
        raise TypeError("BfvKey holds secrets and cannot be pickled")

    def __repr__(self) -> str:
        return "<BfvKey: hidden>"


def _context(p: BfvParameters, seed: bytes | None) -> Any:
    """SEAL's context, which checks 128-bit security; with a seed, its randomness repeats."""
    import tenseal.sealapi as seal

    primes = [*p.data_primes, *([p.special_prime] if p.special_prime else [])]
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(p.degree)
    parameters.set_coeff_modulus([seal.Modulus(prime) for prime in primes])
    parameters.set_plain_modulus(p.plain_modulus)
    if seed is not None:
        parameters.set_random_generator(seal.Blake2xbPRNGFactory(np.frombuffer(seed, "<u8").tolist()))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise PrivetError(
            "SEAL refuses these parameters at 128-bit security",
            field="sealing.kind",
            given=context.parameters_error_name(),
            hint="use kind: masked",
        )
    return context
