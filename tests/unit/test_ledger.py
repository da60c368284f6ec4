"""The ledger: what it holds, when it stops a run, what each observer is told, how it is stored."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from privet.errors import PrivetError
from privet.privacy.accountants import CLT_WARNING, compute, headline
from privet.privacy.events import AnyRelease, NoGuarantee, Relation, Release, Sampling, Shares
from privet.privacy.ledger import Ledger, events_from_json, reaccount
from privet.privacy.observers import TrustModel
from privet.privacy.statement import privacy_statement
from privet.sealing.base import openers

ROUND = Release("round", 1.1, sampling=Sampling.poisson(0.02), delta_prime=1e-30)
FOUR = TrustModel(parties=4, min_survivors=4)


def stored(ledger: Ledger) -> str:
    return json.dumps(ledger.to_json())


def reloaded(ledger: Ledger) -> Ledger:
    return Ledger.from_json(json.loads(stored(ledger)))


# --- the filter


def test_the_run_stops_before_the_release_that_would_exceed() -> None:
    ledger = Ledger("record", "add-remove", 1e-5, 1.0)
    admitted = 0
    while ledger.admit(ROUND):
        admitted += 1
    assert ledger.epsilon().value <= 1.0
    assert compute([ROUND.times(admitted + 1)], 1e-5, "add-remove").value > 1.0
    assert not ledger.admit(ROUND), "and it stays stopped"
    assert ledger.epsilon().value <= 1.0


def test_a_calibrated_plan_is_admitted_to_its_last_round_and_no_further() -> None:
    """The target is exact for the worst observer: the participant, who knows one share of four."""
    rounds, target = 40, 2.0
    planning = Ledger("record", "add-remove", 1e-5, target, trust=FOUR)
    sigma = planning.calibrate(
        lambda s: [Release("round", s, rounds, Sampling.poisson(0.05), delta_prime=1e-30)], target
    )
    release = Release("round", sigma, sampling=Sampling.poisson(0.05), delta_prime=1e-30)
    running = Ledger("record", "add-remove", 1e-5, target, trust=FOUR)
    assert [running.admit(release) for _ in range(rounds)] == [True] * rounds
    assert 0.998 * target <= running.epsilon("participant").value <= target
    assert running.epsilon("server").value < running.epsilon("participant").value
    while running.admit(release):
        pass
    assert running.epsilon("participant").value <= target, "the worst observer decides, not the server"


def test_the_filter_asks_the_accountant_a_few_times_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def counting(releases: Sequence[AnyRelease], delta: float, relation: Relation) -> float:
        asked.append(headline(releases, delta, relation))
        return asked[-1]

    monkeypatch.setattr("privet.privacy.ledger.headline", counting)
    ledger = Ledger("record", "add-remove", 1e-5, 1.5)
    while ledger.admit(ROUND):
        pass
    rounds = ledger.releases[0]
    assert isinstance(rounds, Release)
    assert rounds.count > 100
    assert len(asked) <= 2 * math.ceil(math.log2(rounds.count)) + 2


def test_a_retry_is_a_release_and_takes_a_round_from_the_budget() -> None:
    untouched, retried = (Ledger("record", "add-remove", 1e-5, 1.0) for _ in range(2))
    rounds = 0
    while untouched.admit(ROUND):
        rounds += 1
    retried.charge(ROUND.times(5))
    with_retry = 5
    retry = Release("round 3 again", 1.1, sampling=Sampling.poisson(0.02), delta_prime=1e-30)
    assert retried.admit(retry), "of the same kind, by another name"
    while retried.admit(ROUND):
        with_retry += 1
    assert with_retry == rounds - 1
    assert retried.epsilon().value <= 1.0
    assert compute([ROUND.times(with_retry + 2)], 1e-5, "add-remove").value > 1.0


FIRST = Release("stage 1", 2.0, sampling=Sampling.poisson(0.1))
SECOND = Release("stage 2", 1.0, sampling=Sampling.poisson(0.1))


def priced(releases: Sequence[AnyRelease], delta: float, relation: Relation) -> float:
    """Stands for the accountant: grows with every release, and not linearly."""
    return float(sum(r.count / r.noise_multiplier for r in releases if isinstance(r, Release)) ** 0.75)


@pytest.mark.parametrize("budget", [2.0, 2.7, 3.9, 5.0])
@pytest.mark.parametrize("counts", [(3, 2), (1, 6)])
def test_whoever_chooses_the_attempts_all_that_could_have_happened_keeps_to_the_budget(
    counts: tuple[int, int], budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sees some outcomes may have more of one kind, and on others more of another."""
    monkeypatch.setattr("privet.privacy.ledger.headline", priced)
    planned = [release.times(count) for release, count in zip((FIRST, SECOND), counts, strict=True)]
    reached, todo = set[tuple[int, int]](), [(0, 0)]
    while todo:
        at = todo.pop()
        if at in reached:
            continue
        reached.add(at)
        charged = [release.times(n) for release, n in zip((FIRST, SECOND), at, strict=True) if n]
        ledger = Ledger("record", "add-remove", 1e-5, budget, releases=charged)
        for release, after in ((FIRST, (at[0] + 1, at[1])), (SECOND, (at[0], at[1] + 1))):
            if not ledger.would_exceed(release, planned):
                todo.append(after)
    first, second = (max(n) for n in zip(*reached, strict=True))
    assert first / 2.0 + second <= budget ** (1 / 0.75) + 1e-9, (
        "the most of the first, the most of the second"
    )
    assert (counts in reached) == (priced(planned, 0.0, "add-remove") <= budget), (
        "what is planned is not refused"
    )


def test_a_stage_that_is_tried_again_is_not_paid_for_by_the_next() -> None:
    """Three releases worth 50 of the second stage: as many as would be left would be up to whoever saw the first."""
    trust, q = TrustModel.local(), Sampling.poisson(0.02)
    planned = [Release("stage 1", 0.411, 3, q), Release("stage 2", 0.559, 50, q)]
    ledger = Ledger("record", "add-remove", 1e-5, 8.0, trust=trust)
    assert ledger.admit(planned[0], planned)
    again = planned[0].times(1)
    exchanged = [planned[0].times(4), planned[1].times(25)]
    assert headline(trust.seen_by(trust.worst, exchanged), 1e-5, "add-remove") < 8.0
    assert ledger.would_exceed(again, planned)
    assert ledger.admit(planned[1], planned), "what was planned goes on"
    assert ledger.would_exceed(planned[1].times(1), planned)


def test_gaussians_on_all_units_are_one_kind() -> None:
    """However they were chosen their sum is a Gaussian, so only what they add up to counts."""
    one, other = Release("a", 2.0), Release("b", 4.0)
    ledger = Ledger("record", "zero-out", 1e-5, 4.0)
    planned = [one.times(1), other.times(1)]
    while ledger.admit(one, planned):
        pass
    assert ledger.epsilon().value <= 4.0
    assert headline([*ledger.releases, one], 1e-5, "zero-out") > 4.0


def test_an_equal_retry_counts_as_one_more_round() -> None:
    ledger = Ledger("record", "add-remove", 1e-5, 1.0)
    ledger.charge(ROUND)
    ledger.charge(ROUND.times(5))
    assert ledger.releases == (ROUND.times(6),)


def test_without_a_budget_everything_is_admitted_and_with_one_nothing_unprotected() -> None:
    unprotected = NoGuarantee("updates", "neither clipped nor noised")
    assert Ledger("client", "zero-out", 1e-5).admit(unprotected)
    budgeted = Ledger("client", "zero-out", 1e-5, 100.0)
    assert not budgeted.admit(unprotected)
    budgeted.charge(unprotected)
    assert not budgeted.admit(ROUND), "what is lost cannot be kept within a budget"


def test_one_large_release_is_not_admitted_at_all() -> None:
    ledger = Ledger("record", "zero-out", 1e-5, 1.0)
    assert not ledger.admit(Release("exactish", 0.1))
    assert ledger.releases == ()
    assert ledger.admit(ROUND)


# --- what it holds


def test_trap_11_dropping_any_event_of_a_stored_ledger_changes_epsilon() -> None:
    ledger = Ledger("record", "add-remove", 1e-5, trust=FOUR)
    for release in (Release("statistics", 20.0, 3), ROUND.times(30), Release("metric", 25.0), ROUND):
        ledger.charge(release)
    whole = ledger.epsilon().value
    for i in range(len(ledger.releases)):
        tampered = ledger.to_json()
        dropped = tampered["events"].pop(i)
        assert Ledger.from_json(tampered).epsilon().value < whole * (1 - 1e-4), dropped


def test_memory_does_not_grow_with_the_length_of_a_run() -> None:
    ledger = Ledger("record", "zero-out", 1e-5)
    for _ in range(1000):
        ledger.charge(ROUND)
    assert len(stored(ledger)) < 1000


EVERY_KIND: list[AnyRelease] = [
    Release("a", 0.1 + 0.2, 7, Sampling.poisson(1 / 3), 1e-300),
    Release("b", 1e-3 * math.pi, 1, Sampling.fixed(3, 97), cohort="silo 2"),
    Release("c", 8.0, shares=Shares(10, 7, subtract_own=True)),
    NoGuarantee("d", "exact"),
]


def test_storage_is_exact_to_the_bit() -> None:
    ledger = Ledger("client", "replace-one", 1e-6, 3.3, trust=TrustModel(9, 7, 2), releases=EVERY_KIND)
    again = reloaded(ledger)
    assert again.releases == tuple(EVERY_KIND)
    assert stored(again) == stored(ledger)
    assert again.trust == ledger.trust
    assert (again.unit, again.relation, again.delta, again.budget_epsilon) == (
        "client",
        "replace-one",
        1e-6,
        3.3,
    )


def test_a_resumed_ledger_stops_at_the_same_release() -> None:
    straight, resumed = (Ledger("record", "add-remove", 1e-5, 1.0, trust=FOUR) for _ in range(2))
    while straight.admit(ROUND):
        pass
    while True:
        resumed = reloaded(resumed)
        if not resumed.admit(ROUND.times(8)) and not resumed.admit(ROUND):
            break
    assert stored(resumed) == stored(straight)
    assert resumed.epsilons() == straight.epsilons()


def test_anybody_can_account_a_stored_ledger_again() -> None:
    ledger = Ledger("record", "add-remove", 1e-5, trust=FOUR, releases=[ROUND.times(25)])
    again = reaccount(json.loads(stored(ledger)))
    assert again["observers"]["server"]["headline"]["value"] == ledger.epsilon("server").value
    assert again["relation"] == "add-remove"
    assert again["accountant"].startswith("dp-accounting")


def test_foreign_or_broken_ledgers_are_refused() -> None:
    good = Ledger("record", "add-remove", 1e-5, releases=[ROUND]).to_json()
    for broken in (
        {**good, "schema": "privet.dp-event/99"},
        {k: v for k, v in good.items() if k != "trust"},
        {**good, "events": [{"type": "laplace", "name": "a"}]},
        {**good, "events": [{**good["events"][0], "noise_multiplier": -1.0}]},
        {**good, "events": [{**good["events"][0], "surprise": 1}]},
        {**good, "unit": "person"},
        {**good, "budget_epsilon": 0.0},
    ):
        with pytest.raises(PrivetError):
            Ledger.from_json(broken)
    with pytest.raises(PrivetError):
        events_from_json([{"type": "laplace"}])


# --- who sees what


def test_the_declared_floor_decides_not_the_survivors() -> None:
    trust = TrustModel(parties=10, min_survivors=8, colluders=2)
    assert trust.floor == 6
    assert {o.name: trust.promised(o) for o in trust.observers() if o.inside} == {
        "server": 1.0,
        "participant": 1.0,
        "colluders": 1.0,
        "public": 1.0,
    }
    ledger = Ledger("record", "add-remove", 1e-5, trust=trust, releases=[Release("a", 4.0, 5)])
    promised = compute([Release("a", 4.0, 5)], 1e-5, "add-remove").value
    assert ledger.epsilon().value == promised
    everybody = ledger.diagnostic(10)
    assert everybody["server"] == pytest.approx(compute([Release("a", 4.0 * (8 / 6) ** 0.5, 5)], 1e-5).value)
    assert ledger.epsilon("server").value == promised, "ten survivors do not change the promise"


def test_a_participant_takes_off_its_own_share() -> None:
    assert FOUR.worst.name == "participant"
    assert FOUR.promised(FOUR.worst) == pytest.approx(math.sqrt(3 / 4))
    ledger = Ledger("record", "zero-out", 1e-5, trust=FOUR, releases=[Release("a", 4.0)])
    assert ledger.epsilon("participant").value == pytest.approx(
        compute([Release("a", 4.0 * math.sqrt(3 / 4))], 1e-5).value
    )
    assert ledger.epsilon("server").value == compute([Release("a", 4.0)], 1e-5).value
    spare = TrustModel(parties=4, min_survivors=4, floor=3)
    assert spare.promised(spare.worst) == 1.0, "a floor of one less covers the participant"
    assert spare.promised(spare.observer("server")) == 1.0, "and no more than the floor is promised"


def test_a_coalition_larger_than_assumed_is_shown_as_outside() -> None:
    (coalition,) = (o for o in FOUR.observers() if o.name == "colluders")
    assert not coalition.inside
    assert FOUR.promised(coalition) == pytest.approx(math.sqrt(2 / 4))
    assert FOUR.worst.name == "participant", "a target epsilon does not cover it"
    three = {o.name: o for o in FOUR.observers(colluding=3)}["colluders"]
    assert FOUR.promised(three) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("openers", "colluders", "server"),
    [(0, 1, 1.0), (1, 0, 1.0), (1, 1, math.sqrt(1 / 6)), (6, 5, 1.0), (5, 5, math.sqrt(1 / 2)), (1, 6, 1.0)],
)
def test_who_can_open_one_contribution_is_left_with_one_share(
    openers: int, colluders: int, server: float
) -> None:
    """As ``encrypted`` (1) and masks (t of n) are; alone, no participant ever sees another's contribution."""
    trust = TrustModel(7, 7, colluders, openers=openers)
    assert trust.promised(trust.observer("server")) == pytest.approx(server)
    assert trust.promised(trust.observer("public")) == 1.0
    taken_off = math.sqrt(6 / 7) if colluders == 0 else 1.0
    assert trust.promised(trust.observer("participant")) == pytest.approx(taken_off)
    assert trust.promised(trust.worst) == min(trust.promised(o) for o in trust.observers() if o.inside)
    opened = 0 < openers <= colluders
    assert ("opens single contributions" in trust.observer("server").description) == opened
    assert ("one share of the noise is all" in trust.describe()) == opened


@pytest.mark.parametrize(
    ("parties", "floor", "least"),
    [(3, 1, 3), (4, 3, 2), (4, 4, 3), (5, 4, 3), (10, 7, 4), (10, 9, 4), (10, 10, 7)],
)
def test_under_masks_a_server_that_cheats_needs_fewer_unless_all_survivors_are_demanded(
    parties: int, floor: int, least: int
) -> None:
    """Two sets that differ by one party take t signatures each; with everybody demanded there is one set only."""
    for level in ("masked", "encrypted+masked"):
        assert openers(level, parties, floor) == least
    promise = TrustModel(10, 7, 4, openers=openers("masked", 10, 7))
    assert promise.promised(promise.observer("server")) == pytest.approx(math.sqrt(1 / 3))


def test_two_and_the_server_are_shown_with_what_they_can_open() -> None:
    shown = {level: TrustModel(4, 4, 0, openers=openers(level, 4, 4)) for level in ("encrypted", "masked")}
    assert shown["encrypted"].promised(shown["encrypted"].observer("colluders")) == math.sqrt(1 / 4)
    assert shown["masked"].promised(shown["masked"].observer("colluders")) == pytest.approx(math.sqrt(2 / 4))
    assert TrustModel(4, 4, noise="local", openers=1).promised(FOUR.observer("colluders")) == 1.0
    with pytest.raises(PrivetError, match="trust model"):
        TrustModel(4, 4, openers=-1)


def test_local_noise_is_the_same_for_everybody() -> None:
    trust = TrustModel.local(5)
    ledger = Ledger("record", "add-remove", 1e-5, trust=trust, releases=[Release("a", 4.0)])
    assert len({e.value for e in ledger.epsilons().values()}) == 1
    assert "adds all of its noise itself" in trust.describe()


def test_an_observer_who_knows_every_share_has_no_guarantee() -> None:
    pair = TrustModel(parties=3, min_survivors=1)
    ledger = Ledger("record", "add-remove", 1e-5, trust=pair, releases=[Release("a", 4.0)])
    assert ledger.epsilon("server").value < math.inf
    assert ledger.epsilon().reason is not None
    assert ledger.epsilon().value == math.inf


@pytest.mark.parametrize(
    "arguments", [(3, 4), (3, 0), (3, 3, 3), (3, 3, -1), (3, 3, 0, 4), (3, 3, 1, 3), (0, 0)]
)
def test_trust_models_that_do_not_add_up_are_refused(arguments: tuple[int, ...]) -> None:
    names = ("parties", "min_survivors", "colluders", "floor")
    stated: dict[str, Any] = dict(zip(names, arguments, strict=False))
    with pytest.raises(PrivetError, match="trust model"):
        TrustModel(**stated)
    with pytest.raises(PrivetError, match="no such observer"):
        FOUR.observer("neighbour")


# --- the statement


def statement(ledger: Ledger, survivors: int | None = None) -> dict[str, object]:
    return privacy_statement(
        ledger,
        mechanism="sum of clipped gradients + Gaussian shares",
        clip_norm=1.0,
        noise_multiplier=1.1,
        fewest_survivors=survivors,
    )


def test_no_epsilon_without_observer_unit_relation_and_delta() -> None:
    ledger = Ledger("record", "add-remove", 1e-5, 8.0, trust=FOUR, releases=[ROUND.times(40)])
    said = json.loads(json.dumps(statement(ledger, survivors=4)))
    assert (said["schema"], said["unit"], said["relation"], said["delta"]) == (
        "privet.privacy/1",
        "record",
        "add-remove",
        1e-5,
    )
    for name, row in said["epsilon"].items():
        assert row["value"] == ledger.epsilon(name).value
        assert row["method"] == "pld"
        assert row["rdp"] > row["value"]
        assert row["clt_note"] == CLT_WARNING
        assert row["observer"]
    assert not said["epsilon"]["colluders"]["inside_trust_model"]
    assert said["epsilon"]["participant"]["value"] > said["epsilon"]["server"]["value"]
    for word in ("add-remove", "1e-05", "training record", "participant"):
        assert word in said["guarantee"]
    assert said["sampling"] == [{"kind": "poisson", "rate": 0.02}]
    assert said["releases"] == ledger.to_json()["events"]
    assert said["accountant"].startswith("dp-accounting")
    assert said["diagnostic"]["fewest_survivors"] == 4
    assert 0 < said["delta_prime"] < 1e-25


def test_no_finite_epsilon_is_the_word_none_and_the_reason() -> None:
    ledger = Ledger("client", "zero-out", 1e-5, releases=[NoGuarantee("updates", "not noised")])
    said = statement(ledger)
    assert said["epsilon"] == "none"
    assert said["reason"] == "updates: not noised"
    assert said["guarantee"] == "No finite epsilon: updates: not noised."


def test_trap_13_search_over_hyper_parameters_is_disclosed() -> None:
    said = json.dumps(statement(Ledger("record", "add-remove", 1e-5, releases=[ROUND]))["not_covered"])
    assert "hyper-parameters" in said
    assert "Groups" in said
