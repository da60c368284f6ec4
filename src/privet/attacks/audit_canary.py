"""``audit.canary``: canaries in or out by coin, all releases of a run, and how well an observer tells which were in.

The configuration runs again through its own protocol with canaries (`planting.py`) in the place of records or
clients; the observer knows everything else, as differential privacy assumes, so nothing else takes part. It
scores each canary by the opened sums' component along it, after taking off the noise shares of the colluders
that the trust model allows.

- At full participation the scores' distance in standard deviations *is* mu, so an audit sees whether the noise,
  the clip and the shares are what the ledger charges. Halved noise, noise over sqrt(n) and a missing clip are
  found.
- Under Poisson sampling at a small rate the sum over rounds shows next to nothing, whatever the noise. So a
  configuration that samples is audited twice: as it is, with the power that this has; and with every record in
  every round, against what the ledger charges for that.

Each row has a control, the same with half of every noise share, and says what it could have found
(`canary_power.py`). The bound on mu is parametric (`gdp.py`); `audit_one_run.py` bounds the same scores without
believing in a law.
"""

from __future__ import annotations

import math
from dataclasses import replace

from privet.attacks import audit_one_run, canary_power
from privet.attacks.canary_scores import MOST_CANARIES, MOST_RUNS, Plan, Scores, score
from privet.attacks.finding import IN_DOUBT, LEVEL, Finding, Verdict
from privet.attacks.gdp import epsilon_of_mu, mu_of_epsilon
from privet.attacks.rehearsal import APART, everybody_in, of_another_run
from privet.codec_schedule import CodecSchedule
from privet.config import Config
from privet.privacy.ledger import Ledger
from privet.report import numbers
from privet.resolve import Factors


def findings(
    config: Config,
    dimension: int,
    parties: int,
    plan: Plan,
    *,
    factors: Factors = (),
    schedule: CodecSchedule | None = None,
    alarm: float = 0.01,
) -> list[Finding]:
    """``audit.canary`` and ``audit.one_run`` as configured and, where records are sampled, with all in every round.

    Args:
        config: What runs, with its noise multiplier.
        dimension: Trained values D.
        parties: Enrolled clients.
        plan: Size of the audit.
        factors: Positions of each kind of factor.
        schedule: The codec of each round.
        alarm: Probability at most that one of these rows raises an alarm on an honest run.

    Returns:
        The rows of each setting, then their controls, where there is an epsilon to contradict.
    """
    rate = config.schedule.sampling_rate
    settings = [("as configured", config, plan)]
    if rate is not None and rate < 1 and config.privacy is not None and config.privacy.unit == "record":
        variant = everybody_in(config, batch=float(MOST_CANARIES))
        settings.insert(0, ("every record in every round", variant, _shorter(config, plan)))
    rows: list[Finding] = []
    controls: list[Finding] = []
    for name, variant, size in settings:
        scored = score(variant, dimension, parties, size, factors=factors, schedule=schedule)
        each = alarm / (3 * len(settings))
        setting = f"{name}, {size.rounds} round{'s' if size.rounds > 1 else ''}"
        rows += [_canary_row(scored, config, setting, each), *_one_run_rows(scored, config, setting, each)]
        if accounted(scored) is None:
            continue
        halved = score(
            of_another_run(variant, MOST_RUNS),  # with noise, coins and directions of its own
            dimension,
            parties,
            replace(size, seed=size.seed + APART),
            factors=factors,
            schedule=schedule,
            change=canary_power.with_half_noise,
        )
        controls += [
            _canary_control(halved, config, setting, each),
            *_one_run_controls(halved, config, setting),
        ]
    return rows + controls


def _shorter(config: Config, plan: Plan) -> Plan:
    """So few rounds that mu stays below 3 with every record in each: beyond, nothing can be told from no noise."""
    sigma = (config.privacy.noise_multiplier if config.privacy else None) or 1.0
    steps = config.schedule.local.steps if config.system.kind == "dp_lora" else 1
    rounds = max(1, min(plan.rounds, int(9 * sigma**2 / steps)))
    # The work that fewer rounds leave goes into more canaries, where directions are orthogonal for any number.
    more = min(MOST_CANARIES, plan.canaries * plan.rounds // rounds)
    return replace(plan, rounds=rounds, canaries=more if config.codec.kind == "identity" else plan.canaries)


def accounted(scored: Scores) -> float | None:
    """Epsilon of the worst observer for what the audited run was charged; ``None`` if there is no finite one."""
    epsilons = scored.rehearsed.ledger.epsilon()
    return None if epsilons.reason else epsilons.value


def promise(ledger: Ledger) -> str:
    """The accounted epsilon, rounded up, and what it is about."""
    epsilon, delta = numbers.epsilon(ledger.epsilon().value), numbers.delta(ledger.delta)
    about = f"unit {ledger.unit}, relation {ledger.relation}, against the {ledger.trust.worst.name}"
    return f"epsilon {epsilon} at delta {delta} ({about})"


def _measured(scored: Scores, config: Config, setting: str) -> Finding:
    """What canaries show, without a verdict."""
    delta = config.privacy.delta if config.privacy else 1e-5
    shown = scored.estimate(1 - LEVEL)
    value, low, high = (epsilon_of_mu(mu, delta) for mu in (shown.value, shown.low, shown.high))
    return Finding(
        "audit.canary",
        setting,
        SEES,
        f"epsilon at delta {delta:g}, from mu {_number(shown.value)} [{_number(shown.low)}, {_number(shown.high)}]",
        value,
        low,
        high,
        "parametric: equal normal scores; two one-sided 95 % bounds by Student's non-central t",
        f"{shown.canaries[0]} canaries in, {shown.canaries[1]} out",
        "reported",
    )


def _canary_row(scored: Scores, config: Config, setting: str, alarm: float) -> Finding:
    row = _measured(scored, config, setting)
    claimed = accounted(scored)
    if claimed is None and config.privacy is not None:
        reason = scored.rehearsed.ledger.epsilon().reason
        return row.judged("reported", f"Nothing to hold it against: {reason}.")
    if claimed is None:
        text = "No noise hides a canary, and the run claims no epsilon: this is the positive control of the test."
        return replace(row.judged(_seen(row.low), text), control=True)
    surely = epsilon_of_mu(scored.estimate(alarm).low, config.privacy.delta if config.privacy else 1e-5)
    if surely > claimed:
        text = "The canaries are more visible than the ledger accounts for: noise, clip or account is broken."
        return row.judged("alarm", text, claimed)
    if row.low is not None and row.low > claimed:
        return row.judged("in doubt", IN_DOUBT, claimed)
    told = _power_text(scored, claimed, alarm)
    return row.judged("holds", f"Not above the accounted {promise(scored.rehearsed.ledger)}. {told}", claimed)


def _canary_control(halved: Scores, config: Config, setting: str, alarm: float) -> Finding:
    """The same with half of every noise share: it has to see as much as the power of the row supposes."""
    row = _measured(halved, config, f"{setting}, with half of every noise share")
    claimed, shown = accounted(halved), canary_power.shown_mu(halved, canary_power.HALF)
    assert claimed is not None, "without an epsilon the row itself is the control"
    sure = halved.estimate(alarm)
    seen = row.low is not None and row.low > 0 and sure.high >= canary_power.ENOUGH * shown
    alarmed = epsilon_of_mu(sure.low, halved.rehearsed.ledger.delta) > claimed
    text = (
        f"Canaries are as visible as computed (mu {_number(shown)}), and raise "
        f"{'the alarm' if alarmed else 'no alarm all the same'}."
        if seen
        else f"Canaries are not seen, or less than computed (mu {_number(shown)}): the audit says nothing here."
    )
    verdict: Verdict = "leaks" if seen else "not applicable"
    return replace(row.judged(verdict, text, claimed), control=True, stands_for=setting)


BOUNDS = (
    ("any law", audit_one_run.epsilon_lower_bound, "exact for any (eps, delta)-DP run (arXiv 2305.08846)"),
    (
        "f-DP",
        audit_one_run.epsilon_lower_bound_fdp,
        "against the curve of a Gaussian mechanism with that epsilon (arXiv 2410.22235)",
    ),
)


def _one_run_rows(scored: Scores, config: Config, setting: str, alarm: float) -> list[Finding]:
    delta = config.privacy.delta if config.privacy else 1e-5
    claimed = accounted(scored)
    g = audit_one_run.guess(scored.ratios, scored.inside)
    rows = []
    for name, bound, about in BOUNDS:
        if name == "f-DP" and any(r.sampling.rate < 1 for r in scored.releases):
            continue  # a sampled mechanism's curve is not that of a Gaussian: the test would refute too much
        low = bound(g, delta)
        row = Finding(
            "audit.one_run",
            f"{setting}, {name}",
            SEES,
            f"95 % lower bound on epsilon at delta {delta:g}",
            low,
            low,
            None,
            about,
            f"{g.right} of {g.guesses} guesses right, {g.canaries} canaries",
            "reported",
        )
        most = bound(audit_one_run.Guesses(g.canaries, g.guesses, g.guesses), delta)
        told = f"A lower bound only: these many canaries cannot show more than about {most:.2f}."
        if claimed is None:
            row = replace(row.judged(_seen(low), told), control=True)
        elif bound(g, delta, 1 - alarm) > claimed:
            row = row.judged("alarm", "More guesses are right than the accounted epsilon allows.", claimed)
        elif low > claimed:
            row = row.judged("in doubt", f"{IN_DOUBT} {told}", claimed)
        else:
            row = row.judged("holds", told, claimed)
        rows.append(row)
    return rows


def _one_run_controls(halved: Scores, config: Config, setting: str) -> list[Finding]:
    """The same with half of every noise share: some epsilon at least has to be refuted."""
    controls = []
    for row in _one_run_rows(halved, config, setting, 1 - LEVEL):
        seen = row.low is not None and row.low > 0
        text = "Right guesses are more than chance." if seen else "Canaries are not told apart here."
        control = row.judged(_seen(row.low), text, row.compared)
        changed = f"{row.setting}, with half of every noise share"
        controls.append(replace(control, setting=changed, control=True, stands_for=row.setting))
    return controls


def _seen(low: float | None) -> Verdict:
    """Of a control: whether its attack surely sees anything."""
    return "leaks" if low is not None and low > 0 else "not applicable"


SEES = "all opened sums (single messages where nothing seals them), the canaries, and the colluders' noise shares"
UNLIKELY = 0.5
"""Below this probability of an alarm on half of the noise a row says that it could hardly raise one."""


def _power_text(scored: Scores, claimed: float, alarm: float) -> str:
    """What this audit would have found of half of the noise, computed from the noise in what was scored."""
    found = canary_power.power(scored, mu_of_epsilon(claimed, scored.rehearsed.ledger.delta), alarm)
    beyond = canary_power.noise_beyond_account(scored)
    told = (
        f"What was scored holds {beyond:.2g} times the noise that the account counts on. "
        if beyond > 1.05
        else ""
    )
    if found < UNLIKELY:
        told += "This row could hardly raise an alarm. "
    # Rounded down: a row must not claim to see more than it does.
    return f"{told}Half the noise would have raised an alarm with probability {math.floor(100 * found) / 100:.2f}."


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "beyond measure"


__all__ = ["Plan", "Scores", "accounted", "findings", "promise", "score"]
