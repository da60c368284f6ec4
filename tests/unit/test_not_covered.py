"""What the privacy statement of a run says is not covered, by what the run does."""

from __future__ import annotations

from typing import Any

import pytest
from support.toy import config

from privet.not_covered import DECLARED_PUBLIC, RECORDS_OF_A_CLIENT, ROUNDING_OF_CIPHERTEXTS, not_covered
from privet.resolve import resolve

FILES: dict[str, Any] = {"kind": "jsonl", "path": "sites/*.jsonl", "partition": {"kind": "file"}}
CLIENTS: dict[str, Any] = {"unit": "client", "relation": "zero-out"}


@pytest.mark.parametrize(
    ("sections", "sentence", "said"),
    [
        ({}, DECLARED_PUBLIC, True),  # the embedded data's test records are published
        ({"data": FILES}, DECLARED_PUBLIC, False),
        ({"data": {**FILES, "split": {"test": 0.2, "public": 0.3}}}, DECLARED_PUBLIC, True),
        ({"data": {**FILES, "public_path": "public.jsonl"}}, DECLARED_PUBLIC, True),
        ({"data": {**FILES, "test_public": True}}, DECLARED_PUBLIC, True),
        ({}, RECORDS_OF_A_CLIENT, False),
        ({"privacy": CLIENTS}, RECORDS_OF_A_CLIENT, True),
        ({"privacy": {"unit": "client", "relation": "replace-one"}}, RECORDS_OF_A_CLIENT, False),
        ({}, ROUNDING_OF_CIPHERTEXTS, False),
        ({"sealing": {"kind": "encrypted"}}, ROUNDING_OF_CIPHERTEXTS, True),
        ({"sealing": {"kind": "encrypted+masked"}}, ROUNDING_OF_CIPHERTEXTS, False),
    ],
)
def test_a_statement_names_what_the_run_leaves_out(
    sections: dict[str, Any], sentence: str, said: bool
) -> None:
    resolved = resolve(config(**sections), dimension=512, parties=4)
    assert (sentence in not_covered(resolved, here=False)) == said
    assert len(set(not_covered(resolved, here=True))) == len(not_covered(resolved, here=True))


def test_where_nothing_is_promised_nothing_is_left_out() -> None:
    resolved = resolve(config(system={"kind": "fedavg"}, privacy=None), dimension=512, parties=4)
    assert not_covered(resolved, here=True) == []
