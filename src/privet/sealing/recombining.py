"""Put seeds together out of shares of which a few may be wrong, and say whose do not fit.

Each seed has a public check (a commitment or a public key), so what comes out is right whoever lied. Which shares are
wrong is found by trying others, as long as more were given than a seed takes. Givers are left out in groups: all pairs
of groups for two liars, all triples for three, so that some try is without them wherever they sit; with few parties
these are all the ways there are. Who is not needed for what came out is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from privet.protocol import RoundAborted
from privet.sealing.agreement import EphemeralKey
from privet.sealing.base import reasons
from privet.sealing.epochs import commitment
from privet.sealing.shamir import Combiner

MOST_PRODUCTS = 1_000_000
"""What one seed's search may take, in products of the field (a try takes threshold squared): about a minute."""
FEWEST_TRIES = 8


class Recombination:
    """Seeds out of the shares that parties gave of each.

    Args:
        shares: What each party gave, uint8 ``[seeds, bytes]``.
        threshold: Shares that a seed was split for.

    Raises:
        ValueError: if there are too few givers.
    """

    def __init__(self, shares: Mapping[int, NDArray[np.uint8]], threshold: int) -> None:
        self._shares, self._threshold = shares, threshold
        self._givers = sorted(shares)
        self._wrong: dict[int, list[int]] = {}
        self._use(self._givers[:threshold])

    @property
    def misfits(self) -> dict[int, str]:
        """Givers whose shares do not fit those that a seed came out of, and how that is said.

        From one dealer's seed alone nobody can tell whether the giver lies or was given a wrong share.
        """
        return {giver: _misfit(dealers) for giver, dealers in sorted(self._wrong.items())}

    def seed(self, index: int, dealer: int, what: str, fits: Callable[[bytes], bool]) -> bytes:
        """The seed that stands at ``index`` in all shares.

        Args:
            index: Its place.
            dealer: The party that split it.
            what: Its name, for people.
            fits: Whether something is this seed.

        Raises:
            RoundAborted: if no shares that were tried give it; the reason says who may have lied.
        """
        seed = self._combine(self._combiner, index)
        if not fits(seed):
            seed = self._search(index, dealer, what, fits)
        for giver, dealers in self._wrong.items():
            if not self._agrees(giver, index):
                dealers.append(dealer)
        return seed

    def _use(self, chosen: Sequence[int]) -> None:
        self._chosen = list(chosen)
        self._combiner = Combiner(self._chosen, self._threshold)
        self._at: dict[int, Combiner] = {}

    def _combine(self, combiner: Combiner, index: int) -> bytes:
        return combiner.combine({giver: rows[index].tobytes() for giver, rows in self._shares.items()})

    def _agrees(self, giver: int, index: int) -> bool:
        """Whether a share lies on the polynomial of those in use."""
        if giver not in self._at:
            self._at[giver] = self._combiner.at(giver)
        share: bytes = self._shares[giver][index].tobytes()
        return self._combine(self._at[giver], index) == share

    def _search(self, index: int, dealer: int, what: str, fits: Callable[[bytes], bool]) -> bytes:
        liars, tries = 0, max(FEWEST_TRIES, MOST_PRODUCTS // self._threshold**2)
        for liars, groups in _groupings(self._givers, len(self._givers) - self._threshold, tries):
            for left_out in combinations(groups, liars):
                self._use(_without(self._givers, chain(*left_out))[: self._threshold])
                seed = self._combine(self._combiner, index)
                if fits(seed):
                    others = _without(self._givers, self._chosen)
                    wrong = [giver for giver in others if not self._agrees(giver, index)]
                    self._wrong |= {giver: [] for giver in wrong}
                    self._givers = _without(self._givers, wrong)
                    return seed
        givers = ", ".join(map(str, self._givers))
        culprits = (
            f"party {dealer} dealt them wrongly, or more than {liars} of the givers {givers} gave wrong ones"
            if liars
            else f"one of the givers {givers} gave a wrong one, or party {dealer} dealt them wrongly"
        )
        raise RoundAborted(f"shares of {what} do not fit together: {culprits}{reasons(self.misfits)}")


def commits_to(committed: bytes) -> Callable[[bytes], bool]:
    """Whether a seed is the one of a commitment."""
    return lambda seed: commitment(seed) == committed


def makes(public: bytes) -> Callable[[bytes], bool]:
    """Whether a seed is that of a public key."""
    return lambda seed: EphemeralKey(seed).public == public


def _groupings(givers: Sequence[int], most: int, tries: int) -> Iterator[tuple[int, list[list[int]]]]:
    """For one liar, two liars and so on: groups of givers, so many of which make up no more than ``most`` of them.

    So whoever lies, all of them are in as many groups. It ends where leaving out each choice of groups would take more
    tries than there are.
    """
    for liars in range(1, most + 1):
        count = -(-len(givers) // (most // liars))
        tries -= comb(count, liars)
        if tries < 0:
            return
        yield liars, [list(givers[first::count]) for first in range(count)]


def _without(givers: Iterable[int], left_out: Iterable[int]) -> list[int]:
    out = set(left_out)
    return [giver for giver in givers if giver not in out]


def _misfit(dealers: Sequence[int]) -> str:
    if len(dealers) == 1:
        return f"its share from party {dealers[0]} does not fit those of the others, or was dealt wrongly"
    return f"its shares from parties {', '.join(map(str, dealers))} do not fit those of the others"
