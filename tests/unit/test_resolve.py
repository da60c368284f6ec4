"""Noise that is calibrated to the worst observer, and what the trust model refuses."""

from __future__ import annotations

from typing import Any

import pytest
from support.toy import config

from privet.config import Config
from privet.errors import PrivetError
from privet.resolve import Resolved, resolve

DIMENSION = 100


def aiming(target: float, **sections: Any) -> Config:
    privacy = {"noise_multiplier": None, "target_epsilon": target} | sections.pop("privacy", {})
    return config(insecure_test_seed=None, privacy=privacy, **sections)


def spent(resolved: Resolved, observer: str | None = None) -> float:
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    return ledger.epsilon(observer).value


CLIENT = {"unit": "client", "relation": "zero-out"}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("hedge", {}, 4),
    # Here alone the observers differ: a participant knows one share of the noise, the server none.
    ("hedge, nobody colludes", {"privacy": {"trust": {"colluders": 0}}}, 4),
    ("hedge, 3 colluders", {"privacy": {"trust": {"colluders": 3}}}, 6),
    ("hedge, a colluder opens contributions", {"sealing": {"kind": "encrypted"}}, 4),
    ("hedge, dropouts", {"schedule": {"min_survivors": 4}, "privacy": {"trust": {"colluders": 2}}}, 7),
    ("hedge, clients", {"privacy": CLIENT}, 5),
    ("hedge, replaced clients", {"privacy": CLIENT | {"relation": "replace-one"}}, 5),
    ("dp_lora", {"system": {"kind": "dp_lora"}, "sealing": {"kind": "none"}}, 3),
]


@pytest.mark.parametrize(("name", "sections", "parties"), CASES)
@pytest.mark.parametrize("target", [0.7, 6.0])
def test_the_worst_observer_of_the_trust_model_gets_the_target(
    name: str, sections: dict[str, Any], parties: int, target: float
) -> None:
    """Never above it, and not far below: noise costs accuracy. Coalitions beyond the model may see more."""
    resolved = resolve(aiming(target, **sections), dimension=DIMENSION, parties=parties)
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    table = ledger.epsilons()
    inside = {o.name: table[o.name].value for o in ledger.trust.observers() if o.inside}
    assert max(inside.values()) <= target
    assert max(inside.values()) > 0.97 * target
    assert "server" in inside
    assert "participant" in inside


@pytest.mark.parametrize(
    ("level", "parties", "colluders", "shares"),
    [
        ("encrypted", 4, 1, 1),
        ("encrypted", 4, 0, 4),
        ("encrypted+masked", 4, 1, 3),
        ("masked", 7, 4, 3),
        ("masked", 7, 5, 1),
    ],
)
def test_shares_that_the_server_and_the_colluders_see_apart_do_not_add_up(
    level: str, parties: int, colluders: int, shares: int
) -> None:
    """Their noise against the server: all honest shares of a sum, or the one in a contribution that they can open."""
    sections: dict[str, Any] = {"sealing": {"kind": level}, "privacy": {"trust": {"colluders": colluders}}}
    resolved = resolve(config(**sections), dimension=DIMENSION, parties=parties)
    trust, mechanism = resolved.trust, resolved.system.mechanism
    assert mechanism is not None
    seen = trust.promised(trust.observer("server")) * mechanism.std_steps
    assert seen == pytest.approx(mechanism.share_std_steps * shares**0.5)


def test_the_target_becomes_the_budget() -> None:
    """The planned rounds fit into it, one more does not; a round that is charged twice is one more."""
    resolved = resolve(aiming(3.0), dimension=DIMENSION, parties=4)
    privacy = resolved.config.privacy
    assert privacy is not None
    assert privacy.max_epsilon == 3.0
    assert privacy.target_epsilon is None
    ledger = resolved.ledger()
    for _ in range(resolved.config.schedule.rounds):
        assert ledger.admit(resolved.system.release)
    more = 0
    while ledger.admit(resolved.system.release):
        more += 1
    assert more == 0
    assert ledger.epsilon().value <= 3.0


def test_more_rounds_or_colluders_need_more_noise_and_more_survivors_less_each() -> None:
    def share(colluders: int, rounds: int = 4, parties: int = 6) -> float:
        asked = aiming(2.0, schedule={"rounds": rounds}, privacy={"trust": {"colluders": colluders}})
        mechanism = resolve(asked, dimension=DIMENSION, parties=parties).system.mechanism
        assert mechanism is not None
        return mechanism.share_std_steps * mechanism.grid.step

    # A participant takes off its own share whether or not anybody colludes.
    assert share(0) == pytest.approx(share(1))
    assert share(1) < share(2) < share(3)
    assert share(1) < share(1, rounds=16)
    assert share(1, parties=12) < share(1)


def test_a_resolved_configuration_resolves_to_itself() -> None:
    """A report or a resumed run that starts from ``resolved.yaml`` finds the same noise."""
    first = resolve(
        aiming(2.0, privacy={"clip_norm": "public"}), dimension=DIMENSION, parties=4, clip_norm=0.3
    )
    again = resolve(first.config, dimension=DIMENSION, parties=4, clip_norm=99.0)
    assert again.config == first.config
    assert again.system.mechanism == first.system.mechanism
    assert again.facts.clip_norm == 0.3


def test_epsilon_does_not_depend_on_the_clip_norm() -> None:
    values = {
        spent(
            resolve(aiming(2.0, privacy={"clip_norm": "public"}), dimension=DIMENSION, parties=4, clip_norm=c)
        )
        for c in (1e-3, 1.0, 50.0)
    }
    assert max(values) == pytest.approx(min(values), rel=1e-6)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"schedule": {"min_survivors": 5}}, "schedule.min_survivors"),
        ({"privacy": {"trust": {"colluders": 4}}}, "privacy.trust.colluders"),
    ],
)
def test_what_no_four_clients_can_promise(sections: dict[str, Any], field: str) -> None:
    with pytest.raises(PrivetError) as caught:
        resolve(config(**sections), dimension=DIMENSION, parties=4)
    assert caught.value.field == field
    assert caught.value.allowed
    assert "at most" in caught.value.allowed


def test_without_privacy_there_is_no_epsilon() -> None:
    fedavg = config(system={"kind": "fedavg"}, privacy=None)
    resolved = resolve(fedavg, dimension=DIMENSION, parties=3)
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    assert ledger.epsilon().reason
