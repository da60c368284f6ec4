"""Both stages of `dr_encoder` in whole runs: under every seal, killed and resumed, and against the ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.encoder import CODEC, LAYOUT, RELEASES, encoder, encoder_federation
from support.killing import Calls, Killer, calls_of, die, patched
from support.toy import DIMENSION, examples, split
from support.toy_runs import adapter, gatherer

from privet.aggregate import Aggregator
from privet.codec_schedule import CodecSchedule
from privet.codecs import ErrorFeedback, Provenance
from privet.config import Config, EncryptedMaskedSealing, EncryptedSealing, MaskedSealing, NoSealing
from privet.errors import PrivetError
from privet.federation import Federation
from privet.privacy.events import NoGuarantee, Release
from privet.run_folder import RunFolder
from privet.runs import start
from privet.server import Server

SEALS = [NoSealing(), MaskedSealing(), EncryptedSealing(), EncryptedMaskedSealing()]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """A forked child must not wait for threads that only its parent has."""
    torch.set_num_threads(1)


def run(asked: Config, **options: Any) -> Federation:
    f = encoder_federation(asked, **options)
    f.engine.run(f.server.steps())
    assert f.server.progress.stopped is None
    return f


def sealed(asked: Config, seal: Any) -> Config:
    """The same run under another seal; its noise was resolved for the first."""
    return asked.model_copy(update={"sealing": seal})


@pytest.mark.parametrize("private", [True, False])
def test_every_seal_gives_the_same_adapter(private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the noise of shares also where the server sees them, which only this test does."""
    import support.toy

    asked = encoder() if private else encoder(system={"kind": "dr_encoder", "faithful": True}, privacy=None)
    resolve = support.toy.resolve
    monkeypatch.setattr(
        support.toy,
        "resolve",
        lambda config, **facts: replace(resolve(asked, **facts), config=config),
    )
    found = [run(sealed(asked, seal)) for seal in SEALS]
    for f in found[1:]:
        np.testing.assert_array_equal(f.flat, found[0].flat)
    assert np.abs(found[0].flat).max() > 0.01


def test_stage_one_leaves_the_adapter_alone_and_stage_two_sends_codes() -> None:
    sizes: list[int] = []
    stages: list[int] = []
    flats: list[float] = []
    f = encoder_federation()

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round":
            sizes.append(f.server.size)
            stages.append(facts["stage"])
            flats.append(float(np.abs(f.flat).max()))

    f.server.observe = observe
    assert f.server.size == 2 * len(LAYOUT), "two statistics of each tensor"
    f.engine.run(f.server.steps())
    assert stages == [1, 1, 2, 2, 2]
    assert sizes == [6, 12, 12, 12, 12], "what the round after each sends"
    assert flats[:RELEASES] == [0.0] * RELEASES
    assert flats[-1] > 0
    assert f.server.aggregator is not None
    codec = f.server.aggregator.codec
    assert codec is not None
    assert codec.provenance is Provenance.STATISTICS
    assert f.server.aggregator.gathered.size == 0


def test_trap_11_every_opened_sum_is_in_the_ledger_by_its_stage() -> None:
    f = encoder_federation()
    opened: list[int] = []
    f.server.observe = lambda kind, facts: opened.append(facts["stage"]) if kind == "round" else None
    f.engine.run(f.server.steps())
    preparation = f.server.system.preparation
    assert preparation is not None
    releases = {(r.name, r.count): r for r in f.server.ledger.releases}  # type: ignore[union-attr]  # all Gaussian
    assert set(releases) == {
        ("stage 1 statistics", opened.count(1)),
        ("stage 2 codes", opened.count(2)),
    }
    first = releases["stage 1 statistics", RELEASES]
    mechanism = preparation.system.mechanism
    assert mechanism is not None
    assert first.noise_multiplier == mechanism.noise_multiplier  # type: ignore[union-attr]  # Gaussian


@pytest.mark.parametrize("stage", [1, 2])
def test_trap_11_the_noise_of_each_stage_is_what_it_is_charged_for(stage: int) -> None:
    """Variance of 60 opened sums of 6 or 12 numbers against the ledger's; false alarm below 1e-6."""
    releases, rounds = (60, 1) if stage == 1 else (1, 60)
    f = encoder_federation(
        encoder(
            system={"kind": "dr_encoder", "statistics": {"releases": releases, "share": 0.2}},
            schedule={"rounds": rounds, "local": {"steps": 1, "learning_rate": 1e-12}},
        )
    )
    aggregator = f.server.aggregator
    assert aggregator is not None
    apply = aggregator.apply
    totals: list[Any] = []

    def collect(round_id: Any, total: Any, apart: Any) -> Any:
        if (round_id.number < releases) == (stage == 1):
            totals.append(total * aggregator.system.at(round_id.number).pipeline.rounding.grid.step)
        return apply(round_id, total, apart)

    aggregator.apply = collect  # type: ignore[method-assign]  # a spy
    f.engine.run(f.server.steps())
    charged = f.server.ledger.releases[stage - 1]
    assert isinstance(charged, Release)
    # Four shares of a noise that three make up; clip norm 1 and at most 1 % on top for the rounding.
    expected = charged.noise_multiplier**2 * 4 / 3
    count, found = sum(map(len, totals)), float(np.square(totals).mean())
    assert count == 60 * (6 if stage == 1 else 12)
    assert expected * (1 - 5 * (2 / count) ** 0.5) < found < 1.02 * expected * (1 + 5 * (2 / count) ** 0.5)


def test_faithful_statistics_are_exact_and_the_codec_says_so() -> None:
    f = run(encoder(system={"kind": "dr_encoder", "faithful": True}))
    assert f.server.aggregator is not None
    assert f.server.aggregator.codec is not None
    assert f.server.aggregator.codec.provenance is Provenance.EXACT
    first, second = f.server.ledger.releases
    assert isinstance(first, NoGuarantee)
    assert second.name == "stage 2 codes"


def test_cg_fedllm_learns_from_single_updates() -> None:
    asked = encoder(system={"kind": "cg_fedllm", "collections": 2}, privacy=None, sealing={"kind": "none"})
    rows: list[Any] = []
    f = encoder_federation(asked, parties=5)
    assert f.server.aggregator is not None
    learned = f.server.aggregator.schedule.learned

    def watching(preparation: Any, gathered: Any, flat: Any) -> Any:
        rows.append(gathered)
        return learned(preparation, gathered, flat)

    object.__setattr__(f.server.aggregator.schedule, "learned", watching)
    f.engine.run(f.server.steps())
    (gathered,) = rows
    assert gathered.shape == (10, DIMENSION)
    from support.toy import ToyTrainer

    zero = np.zeros(DIMENSION, np.float32)
    part = split(examples(80), 5)[3]
    update = ToyTrainer().train_locally(zero, part, asked.schedule.local, b"")
    np.testing.assert_allclose(gathered[3], update, atol=16 * 2.0**-20)
    assert f.server.aggregator.codec is not None
    assert f.server.aggregator.codec.provenance is Provenance.EXACT
    assert f.server.ledger.epsilon().headline.value is None


def test_error_feedback_remembers_what_the_code_lost() -> None:
    """A client's next update carries it; the memory is local, survives a restart, and nothing else changes."""
    lossy = CODEC | {"ratio": 4, "error_feedback": True}
    plain = run(encoder(codec=CODEC | {"ratio": 4}))
    f = encoder_federation(encoder(codec=lossy))
    f.engine.run(f.server.steps())
    assert not np.array_equal(f.flat, plain.flat)
    kept = f.clients[2].store.get("error-feedback")
    assert kept is not None
    memory = ErrorFeedback.from_bytes(kept)
    assert memory.round == RELEASES + 2
    assert np.linalg.norm(memory.pending) > 0
    assert f.engine.bytes_up == plain.engine.bytes_up


ROUNDS = RELEASES + 3


def outcome(folder: Path) -> tuple[Any, ...]:
    rows = RunFolder(folder).rows("rounds.jsonl")
    events = json.loads((folder / "dp_event.json").read_text(encoding="utf-8"))["events"]
    return (
        adapter(folder),
        [(event["name"], event["count"]) for event in events],
        [(row["round"], row["stage"], row["attempt"], row["direction_norm"]) for row in rows],
    )


def amid_stage_one() -> None:
    """One release is opened and saved."""
    _at_round(1)


def between_the_stages() -> None:
    """The last release is opened and the codec is trained; neither is saved."""

    def gather(original: Any, aggregator: Aggregator, *args: Any) -> Any:
        last = aggregator.rounds + 1 == RELEASES
        norm = original(aggregator, *args)
        return die() if last else norm

    patched(Aggregator, "_gather", gather)


def with_the_codec_saved() -> None:
    """Stage 1 is over and on the disk; nothing of stage 2 is."""
    _at_round(RELEASES)


def _at_round(number: int) -> None:
    def admit(original: Any, server: Server) -> Any:
        if server.progress.number == number:
            die()
        return original(server)

    patched(Server, "_admit", admit)


@pytest.mark.parametrize("seal", ["masked", "encrypted+masked"])
def test_killed_in_stage_one_and_between_the_stages(seal: str, tmp_path: Path) -> None:
    asked = encoder(sealing={"kind": seal}, codec=CODEC | {"error_feedback": True})
    undisturbed = Killer(asked, tmp_path / "undisturbed")
    assert undisturbed.go()
    expected = outcome(undisturbed.folder)
    assert expected[1] == [("stage 1 statistics", RELEASES), ("stage 2 codes", 3)]
    instants: list[Any] = [amid_stage_one, between_the_stages, with_the_codec_saved]
    calls = calls_of(undisturbed)
    instants += [Calls(calls * share // 20) for share in (3, 7, 9, 12, 16)]
    for index, prepare in enumerate(instants):
        killer = Killer(asked, tmp_path / f"run{index}")
        assert not killer.go(prepare), f"instant {index}: the process was to die"
        assert killer.go()
        assert outcome(killer.folder) == expected


def test_a_release_of_stage_one_that_is_repeated_is_charged_again(tmp_path: Path) -> None:
    """Clients go silent while release 1 is unmasked: shares were asked for, so its retry is another release."""
    silent = [{"round": 1, "party": party, "before": "recover"} for party in (0, 1)]
    shared: dict[str, Any] = {"schedule": {"min_survivors": 4, "round_attempts": 2}}
    failing = encoder(**shared, engine={"dropouts": silent})
    killer = Killer(encoder(**shared), tmp_path / "run", parties=5)
    assert killer.go(config=failing)
    assert "round 1 failed" in json.loads((killer.folder / "result.json").read_text())["stopped"]
    assert killer.go()
    _, events, rows = outcome(killer.folder)
    assert events == [("stage 1 statistics", RELEASES + 1), ("stage 2 codes", 3)]
    assert [row[0] for row in rows] == list(range(ROUNDS))


def test_a_useless_codec_is_refused_before_the_first_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: CodecSchedule, preparation: Any, flat: Any) -> None:
        raise PrivetError("keeps no more of an update", field="codec")

    monkeypatch.setattr("privet.cast.gather", gatherer())
    monkeypatch.setattr(CodecSchedule, "rehearse", refuse)
    with pytest.raises(PrivetError, match="keeps no more"):
        start(encoder(), "", tmp_path / "run")
    assert not (tmp_path / "run" / "clients").exists()
    assert not RunFolder(tmp_path / "run").rows("rounds.jsonl")
