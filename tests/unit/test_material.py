"""What is done to the public records before clip norms and codecs look at the first of them."""

from __future__ import annotations

from collections import Counter

from privet.data.records import Record, in_public_order


def test_the_first_public_records_stand_for_all() -> None:
    """As they come they are sorted by silo: the first quarter would be one silo's."""
    records = [Record(f"silo{i // 100}/{i}", "a", "b") for i in range(400)]
    drawn = in_public_order(records, seed=0)
    assert sorted(drawn, key=records.index) == records
    # Hypergeometric, 100 of 4 x 100: fewer than 12 of one silo has probability below 1e-3.
    assert min(Counter(record.id.split("/")[0] for record in drawn[:100]).values()) >= 12
    assert in_public_order(records[::-1], seed=0) == drawn, "whatever order they came in"
    assert in_public_order(records, seed=1) != drawn
