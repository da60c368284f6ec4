"""A site's own limits: what it refuses to join, what it refuses to answer, and its account across runs."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.encoder import LAYOUT, encoder
from support.toy import DIMENSION, config, examples, federation, split

from privet.config import Config
from privet.data_config import JsonlData
from privet.engines.homes import SiteSettings
from privet.engines.party import at_site
from privet.errors import PrivetError
from privet.keys import SecretStore
from privet.plan import planned_ledger
from privet.privacy.accountants import adaptive, headline
from privet.privacy.events import Release, Sampling
from privet.privacy.ledger import Ledger
from privet.protocol import RoundId
from privet.resolve import Resolved, resolve
from privet.sealing.base import SealingRefused
from privet.site_ledger import ENTRY, SiteLedger
from privet.site_policy import SitePolicy, refusals


def resolved(asked: Config | None = None, parties: int = 4) -> Resolved:
    return resolve(asked or config(insecure_test_seed=None), dimension=DIMENSION, parties=parties)


def ledger(folder: Path, **limits: Any) -> SiteLedger:
    return SiteLedger(SecretStore(folder), SitePolicy(**limits))


@pytest.mark.parametrize(
    ("limits", "asked", "reason"),
    [
        ({"systems": ("dp_lora",)}, {}, "policy-system"),
        ({"sealing": ("encrypted+masked",)}, {}, "policy-sealing"),
        ({"minimum_cohort": 5}, {}, "policy-cohort"),
        ({"models": ("smollm2-135m-instruct",)}, {}, "policy-model"),
        ({}, {"insecure_test_seed": 7}, "policy-test-seed"),
        ({}, {"engine": {"deterministic_units": False}}, "policy-arithmetic"),
        ({}, {"privacy": {"trust": {"colluders": 0}}}, "policy-colluders"),
        ({"colluders": 2}, {}, "policy-colluders"),
    ],
)
def test_what_a_policy_does_not_allow_is_named(
    limits: dict[str, Any], asked: dict[str, Any], reason: str
) -> None:
    found = refusals(SitePolicy(**limits), resolved(config(**{"insecure_test_seed": None, **asked})))
    assert [each.reason for each in found] == [reason]
    assert "this site allows" in found[0].detail


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({}, {}),
        ({"colluders": 3}, {"system": {"kind": "dp_lora"}}),  # whole noise assumes nothing of others
        ({"max_epsilon": None}, {"engine": {"deterministic_units": False}}),
        ({}, {"privacy": {"unit": "client", "relation": "zero-out"}}),  # whose records may share passes
    ],
)
def test_a_run_within_the_limits_is_not_refused(limits: dict[str, Any], asked: dict[str, Any]) -> None:
    assert refusals(SitePolicy(**limits), resolved(config(insecure_test_seed=None, **asked))) == []


def test_a_run_that_plans_more_epsilon_than_allowed_is_refused(tmp_path: Path) -> None:
    run = resolved()
    planned = run.ledger()
    planned.charge(run.system.release.times(4))  # type: ignore[union-attr]  # hedge has a Gaussian release
    epsilon = planned.epsilon().value
    ledger(tmp_path / "a", max_epsilon=epsilon * 1.001).open("run", run)
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path / "b", max_epsilon=epsilon * 0.999).open("run", run)


def test_epsilon_adds_up_over_runs_and_survives_the_process(tmp_path: Path) -> None:
    run = resolved()
    account = ledger(tmp_path, max_epsilon=100).open("first", run)
    for number in range(4):
        account.admit(RoundId(number))
    one = ledger(tmp_path).epsilon()
    second = ledger(tmp_path, max_epsilon=100).open("second", run)
    second.admit(RoundId(0))
    assert ledger(tmp_path).epsilon() > one > 0
    assert stat.S_IMODE((tmp_path / ENTRY).stat().st_mode) == 0o600
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path, max_epsilon=one * 1.1).open("third", run)
    # A run that was charged already and is gone on with is not counted twice.
    ledger(tmp_path, max_epsilon=ledger(tmp_path).epsilon() * 1.001).open("first", run)


def test_more_answers_than_planned_stop_at_the_sites_epsilon(tmp_path: Path) -> None:
    run = resolved()
    planned = run.ledger()
    planned.charge(run.system.release.times(4))  # type: ignore[union-attr]  # hedge has a Gaussian release
    account = ledger(tmp_path, max_epsilon=planned.epsilon().value * 1.0001, max_attempts=99).open("run", run)
    for number in range(4):
        account.admit(RoundId(number, 1))
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        account.admit(RoundId(4))
    assert account.charged(account.site.runs()).total() == 4


def test_two_jobs_of_a_site_see_each_others_charges(tmp_path: Path) -> None:
    run = resolved()
    one, two = (ledger(tmp_path, max_epsilon=1e6).open(name, run) for name in ("one", "two"))
    one.admit(RoundId(0))
    two.admit(RoundId(0))
    assert sorted(ledger(tmp_path).runs()) == ["one", "two"]


def test_what_another_job_charges_meanwhile_is_no_loss(tmp_path: Path) -> None:
    """The ledger is read without its lock; another job's charge between two reads is in the later one."""

    class Store(SecretStore):
        reading = False

        def read(self, name: str) -> bytes:
            content = super().read(name)
            if Store.reading:
                Store.reading = False
                other.admit(RoundId(1))
            return content

    runs = tmp_path / "runs"
    runs.mkdir()
    policy = SitePolicy(max_epsilon=1e6)
    other = SiteLedger(SecretStore(tmp_path / "ledger"), policy, runs).open("other", resolved())
    other.admit(RoundId(0))
    Store.reading = True
    site = SiteLedger(Store(tmp_path / "ledger"), policy, runs)
    assert site.runs()["other"].releases
    assert not Store.reading
    assert other.charged(site.runs()).total() == 2
    site.store.path(ENTRY).unlink()
    with pytest.raises(PrivetError, match="lacks answers"):
        site.runs()


def test_attempts_at_a_round_are_limited_by_the_site(tmp_path: Path) -> None:
    account = ledger(tmp_path, max_epsilon=None, max_attempts=2).open("run", resolved())
    account.admit(RoundId(0, 0))
    account.admit(RoundId(0, 1))
    with pytest.raises(SealingRefused, match="policy-attempts"):
        account.admit(RoundId(0, 2))


def test_a_run_without_epsilon_needs_a_policy_without_limit(tmp_path: Path) -> None:
    plain = resolved(config(insecure_test_seed=None, system={"kind": "fedavg"}, privacy=None))
    with pytest.raises(SealingRefused, match="no finite epsilon"):
        ledger(tmp_path).open("run", plain)
    account = ledger(tmp_path, max_epsilon=None).open("run", plain)
    account.admit(RoundId(0))
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path, max_epsilon=1000).open("next", resolved())


def test_runs_that_may_follow_from_each_other_are_added_up_as_such(tmp_path: Path) -> None:
    """A server that picks the second run by what the first told it gets more than both are worth when fixed before.

    With a Gaussian of mu = 1.3 and then, by its outcome, one that fills the budget or one of q = 1.5e-5 and sigma =
    0.15, delta at epsilon 8 is twice 1e-5, where either pair alone has 1e-5.
    """
    one = Release("first", 1 / 1.3)
    two = [Release("second", 0.15, 1, Sampling("poisson", 1.5e-5))]
    fixed = headline([one, *two], 1e-5, "add-remove")
    assert fixed < 8.1
    assert adaptive([one, *two], 1e-5, "add-remove", 8.0) > fixed + 0.01
    run = resolved()
    alone = planned_ledger(run).epsilon().value
    assert alone is not None
    trust = planned_ledger(run).trust
    both = headline(2 * trust.seen_by(trust.worst, planned_ledger(run).releases), 1e-5, "add-remove")
    site = ledger(tmp_path, max_epsilon=both * 1.001)
    first = site.open("first", run)
    for number in range(4):
        first.admit(RoundId(number))
    assert site.epsilon() == pytest.approx(alone), "one run is worth what it says itself"
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        site.open("second", run)
    ledger(tmp_path, max_epsilon=both * 1.5).open("second", run).admit(RoundId(0))
    assert site.epsilon() > alone
    assert site.summary()["delta"] == 2e-5, "whether there is a second run may follow from the first"


def test_a_summary_tells_each_run_for_the_site_s_own_delta(tmp_path: Path) -> None:
    """A run that was accounted for at a larger delta has a smaller epsilon of its own, which is not the site's."""
    loose = resolved(config(insecure_test_seed=None, privacy={"delta": 1e-2}))
    ledger(tmp_path).open("loose", loose).admit(RoundId(0))
    said, own = ledger(tmp_path).summary(), ledger(tmp_path).runs()["loose"].epsilon().value
    assert own is not None
    assert said["runs"] == {"loose": said["epsilon"]}
    assert said["epsilon"] > own


@pytest.mark.parametrize(
    "asked",
    [
        {"privacy": {"unit": "client", "relation": "zero-out"}},  # a record moves an update by up to 2C
        {"privacy": {"relation": "replace-one"}},
    ],
)
def test_what_was_charged_for_another_unit_or_relation_is_not_counted_as_this_ones(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    """A site without a limit may take part in any run; the limit that it sets later cannot be kept any more."""
    other = resolved(config(insecure_test_seed=None, **asked))
    ledger(tmp_path, max_epsilon=None).open("run", other).admit(RoundId(0))
    assert ledger(tmp_path).epsilon() == float("inf")
    assert ledger(tmp_path).summary()["epsilon"] is None
    assert ledger(tmp_path).summary()["runs"] == {"run": None}, "JSON has no infinity"
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path, max_epsilon=1e6).open("next", resolved())


def test_a_run_that_was_charged_cannot_come_back_with_a_kinder_trust_model(tmp_path: Path) -> None:
    """With nobody colluding a participant takes off one share of four; under the other model it would not count."""
    strict = resolved(config(insecure_test_seed=None, privacy={"trust": {"colluders": 0}}))
    account = ledger(tmp_path, max_epsilon=100).open("run", strict)
    for number in range(4):
        account.admit(RoundId(number))
    spent = ledger(tmp_path).epsilon()
    with pytest.raises(SealingRefused, match="policy-other-run"):
        ledger(tmp_path, max_epsilon=100).open("run", resolved()).admit(RoundId(4))
    assert ledger(tmp_path).epsilon() == spent
    ledger(tmp_path, max_epsilon=100).open("run", strict).admit(RoundId(4))
    assert ledger(tmp_path).epsilon() > spent


def test_what_was_found_affordable_is_not_believed_of_another_noise(tmp_path: Path) -> None:
    """A site resolves a run twice, at last with its model; the second time a release may cost more."""
    run = resolved()
    weaker = resolved(config(insecure_test_seed=None, privacy={"noise_multiplier": 0.5}))
    site = ledger(tmp_path, max_epsilon=planned_ledger(run).epsilon().value * 1.001)
    account = site.open("run", run)
    account.resolved = weaker

    def all_rounds() -> None:
        for number in range(4):
            account.admit(RoundId(number))

    with pytest.raises(SealingRefused, match="policy-epsilon"):
        all_rounds()
    assert site.epsilon() <= planned_ledger(run).epsilon().value * 1.001


def test_no_server_declares_a_sites_records_public() -> None:
    """What is public fits codecs without noise, so a share of the site's own file must not become it."""
    named = {
        "kind": "jsonl",
        "path": "server.jsonl",
        "test_public": True,
        "split": {"test": 0.2, "public": 0.5},
    }
    here = at_site(config().model_copy(update={"data": JsonlData(**named)}), SiteSettings(data="own.jsonl"))
    assert isinstance(here.data, JsonlData)
    assert (here.data.path, here.data.split.public, here.data.test_public) == ("own.jsonl", 0.0, False)


def test_another_unit_has_another_ledger(tmp_path: Path) -> None:
    client = config(insecure_test_seed=None, privacy={"unit": "client", "relation": "zero-out"})
    with pytest.raises(SealingRefused, match="policy-unit"):
        ledger(tmp_path, max_epsilon=100).open("run", resolved(client))


def test_a_damaged_ledger_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    SecretStore(tmp_path / "l").write(ENTRY, b"{}")
    with pytest.raises(Exception, match="damaged"):
        ledger(tmp_path / "l").epsilon()


@pytest.mark.parametrize("name", ["../x", "", "A", "a/b", "x" * 65])
def test_a_run_cannot_choose_where_the_site_writes(tmp_path: Path, name: str) -> None:
    with pytest.raises(SealingRefused, match="bad-run-name"):
        ledger(tmp_path).open(name, resolved())


def test_the_local_engines_client_asks_its_guard_before_it_answers(tmp_path: Path) -> None:
    """The release is on the site's disk before the answer; a refusing site's records stay out of the sum."""
    asked = config(schedule={"min_survivors": 3})
    f = federation(asked, split(examples(80), 4))
    sites = [ledger(tmp_path / str(i), max_epsilon=None, max_attempts=1) for i in range(4)]
    for i, site in enumerate(sites):
        f.clients[i].guard = site.open("run", resolved(asked))
    first = f.clients[0].guard
    assert first is not None

    def refuse(due: RoundId) -> None:
        raise SealingRefused("policy-attempts", "")

    first.admit = refuse  # type: ignore[method-assign]  # a site that refuses everything
    rows: list[dict[str, Any]] = []
    f.server.observe = lambda kind, facts: rows.append({"kind": kind, **facts})
    f.engine.run(f.server.steps())
    rounds = [row for row in rows if row["kind"] == "round"]
    assert len(rounds) == 4
    assert all(row["survivors"] == [1, 2, 3] for row in rounds)
    assert rounds[0]["missing"]["0"] == "refused: policy-attempts"
    kept = json.loads((tmp_path / "1" / ENTRY).read_text(encoding="utf-8"))["runs"]["run"]["events"]
    assert kept[0]["type"] == "no-guarantee", "its noise is that of a test seed"
    assert [event["count"] for event in kept[1:]] == [4]
    assert ENTRY not in sites[0].store


def test_trap_11_a_site_charges_both_stages_of_dr_encoder(tmp_path: Path) -> None:
    """The plan that a site checks holds both, and each answer is charged as what it is."""
    run = resolve(encoder(insecure_test_seed=None), dimension=DIMENSION, parties=4, layout=LAYOUT)
    planned = planned_ledger(run)
    epsilon = planned.epsilon().value
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path / "a", unit="client", relation="zero-out", max_epsilon=epsilon * 0.999).open("r", run)
    site = ledger(tmp_path / "b", unit="client", relation="zero-out", max_epsilon=epsilon * 1.0001)
    account = site.open("r", run)
    for number in range(run.rounds):
        account.admit(RoundId(number))
    assert site.runs()["r"].releases == planned.releases
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        account.admit(RoundId(0, 1))


def test_a_site_does_not_lend_what_one_stage_is_planned_to_another(tmp_path: Path) -> None:
    """Stage 1 once more counts as one more of each: whether it happens may follow from what it told."""
    planned = [
        Release("stage 1", 2.0, 3, Sampling.poisson(0.1)),
        Release("stage 2", 1.5, 6, Sampling.poisson(0.1)),
    ]
    site = ledger(tmp_path, max_epsilon=8.0)

    def asked(*releases: Release) -> float:
        return site.epsilon(
            {"r": Ledger("record", "add-remove", site.policy.delta, releases=releases)}, planned
        )

    def whole(first: int, second: int) -> float:
        releases = [planned[0].times(first), planned[1].times(second)]
        return headline(releases, site.policy.delta, "add-remove")

    assert asked(planned[0]) == headline([planned[0]], site.policy.delta, "add-remove")
    assert asked(planned[0].times(1), planned[1].times(2)) == whole(3, 2)
    assert asked(planned[0].times(4)) == asked(planned[0], planned[1].times(7)) == whole(4, 7)
    farther = replace(planned[0].times(1), name="by its real layout", delta_prime=1e-30)
    assert asked(farther, planned[0].times(2)) == pytest.approx(asked(planned[0])), (
        "one kind, whatever it is called"
    )


def test_noise_of_a_test_seed_is_no_noise_to_a_site(tmp_path: Path) -> None:
    """A site that allows such runs remembers that they promised nothing, and never claims a finite epsilon again."""
    seeded = resolved(config(insecure_test_seed=5))
    with pytest.raises(SealingRefused, match=r"no finite epsilon \(insecure_test_seed.*this site allows 100"):
        ledger(tmp_path, max_epsilon=100).open("test", seeded)
    ledger(tmp_path, max_epsilon=None).open("test", seeded).admit(RoundId(0))
    assert ledger(tmp_path, max_epsilon=None).summary()["epsilon"] is None
    with pytest.raises(SealingRefused, match="policy-epsilon"):
        ledger(tmp_path, max_epsilon=100).open("real", resolved())
