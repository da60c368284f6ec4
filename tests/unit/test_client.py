"""A client answers each attempt once: the same bytes for the same question, nothing for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.toy import config, examples, federation, split

from privet import sampling
from privet.client import Client
from privet.errors import PrivetError
from privet.keys import ClientKeys, SecretStore
from privet.mechanism import GaussianMechanism
from privet.protocol import RoundId
from privet.sealing.base import SealingRefused
from privet.store import MemoryStore
from privet.wire import Body

PARTS = split(examples(60), 3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> tuple[Client, Body, list[int]]:
    """A client of `dp_lora` in the clear, the question of round 0, and a count of its noise draws."""
    draws: list[int] = []
    share = GaussianMechanism.share

    def counted(mechanism: GaussianMechanism, key: bytes) -> Any:
        draws.append(1)
        return share(mechanism, key)

    monkeypatch.setattr(GaussianMechanism, "share", counted)
    f = federation(config(system={"kind": "dp_lora"}, sealing={"kind": "none"}), PARTS)
    assert f.server.aggregator is not None
    return f.clients[0], {"number": 0, "attempt": 0, **f.server.aggregator.broadcast()}, draws


def test_the_same_question_gets_the_same_bytes_and_no_new_noise(
    asked: tuple[Client, Body, list[int]],
) -> None:
    client, question, draws = asked
    first = client.handle("round", question)
    assert len(draws) == 1
    assert client.handle("round", dict(question)) == first
    assert len(draws) == 1


def test_another_question_for_an_answered_attempt_is_refused(asked: tuple[Client, Body, list[int]]) -> None:
    """A server that asks the same round with another adapter would get a second release for one charge."""
    client, question, draws = asked
    client.handle("round", question)
    flat = np.array(question["adapter"]) + 1
    with pytest.raises(SealingRefused) as caught:
        client.handle("round", {**question, "adapter": flat})
    assert caught.value.reason == "already-answered"
    client.handle("round", {**question, "number": 1, "adapter": flat})
    for number, attempt in ((0, 0), (0, 9)):
        with pytest.raises(SealingRefused):
            client.handle("round", {**question, "number": number, "attempt": attempt})
    assert len(draws) == 2, "a refusal draws nothing"


def test_another_attempt_draws_again(asked: tuple[Client, Body, list[int]]) -> None:
    client, question, draws = asked
    client.handle("round", question)
    client.handle("round", {**question, "attempt": 1})
    assert len(draws) == 2


def test_an_answer_is_written_down_before_it_is_given(
    asked: tuple[Client, Body, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it cannot be written down it is not given either."""
    client, question, _ = asked

    def full(store: MemoryStore, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "put", full)
        with pytest.raises(OSError, match="No space"):
            client.handle("round", question)
    assert client.store.get("answered.round") is None


def test_a_client_that_was_started_again_remembers(asked: tuple[Client, Body, list[int]]) -> None:
    client, question, draws = asked
    first = client.handle("round", question)
    f = federation(config(system={"kind": "dp_lora"}, sealing={"kind": "none"}), PARTS)
    again = f.clients[0]
    again.store = client.store
    assert again.handle("round", question) == first
    assert len(draws) == 1


def test_a_damaged_answer_is_told_and_not_made_anew(asked: tuple[Client, Body, list[int]]) -> None:
    client, question, draws = asked
    client.handle("round", question)
    kept = client.store.get("answered.round")
    assert kept is not None
    client.store.put("answered.round", kept[:-5])
    with pytest.raises(PrivetError, match="damaged") as caught:
        client.handle("round", question)
    assert caught.value.field == "silo0"
    assert caught.value.hint
    assert len(draws) == 1


def test_an_adapter_of_another_size_is_refused(asked: tuple[Client, Body, list[int]]) -> None:
    client, _, _ = asked
    with pytest.raises(SealingRefused) as caught:
        client.handle("enrol", {"run": "toy", "dimension": 7})
    assert caught.value.reason == "other-adapter"


def test_nothing_but_the_contribution_is_answered(asked: tuple[Client, Body, list[int]]) -> None:
    """No counts, no losses: what the simulator shows stays an attribute."""
    client, question, _ = asked
    assert set(client.handle("round", question)) == {"words"}
    # One unit travels, the update; the records behind it are counted apart.
    assert client.observed["units"] == 1 + client.observed["sampled"]


@pytest.mark.parametrize("op", ["open", "finish"])
def test_a_client_at_a_plain_level_opens_nothing(asked: tuple[Client, Body, list[int]], op: str) -> None:
    client, _, _ = asked
    with pytest.raises(SealingRefused):
        client.handle(op, {"number": 0, "attempt": 0, "rounds": 0})


def test_a_question_with_a_broken_codec_is_refused_with_a_reason(
    asked: tuple[Client, Body, list[int]],
) -> None:
    """Neither an exception of another kind nor a contribution: the engine would not know what to do with it."""
    client, question, draws = asked
    numbers = {
        "codec_float32": np.zeros(0, np.float32),
        "codec_int32": np.zeros(0, np.int32),
        "codec_uint8": np.zeros(0, np.uint8),
    }
    for header in (b"no json", b'{"kind":"nonsense"}', b"[]"):
        with pytest.raises(SealingRefused) as caught:
            client.handle("round", {**question, "codec": header, **numbers})
        assert caught.value.reason == "malformed"
    assert draws == []


class Account:
    """A guard that counts."""

    def __init__(self) -> None:
        self.charged: list[RoundId] = []

    def admit(self, due: RoundId) -> None:
        self.charged.append(due)


class Killed(BaseException):
    """As kill -9: nothing is caught, nothing is written any more."""


def fails(client: Client, error: BaseException, body: Body) -> None:
    """Ask a client that ends in the midst of its work."""

    def contribute(*arguments: Any) -> Any:
        raise error

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Client, "_contribute", contribute)
        with pytest.raises(type(error)):
            client.handle("round", body)


def test_an_answer_that_a_kill_prevented_is_charged_once(asked: tuple[Client, Body, list[int]]) -> None:
    client, question, _ = asked
    client.guard = account = Account()
    flat = np.array(question["adapter"]) + 1
    fails(client, Killed(), question)
    assert account.charged == [RoundId(0)], "nothing left it"
    client.handle("round", question)
    client.handle("round", dict(question))
    assert account.charged == [RoundId(0)]
    # Another question, and whoever asks again after an error, which tells something of the records, pays again.
    later = {**question, "number": 1}
    fails(client, Killed(), later)
    fails(client, Killed(), {**later, "adapter": flat})
    assert account.charged[1:] == [RoundId(1)] * 2
    fails(client, RuntimeError(), {**later, "adapter": flat})
    client.handle("round", {**later, "adapter": flat})
    assert account.charged[1:] == [RoundId(1)] * 3


def test_an_answer_that_is_begun_more_often_than_one_crash_explains_is_charged_each_time(
    asked: tuple[Client, Body, list[int]],
) -> None:
    """Each start draws a batch and noise anew: whoever can end the process would watch as many as it likes."""
    client, question, _ = asked
    client.guard = account = Account()
    counts = []
    for _ in range(5):
        fails(client, Killed(), question)
        counts.append(len(account.charged))
    assert counts == [1, 1, 2, 3, 4]
    client.handle("round", question)
    client.handle("round", dict(question))
    assert account.charged == [RoundId(0)] * 5
    # One crash of the next answer costs nothing again.
    later = {**question, "number": 1}
    fails(client, Killed(), later)
    client.handle("round", later)
    assert account.charged[5:] == [RoundId(1)]


def test_the_start_that_costs_nothing_has_the_batch_that_was_charged(
    asked: tuple[Client, Body, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends a process when its batch takes long must not choose between two for one charge."""
    client, question, _ = asked
    client.guard, client.keys = Account(), ClientKeys.open(SecretStore(tmp_path))
    starts: list[tuple[list[bytes], list[bytes]]] = []
    poisson = sampling.poisson_sample

    def sampled(n: int, rate: float, key: bytes) -> Any:
        starts[-1][0].append(key)
        return poisson(n, rate, key)

    def killed(mechanism: GaussianMechanism, key: bytes) -> Any:
        starts[-1][1].append(key)
        raise Killed

    monkeypatch.setattr(sampling, "poisson_sample", sampled)
    monkeypatch.setattr(GaussianMechanism, "share", killed)
    for _ in range(4):
        starts.append(([], []))
        with pytest.raises(Killed):
            client.handle("round", question)
    first, second, third, fourth = (batches for batches, _ in starts)
    assert first
    assert second == first
    drawn = [*first, *third, *fourth, *(key for _, noise in starts for key in noise)]
    assert len(drawn) == 3 * len(first) + 4
    assert len(set(drawn)) == len(drawn), "a charge has batches of its own, a start noise of its own"


def test_a_start_is_counted_on_the_disk_before_anything_is_drawn(
    asked: tuple[Client, Body, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that costs nothing; a charge whose mark is lost with the process is made once more."""
    client, question, draws = asked
    client.guard = account = Account()

    def full(store: MemoryStore, name: str, data: bytes) -> None:
        raise Killed

    for charged in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "put", full)
            with pytest.raises(Killed):
                client.handle("round", question)
        assert len(account.charged) == charged
    fails(client, Killed(), question)
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "put", full)
            with pytest.raises(Killed):
                client.handle("round", question)
    assert (len(account.charged), draws) == (3, [])


def test_a_question_that_is_refused_for_itself_costs_nothing(
    asked: tuple[Client, Body, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record was touched: a codec that comes only after its digest was refused is charged once, for instance."""
    client, question, draws = asked
    client.guard = account = Account()
    numbers = {
        "codec_float32": np.zeros(0, np.float32),
        "codec_int32": np.zeros(0, np.int32),
        "codec_uint8": np.zeros(0, np.uint8),
    }
    bare = {name: value for name, value in question.items() if name != "adapter"}
    wrong = {
        "unknown-codec": {**question, "codec_digest": bytes(32)},
        "malformed": {**question, "codec": b"no json", **numbers},
        "sealed-state": {**bare, "state": b"x"},
        "no-state": {**bare, "number": 1},
    }

    def refused() -> None:
        for reason, body in wrong.items():
            with pytest.raises(SealingRefused) as caught:
                client.handle("round", body)
            assert caught.value.reason == reason

    refused()
    assert account.charged == []

    def killed(self: Client, *arguments: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Client, "_contribute", killed)
        with pytest.raises(Killed):
            client.handle("round", question)
    refused()
    client.handle("round", question)
    assert account.charged == [RoundId(0)], "what a kill left owing was not forgotten between"
    assert len(draws) == 1
