"""``invert.aggregate``: whether sealed bytes are spread alike, in messages of any length."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privet.attacks import invert_aggregate
from privet.attacks.invert_aggregate import message_findings, spread_alike
from privet.attacks.suite import without_silence


def drawn(generator: np.random.Generator, low: int, high: int, count: int) -> bytes:
    return bytes(generator.integers(low, high, count, dtype=np.uint8))


def test_short_messages_of_disjoint_alphabets_are_told_apart() -> None:
    """No value occurs ten times in them; they were left out one by one, and p was 1."""
    generator = np.random.default_rng(0)
    found = spread_alike(drawn(generator, 0, 128, 500), drawn(generator, 128, 256, 500))
    assert found.p is not None
    assert found.p < 1e-9


@pytest.mark.parametrize("count", [30, 100, 500, 5000])
def test_bytes_that_are_spread_alike_are_told_apart_at_the_level_of_the_test(count: int) -> None:
    """400 pairs at level 0.05; so many as 35 would be counted with probability 1e-3."""
    generator = np.random.default_rng(1)
    ps = [
        spread_alike(drawn(generator, 0, 256, count), drawn(generator, 0, 256, count)).p for _ in range(400)
    ]
    assert sum(p is not None and p < 0.05 for p in ps) < 35


@pytest.mark.parametrize(("one", "other"), [(b"", b""), (b"ab", b"cd"), (b"a" * 9, b"b" * 9)])
def test_of_too_few_bytes_nothing_is_said(one: bytes, other: bytes) -> None:
    assert spread_alike(one, other).p is None


def message_rows(
    sealed: tuple[bytes, bytes], handed: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    seen = SimpleNamespace(messages=dict(enumerate(sealed)), handed=dict(enumerate(handed)))
    monkeypatch.setattr(invert_aggregate, "last_round", lambda rehearsed: seen)
    rehearsed: Any = SimpleNamespace(transcript=SimpleNamespace(bits=32))
    return without_silence(message_findings(rehearsed, "masked", 0.0125))


def test_a_message_of_a_few_bytes_is_not_said_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    told, zero = np.arange(4, dtype=np.int64), np.zeros(4, np.int64)
    rows = message_rows((b"abc", b"def"), (told, zero), monkeypatch)
    assert [row.verdict for row in rows] == ["not applicable", "not applicable"]
    assert "too few bytes" in rows[1].text


def test_sealed_bytes_hold_only_where_the_key_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    sealed = (drawn(generator, 0, 256, 4000), drawn(generator, 0, 256, 4000))
    told, zero = generator.integers(-1000, 1000, 1000), np.zeros(1000, np.int64)
    assert [r.verdict for r in message_rows(sealed, (told, zero), monkeypatch)] == ["leaks", "holds"]
    assert [r.verdict for r in message_rows(sealed, (zero, zero), monkeypatch)] == ["not applicable"] * 2
