from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from privet.keys import derive

parts = st.lists(st.one_of(st.text(max_size=6), st.binary(max_size=6), st.integers()), max_size=5)


@given(parts, parts)
def test_two_derivations_are_equal_only_if_their_parts_are(
    a: list[str | bytes | int], b: list[str | bytes | int]
) -> None:
    same = [(type(x), x) for x in a] == [(type(x), x) for x in b]
    assert (derive(bytes(32), *a) == derive(bytes(32), *b)) == same
