"""Public parameters of the exact sums: from the width of a sum and the number of parties to SEAL's numbers.

Nothing here needs SEAL, so a plan can be made and printed without it. The bound on the noise is a proof, not
an estimate: whatever is drawn, a sum of at most the declared number of ciphertexts decrypts exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from privet.errors import PrivetError

DEGREES = (4096, 8192)
MOST_BITS = {4096: 109, 8192: 218}
"""Bits of the whole modulus at 128-bit security (HomomorphicEncryption.org standard, 2018, table 1)."""
PRIME_BITS = 60
"""SEAL's limit for one coefficient prime and for the plaintext modulus."""
ERROR_BOUND = 21
"""Largest coefficient of a fresh error: SEAL draws it from a centred binomial law of 21 + 21 coins."""
MOST_PER_SLOT = 16


def is_prime(number: int) -> bool:
    """Miller and Rabin's test with the first 12 primes as bases, exact below 3.3e24 (Sorenson 2015)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2:
        return False
    for prime in bases:
        if number % prime == 0:
            return number == prime
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime_from(lowest: int, degree: int) -> int:
    """The smallest prime of at least ``lowest`` that is 1 modulo twice the degree, as batching needs it."""
    step = 2 * degree
    number = (max(lowest, step) - 1 + step - 1) // step * step + 1
    while not is_prime(number):
        number += step
    return number


@dataclass(frozen=True)
class BfvParameters:
    """Public parameters of one run: all parties compute the same from (radix, parties).

    Attributes:
        degree: N, coefficients of a polynomial and slots of a ciphertext.
        data_primes: Coefficient primes of a ciphertext; their product is q.
        special_prime: One further prime that SEAL demands beside two data primes; it is never used.
        plain_modulus: t, a prime that is 1 mod 2N.
        radix: R, how many values the sum of one coordinate may take.
        per_slot: Values in one slot; ``radix ** per_slot <= plain_modulus``.
        parties: How many ciphertexts may be added, for which exact decryption is proved.
    """

    degree: int
    data_primes: tuple[int, ...]
    special_prime: int | None
    plain_modulus: int
    radix: int
    per_slot: int
    parties: int

    @classmethod
    def for_radix(cls, radix: int, parties: int) -> BfvParameters:
        """As many values a slot as one 60-bit prime can hold: work and bytes go with the number of slots.

        Args:
            radix: How many values the sum of one coordinate may take; they lie around zero (`lowest`).
            parties: How many contributions are added, each at most once.

        Raises:
            PrivetError: if no parameters with 128-bit security hold such sums exactly.
        """
        if radix < 2 or parties < 1:
            raise ValueError("a sum takes at least two values and has at least one term")
        degree = DEGREES[0]
        for per_slot in range(min(MOST_PER_SLOT, int(PRIME_BITS / math.log2(radix)) + 1), 0, -1):
            plain = prime_from(radix**per_slot, degree)
            prime = prime_from(_least_modulus(plain, parties), degree)
            if prime.bit_length() <= PRIME_BITS:
                return cls(degree, (prime,), None, plain, radix, per_slot, parties)
        for degree in DEGREES:
            plain = prime_from(radix, degree)
            first = prime_from(math.isqrt(_least_modulus(plain, parties)) + 1, degree)
            second = prime_from(first + 1, degree)
            special = prime_from(second + 1, degree)
            bits = (first * second * special).bit_length()
            small = max(plain, special).bit_length() <= PRIME_BITS
            if small and bits <= MOST_BITS[degree]:
                return cls(degree, (first, second), special, plain, radix, 1, parties)
        raise PrivetError(
            "sums of this width do not fit one plaintext slot",
            field="sealing.kind",
            given=f"{radix.bit_length()} bits a coordinate, {parties} parties",
            allowed=f"fewer than {PRIME_BITS - 1} bits a coordinate",
            hint="use a coarser grid, or kind: masked",
        )

    @classmethod
    def for_values(cls, bits: int, parties: int) -> BfvParameters:
        """Parameters for the sum of ``parties`` signed ``bits``-bit values, with no value to spare."""
        return cls.for_radix(parties << bits, parties)

    @classmethod
    def for_field(cls, bits: int, parties: int) -> BfvParameters:
        """Parameters for sums in a signed field of ``bits`` bits, wide enough for the parties already."""
        return cls.for_radix(1 << bits, parties)

    @property
    def lowest(self) -> int:
        """The least sum of one coordinate; sums lie in ``[lowest, lowest + radix)``, outside they wrap."""
        return -(self.radix // 2)

    @property
    def values_per_ciphertext(self) -> int:
        """Values in one ciphertext."""
        return self.degree * self.per_slot

    def ciphertexts(self, count: int) -> int:
        """Ciphertexts that ``count`` values take."""
        return -(-count // self.values_per_ciphertext)

    @property
    def most_fresh_bytes(self) -> int:
        """Upper bound of an uploaded ciphertext, packed and unpacked: a polynomial, a seed, headers."""
        return 8 * self.degree * len(self.data_primes) + 1024

    @property
    def typical_fresh_bytes(self) -> int:
        """What SEAL's compression makes of an uploaded ciphertext: each coefficient has few bits to spare."""
        # measured on SEAL's output: 8.05 bytes a coefficient at 60 bits, 7.6 at 56, 6.9 at 48, 5.7 at 36
        each = (8.05 - 0.1 * (PRIME_BITS - prime.bit_length()) for prime in self.data_primes)
        return round(self.degree * sum(each))

    @property
    def most_sum_bytes(self) -> int:
        """Upper bound of one summed ciphertext, packed and unpacked: two polynomials and headers."""
        return 16 * self.degree * len(self.data_primes) + 1024

    def label(self) -> str:
        """All the numbers, for signatures and key derivations: other parameters, other keys."""
        primes = [*self.data_primes, *([self.special_prime] if self.special_prime else [])]
        tail = f"{self.plain_modulus}/{self.radix}^{self.per_slot}/{self.parties}"
        return f"bfv/{self.degree}/{','.join(map(str, primes))}/{tail}"


def _least_modulus(plain: int, parties: int) -> int:
    """The least q for which a sum of ``parties`` fresh ciphertexts always decrypts exactly.

    Each brings an error of at most 21 and a rounding of q·m/t of at most 1/2, taking off masks another 1/2; a
    sum decrypts if the total stays below q/(2t). One part in 1024 more covers SEAL's approximate rounding.
    """
    worst = (2 * ERROR_BOUND + 1) * parties + 1
    return plain * worst * 1025 // 1024 + 1
