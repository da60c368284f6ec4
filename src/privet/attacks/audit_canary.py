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

The bound on mu is parametric (`gdp.py`); `audit_one_run.py` bounds the same scores without believing in a law.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from privet.attacks import audit_one_run
from privet.attacks.canary_scores import MOST_CANARIES, Plan, Scores, score
from privet.attacks.finding import LEVEL, Finding
from privet.attacks.gdp import epsilon_of_mu, mu_of_epsilon, power_at, visible_mu
from privet.attacks.rehearsal import Rehearsed, everybody_in
from privet.codec_schedule import CodecSchedule
from privet.config import Config
from privet.privacy.events import Release
from privet.privacy.two_stage import gaussian_delta
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
    """
    rate = config.schedule.sampling_rate
    settings = [("as configured", config, plan)]
    if rate is not None and rate < 1 and config.privacy is not None and config.privacy.unit == "record":
        variant = everybody_in(config, batch=float(MOST_CANARIES))
        settings.insert(0, ("every record in every round", variant, _shorter(config, plan)))
    rows = []
    for name, variant, size in settings:
        scored = score(variant, dimension, parties, size, factors=factors, schedule=schedule)
        each = alarm / (3 * len(settings))
        setting = f"{name}, {size.rounds} round{'s' if size.rounds > 1 else ''}"
        rows += [_canary_row(scored, config, setting, each), *_one_run_rows(scored, config, setting, each)]
    return rows


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


def accounted_delta_at_zero(rehearsed: Rehearsed) -> float:
    """delta at epsilon 0 of what a run was charged: no attack has a larger advantage.

    The closed form where all units are in all releases; else the delta of the mu-GDP curve through the accounted point
    does not bound it, and 1 - 2/(1 + e^epsilon) + delta does (Kairouz, Oh and Viswanath, ICML 2015).
    """
    ledger = rehearsed.ledger
    releases = [r for r in ledger.releases if isinstance(r, Release)]
    factor = ledger.trust.promised(ledger.trust.worst)
    if releases and all(r.sampling.everybody for r in releases) and factor > 0:
        squares = math.fsum(r.count / (r.effective_noise_multiplier * factor) ** 2 for r in releases)
        doubled = 2 if ledger.relation == "replace-one" else 1
        return gaussian_delta(0.0, doubled * math.sqrt(squares)) + ledger.epsilon().delta_prime
    epsilon = ledger.epsilon().value
    return min(1.0, math.tanh(epsilon / 2) + ledger.delta)


def _canary_row(scored: Scores, config: Config, setting: str, alarm: float) -> Finding:
    delta = config.privacy.delta if config.privacy else 1e-5
    shown, sure = (scored.estimate(alpha) for alpha in (1 - LEVEL, alarm))
    claimed = accounted(scored)
    value, low, high = (epsilon_of_mu(mu, delta) for mu in (shown.value, shown.low, shown.high))
    base = Finding(
        "audit.canary",
        setting,
        SEES,
        f"epsilon at delta {delta:g}, from mu {_number(shown.value)} [{_number(shown.low)}, {_number(shown.high)}]",
        value,
        low,
        high,
        "parametric: equal normal scores; two one-sided 95 % bounds by Student's non-central t",
        f"{shown.canaries[0]} canaries in, {shown.canaries[1]} out",
        "leaks",
        text="No noise hides a canary, and the run claims no epsilon: this is the positive control of the test.",
        control=True,
    )
    if claimed is None and config.privacy is not None:
        reason = scored.rehearsed.ledger.epsilon().reason
        return replace(base, verdict="reported", control=False, text=f"Nothing to hold it against: {reason}.")
    if claimed is None:
        return base
    exceeded = epsilon_of_mu(sure.low, delta) > claimed
    return replace(
        base,
        verdict="alarm" if exceeded else "holds",
        compared=claimed,
        control=False,
        text="The canaries are more visible than the ledger accounts for: noise, clip or account is broken."
        if exceeded
        else f"Not above the accounted epsilon. {_power_text(scored, claimed, delta, alarm)}",
    )


def _one_run_rows(scored: Scores, config: Config, setting: str, alarm: float) -> list[Finding]:
    delta = config.privacy.delta if config.privacy else 1e-5
    claimed = accounted(scored)
    g = audit_one_run.guess(scored.ratios, scored.inside)
    rows = []
    for name, bound, about in (
        (
            "any law",
            audit_one_run.epsilon_lower_bound,
            "exact for any (eps, delta)-DP run (arXiv 2305.08846)",
        ),
        (
            "f-DP",
            audit_one_run.epsilon_lower_bound_fdp,
            "against the curve of a Gaussian mechanism with that epsilon (arXiv 2410.22235)",
        ),
    ):
        if name == "f-DP" and any(r.sampling.rate < 1 for r in scored.releases):
            continue  # a sampled mechanism's curve is not that of a Gaussian: the test would refute too much
        low = bound(g, delta)
        alarmed = claimed is not None and bound(g, delta, 1 - alarm) > claimed
        verdict: Any = "alarm" if alarmed else "holds" if claimed is not None else "leaks"
        rows.append(
            Finding(
                "audit.one_run",
                f"{setting}, {name}",
                SEES,
                f"95 % lower bound on epsilon at delta {delta:g}",
                low,
                low,
                None,
                about,
                f"{g.right} of {g.guesses} guesses right, {g.canaries} canaries",
                verdict,
                claimed,
                text="More guesses are right than the accounted epsilon allows."
                if alarmed
                else "A lower bound only: these many canaries cannot show more than about "
                f"{bound(audit_one_run.Guesses(g.canaries, g.guesses, g.guesses), delta):.2f}.",
                control=claimed is None,
            )
        )
    return rows


SEES = "all opened sums (single messages where nothing seals them), the canaries, and the colluders' noise shares"


def _power_text(scored: Scores, claimed: float, delta: float, alarm: float) -> str:
    """Probability that this audit would have raised an alarm of error probability ``alarm`` for half of the noise."""
    promised = mu_of_epsilon(claimed, delta)
    rates = {r.sampling.rate for r in scored.releases}
    shown = 2 * promised
    if rates != {1.0}:
        last = scored.releases[-1]
        shown = visible_mu(last.sampling.rate, last.effective_noise_multiplier / 2, last.count)
    found = power_at(shown, promised, scored.root, len(scored.seen) - 2, alarm)
    return f"Half the noise would have raised an alarm with probability {found:.2f}."


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "beyond measure"


__all__ = ["Plan", "Scores", "accounted", "accounted_delta_at_zero", "findings", "score"]
