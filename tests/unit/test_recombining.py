"""Seeds out of shares of which a few are wrong, and who is named for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from privet.protocol import RoundAborted
from privet.sealing import recombining, shamir
from privet.sealing.base import recovery_threshold
from privet.sealing.recombining import Recombination, _groupings

Shares = dict[int, NDArray[np.uint8]]


def deal(parties: int, dealers: int = 3) -> tuple[list[bytes], Shares]:
    """Seeds, and what each party got of them."""
    seeds = [bytes([dealer + 1]) * 16 for dealer in range(dealers)]
    split = [shamir.split(seed, recovery_threshold(parties), parties) for seed in seeds]
    return seeds, {
        party: np.stack([np.frombuffer(shares[party], np.uint8) for shares in split])
        for party in range(parties)
    }


def falsify(shares: Shares, parties: Collection[int], rows: Collection[int] = (0, 1, 2)) -> None:
    for party in parties:
        shares[party] = shares[party].copy()
        shares[party][list(rows), party % 16] ^= 1


def is_(seed: bytes) -> Callable[[bytes], bool]:
    return lambda found: found == seed


def recombine(seeds: list[bytes], shares: Shares, parties: int) -> Recombination:
    found = Recombination(shares, recovery_threshold(parties))
    for dealer, seed in enumerate(seeds):
        assert found.seed(dealer, dealer, f"seed {dealer}", is_(seed)) == seed
    return found


def test_honest_shares_are_combined_once_and_nobody_is_named() -> None:
    assert recombine(*deal(7), 7).misfits == {}


@pytest.mark.parametrize("parties", [4, 7, 10])
def test_as_many_liars_as_there_are_shares_to_spare_are_found_wherever_they_sit(parties: int) -> None:
    spare = parties - recovery_threshold(parties)
    seeds, dealt = deal(parties)
    for liars in list(combinations(range(parties), spare))[:: 1 if parties < 10 else 9]:
        shares = dict(dealt)
        falsify(shares, liars)
        misfits = recombine(seeds, shares, parties).misfits
        # those whose shares nobody needed may go unnoticed
        assert set(misfits) <= set(liars)
        assert min(liars) >= recovery_threshold(parties) or set(misfits) == set(liars)
        assert all("from parties 0, 1, 2 do not fit" in reason for reason in misfits.values())


def test_liars_about_different_seeds_are_found_one_after_the_other() -> None:
    seeds, shares = deal(7)
    falsify(shares, [0], rows=[0])
    falsify(shares, [1], rows=[2])
    assert recombine(seeds, shares, 7).misfits == {
        0: "its share from party 0 does not fit those of the others, or was dealt wrongly",
        1: "its share from party 2 does not fit those of the others, or was dealt wrongly",
    }


def test_three_liars_among_a_hundred_are_found_in_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    combiner = recombining.Combiner

    def count(givers: Collection[int], threshold: int) -> shamir.Combiner:
        made.append(threshold)
        return combiner(givers, threshold)

    monkeypatch.setattr(recombining, "Combiner", count)
    seeds, shares = deal(100, dealers=1)
    falsify(shares, [0, 31, 66], rows=[0])
    assert set(recombine(seeds, shares, 100).misfits) == {0, 31, 66}
    assert len(made) < 200


@pytest.mark.parametrize(("givers", "most"), [(4, 1), (7, 2), (10, 3), (16, 5), (100, 33)])
def test_some_choice_of_groups_holds_all_liars(givers: int, most: int) -> None:
    rng = np.random.default_rng(0)
    for liars, groups in _groupings(range(givers), most, 5000):
        assert sorted(giver for group in groups for giver in group) == list(range(givers))
        for _ in range(50):
            lying = set(rng.choice(givers, liars, replace=False).tolist())
            held = [group for group in groups if lying & set(group)]
            assert sum(map(len, held)) <= most


def test_with_no_share_to_spare_the_givers_and_the_dealer_are_named() -> None:
    seeds, shares = deal(5)
    falsify(shares, [2], rows=[1])
    del shares[4]
    found = Recombination(shares, 4)
    found.seed(0, 0, "seed 0", is_(seeds[0]))
    with pytest.raises(
        RoundAborted,
        match=r"shares of seed 1 do not fit together: one of the givers 0, 1, 2, 3 gave a wrong one, "
        r"or party 1 dealt them wrongly$",
    ):
        found.seed(1, 1, "seed 1", is_(seeds[1]))


def test_a_dealer_is_named_whose_shares_fit_in_no_way_and_so_are_those_that_were_found_before() -> None:
    seeds, shares = deal(7)
    falsify(shares, [3], rows=[0])
    found = Recombination(shares, 5)
    found.seed(0, 0, "seed 0", is_(seeds[0]))
    with pytest.raises(
        RoundAborted,
        match=r"party 1 dealt them wrongly, or more than 1 of the givers 0, 1, 2, 4, 5, 6 gave wrong ones; "
        r"party 3: its share from party 0 does not fit",
    ):
        found.seed(1, 1, "seed 1", is_(bytes(16)))


def test_two_who_agree_on_their_lies_change_no_seed() -> None:
    """Their errors cancel in what is tried; what is checked is the seed, so nothing wrong comes out."""
    seeds, shares = deal(4, dealers=1)
    error = np.frombuffer(bytes(15) + b"\1", np.uint8)
    # with points 1, 2 and 3 the weights are elements of the field: the error of one is that of the other, weighted
    weights = shamir.Combiner([0, 1, 2], 3)._weights
    other = shamir._product(shamir._multiples(shamir._inverse(weights[1][1])), weights[0][1])
    falsified = np.frombuffer(other.to_bytes(16, "big"), np.uint8)
    shares[0], shares[1] = shares[0] ^ error, shares[1] ^ falsified
    assert recombine(seeds, shares, 4).misfits == {}
