"""A rehearsal is the audited run with other records: every mechanism in it has the noise that the run's own has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.encoder import CODEC, LAYOUT
from support.toy import DIMENSION, ToyTrainer, config, examples, split

from privet.attacks import canary_scores, client_updates, control, mia_gradient, poison_norm
from privet.attacks.audit_canary import Plan
from privet.attacks.rehearsal import Rehearsed, Stage, everybody_in, plain_schedule, rehearse
from privet.config import Config, ConfigError, NoSealing
from privet.mechanism import GaussianMechanism
from privet.resolve import resolve
from privet.systems import System

PARTIES, ROUNDS = 4, 50
STATISTICS = {"kind": "dr_encoder", "statistics": {"releases": 2, "share": 0.2}}
BACKBONE = SimpleNamespace(
    initial_flat=lambda: np.zeros(DIMENSION, np.float32),
    layout=SimpleNamespace(tensors=[SimpleNamespace(name=name, shape=shape) for name, shape in LAYOUT]),
)
MATERIAL: Any = SimpleNamespace(trainer=SimpleNamespace(backbone=BACKBONE))
RUNS = {
    "hedge, records": ({"kind": "hedge"}, "record", "masked", {}),
    "hedge, clients": ({"kind": "hedge"}, "client", "masked", {}),
    "hedge, encrypted": ({"kind": "hedge"}, "client", "encrypted", {}),
    "dp_lora, records": ({"kind": "dp_lora"}, "record", "none", {}),
    "dp_lora, clients": ({"kind": "dp_lora"}, "client", "none", {}),
    "dp_lora, faithful": ({"kind": "dp_lora", "faithful": True}, "client", "none", {}),
    "fedshield": (
        {"kind": "fedshield"},
        "client",
        "masked",
        {"kind": "prune", "start_round": 0, "start_rate": 0.2, "end_rate": 0.5, "allow_useless": True},
    ),
    "dr_encoder, clients": (STATISTICS, "client", "masked", CODEC),
    "dr_encoder, records": (STATISTICS, "record", "masked", CODEC),
    "dr_encoder, unsealed": (STATISTICS, "client", "none", CODEC),
    "dr_encoder, unsealed records": (STATISTICS, "record", "none", CODEC),
}
Mechanism = tuple[float, float, float]


def asked(name: str, rounds: int = ROUNDS) -> Config:
    system, unit, sealing, codec = RUNS[name]
    privacy: dict[str, Any] = {"unit": unit, "noise_multiplier": 2.0, "clip_norm": 1.0}
    schedule: dict[str, Any] = {"rounds": rounds}
    if unit == "client":
        privacy["relation"] = "zero-out"
        schedule |= {"sampling_rate": None, "expected_batch": None}
    extra = {"codec": codec} if codec else {}
    return config(system=system, privacy=privacy, sealing={"kind": sealing}, schedule=schedule, **extra)


def known(mechanism: GaussianMechanism) -> Mechanism:
    """What the ledger goes by: not the size of a share, which goes with the number of parties."""
    return mechanism.noise_multiplier, mechanism.clip_norm, mechanism.noise_std


def of(system: System) -> list[Mechanism]:
    return [known(mechanism) for mechanism in system.mechanisms()]


def rehearsals(run: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, Rehearsed]:
    """One rehearsal of each attack on the run's own adapters, all of them shorter than the run."""
    done: dict[str, Rehearsed] = {}
    for module in (canary_scores, client_updates, mia_gradient, poison_norm):

        def watched(*arguments: Any, module: Any = module, **options: Any) -> Rehearsed:
            made = rehearse(*arguments, **options)
            done[module.__name__.rpartition(".")[2]] = made
            return made

        monkeypatch.setattr(module, "rehearse", watched)
    schedule = plain_schedule(run, LAYOUT, run.schedule.rounds)
    canary_scores.score(run, DIMENSION, PARTIES, Plan(8, 2, seed=1), schedule=schedule)
    poison_norm.findings(run, DIMENSION, PARTIES, schedule=schedule)
    stage = Stage(everybody_in(run, 40.0), ToyTrainer(), np.zeros(DIMENSION, np.float32), schedule)
    records = {f"silo{i}": part for i, part in enumerate(split(examples(64), PARTIES))}
    mia_gradient.attack(stage, records, rounds=2, seed=0)
    if run.system.preparation_rounds:
        updates = np.random.default_rng(0).standard_normal((6, DIMENSION)).astype(np.float32)
        client_updates.cohort(run, MATERIAL, updates, 0)
    return done


@pytest.mark.parametrize("name", RUNS)
def test_every_mechanism_of_a_rehearsal_is_that_of_the_audited_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = asked(name)
    promised = resolve(run, dimension=DIMENSION, parties=PARTIES, layout=LAYOUT).system
    made = rehearsals(run, monkeypatch)
    first_stage = {"client_updates"} if promised.preparation else set()
    assert set(made) == {"canary_scores", "poison_norm", "mia_gradient"} | first_stage
    for attack, done in made.items():
        assert of(done.resolved.system) == of(promised), attack
        for seen in done.transcript.rounds:
            expected = promised.at(seen.number).mechanism
            assert expected is not None
            assert seen.system.mechanism is not None
            assert seen.system.mechanism.noise_multiplier == expected.noise_multiplier, attack


def test_a_rehearsal_has_as_many_rounds_as_were_asked_for_and_is_charged_for_them() -> None:
    run = asked("dr_encoder, clients")
    stage = Stage(
        run, ToyTrainer(), np.zeros(DIMENSION, np.float32), plain_schedule(run, LAYOUT, run.schedule.rounds)
    )
    records = {f"silo{i}": part for i, part in enumerate(split(examples(64), PARTIES))}
    done = rehearse(stage, records, rounds=1)
    assert done.stopped is None
    assert [seen.number for seen in done.transcript.rounds] == [0, 1, 2]
    assert [getattr(release, "count", None) for release in done.ledger.releases] == [2, 1]


def test_a_rehearsal_may_be_longer_than_the_run() -> None:
    """An attack that needs a second round has it, with the noise that the run's only round has."""
    run = asked("dr_encoder, clients", rounds=1)
    promised = resolve(run, dimension=DIMENSION, parties=PARTIES, layout=LAYOUT).system
    stage = Stage(run, ToyTrainer(), np.zeros(DIMENSION, np.float32), plain_schedule(run, LAYOUT, 1))
    records = {f"silo{i}": part for i, part in enumerate(split(examples(64), PARTIES))}
    done = rehearse(stage, records, rounds=2)
    assert len(done.transcript.rounds) == 2 + 2
    assert of(done.resolved.system) == of(promised)


def of_one_message(run: Config, parties: int = PARTIES) -> float:
    """Standard deviation of the noise in one client's message, over the sensitivity."""
    mechanism = resolve(run, dimension=DIMENSION, parties=parties, layout=LAYOUT).system.mechanism
    assert mechanism is not None
    return mechanism.share_std_steps / mechanism.grid.bound


@pytest.mark.parametrize("colluders", [0, 1])
@pytest.mark.parametrize("name", RUNS)
def test_a_message_that_inversion_reads_under_noise_holds_the_noise_of_the_run_s_own(
    name: str, colluders: int
) -> None:
    run = asked(name)
    assert run.privacy is not None
    trust = run.privacy.trust.model_copy(update={"colluders": colluders})
    run = run.model_copy(update={"privacy": run.privacy.model_copy(update={"trust": trust})})
    rehearsed = control.noised(run, 1.0, 4.0)
    assert of_one_message(rehearsed) == of_one_message(run)
    assert rehearsed.sealing == run.sealing


def test_a_configuration_that_no_run_could_have_is_not_rehearsed() -> None:
    run = asked("hedge, clients").model_copy(update={"sealing": NoSealing()})
    schedule = plain_schedule(run, LAYOUT, 1)
    stage = Stage(run, ToyTrainer(), np.zeros(DIMENSION, np.float32), schedule)
    with pytest.raises(ConfigError, match="single shares"):
        rehearse(stage, {f"silo{i}": part for i, part in enumerate(split(examples(64), PARTIES))})


def test_a_setting_that_the_rules_forbid_is_not_applicable_with_the_rule_as_its_reason() -> None:
    """A codec that is learned has no source in the control's plain averaging."""
    asked_codec = control.coded(asked("dr_encoder, clients"), asked("dr_encoder, clients").codec)
    stage = Stage(
        asked_codec, ToyTrainer(), np.zeros(DIMENSION, np.float32), plain_schedule(asked_codec, LAYOUT, 2)
    )
    with pytest.raises(ConfigError) as refused:
        rehearse(stage, {})
    row = control.refused("invert.latent", "codec autoencoder", "a code", refused.value)
    assert row.verdict == "not applicable"
    assert row.text.startswith("Refused by the run itself: codec.kind learns from")
    assert "\n" not in row.text
