"""Near-duplicates are those that a comparison of all pairs finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from privet.data.near_duplicates import near_duplicates, shingles


def brute_force(texts: list[str], similarity: float) -> list[int]:
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    for i, one in enumerate(sets):
        if not any(len(one & sets[k]) / len(one | sets[k]) >= similarity for k in kept):
            kept.append(i)
    return [i for i in range(len(texts)) if i not in kept]


@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=0, max_size=9).map(" ".join), max_size=14),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_near_duplicates_are_those_of_all_pairs(texts: list[str], similarity: float) -> None:
    assert near_duplicates(texts, similarity) == brute_force(texts, similarity)


def test_normalised_copies_are_near_duplicates() -> None:
    texts = [
        "A great film, really great!",
        "a GREAT film … really great http://x.y @me",
        "Something else altogether",
    ]
    assert near_duplicates(texts) == [1]
