"""What must hold between the sections of a configuration, each rule with the path it speaks of.

A rule looks at a parsed configuration and yields ``(path, message, given, allowed)``; all rules run, so that a user
sees every mistake at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privet.config import Config

Row = tuple[str, str, object, str | None]
Rule = Callable[["Config"], Iterator[Row]]

MASKING = frozenset({"masked", "encrypted+masked"})


def problems_of(config: Config) -> list[Row]:
    """Every broken rule of ``config``."""
    return [row for rule in RULES for row in rule(config)]


def _privacy_matches_system(c: Config) -> Iterator[Row]:
    needs = c.system.kind in {"dp_lora", "hedge"}
    if needs and c.privacy is None:
        yield (
            "privacy",
            f"is missing: {c.system.kind} is a private system",
            None,
            "unit, delta, target_epsilon, …",
        )
    if c.privacy is not None and c.system.kind == "fedavg":
        yield "privacy", "fedavg has no mechanism", "fedavg", "no privacy section, or system dp_lora or hedge"


def _noise_is_given_once(c: Config) -> Iterator[Row]:
    p = c.privacy
    if p is not None and (p.target_epsilon is None) == (p.noise_multiplier is None):
        yield (
            "privacy.target_epsilon",
            "give either this or noise_multiplier",
            p.target_epsilon,
            "exactly one",
        )
    if p is not None and p.max_epsilon and p.target_epsilon and p.max_epsilon < p.target_epsilon:
        yield "privacy.max_epsilon", "is below target_epsilon", p.max_epsilon, f">= {p.target_epsilon}"


def _record_level_needs_sampling(c: Config) -> Iterator[Row]:
    if c.privacy is None or c.privacy.unit != "record":
        return
    if c.schedule.sampling_rate is None:
        yield "schedule.sampling_rate", "is missing for unit record", None, "the Poisson rate q, e.g. 0.02"
    if c.schedule.expected_batch is None:
        yield "schedule.expected_batch", "is missing for unit record", None, "a public denominator, e.g. 256"


def _client_level_is_zero_out(c: Config) -> Iterator[Row]:
    p = c.privacy
    if p is not None and p.unit == "client" and p.relation == "add-remove":
        yield (
            "privacy.relation",
            "unit client has a fixed, enrolled cohort: one client's contribution is zeroed, not the client removed",
            p.relation,
            "zero-out, replace-one",
        )


def _weights_are_public_shares(c: Config) -> Iterator[Row]:
    weights = c.schedule.weights
    if weights is not None and (not weights or max(weights) > 1 or min(weights) <= 0):
        yield "schedule.weights", "must lie in (0, 1], so that no weight raises a norm", weights, "(0, 1]"
    if weights is not None and c.system.kind == "hedge":
        yield "schedule.weights", "hedge sums records, every record counts alike", weights, "absent"


def _noise_shares_need_a_seal(c: Config) -> Iterator[Row]:
    if c.system.kind == "hedge" and c.sealing.kind == "none":
        yield (
            "sealing.kind",
            "hedge adds one share of the noise at each silo; without a seal the server would see single shares",
            c.sealing.kind,
            "masked, encrypted, encrypted+masked",
        )
    if c.system.kind == "hedge" and c.sealing.kind == "ckks":
        yield "sealing.kind", "CKKS is approximate and for comparison only", "ckks", "masked, encrypted, …"
    if c.system.kind == "fedshield" and c.privacy is not None and c.sealing.kind in {"none", "ckks"}:
        yield "sealing.kind", "noise shares need an exact seal", c.sealing.kind, "masked, encrypted+masked"


def _faithful_needs_its_seal(c: Config) -> Iterator[Row]:
    if c.system.kind == "fedshield" and c.system.faithful and c.sealing.kind != "ckks":
        yield "sealing.kind", "the faithful setting encrypts with CKKS", c.sealing.kind, "ckks"
    if c.system.kind == "fedshield" and c.system.faithful and c.codec.kind != "identity":
        yield "codec.kind", "the faithful setting prunes by system.own_mask", c.codec.kind, "identity"
    if c.system.kind == "fedshield" and c.system.faithful and c.privacy is not None:
        yield "privacy", "the faithful setting has no noise", "set", "absent, or faithful: false"


def _fedshield_protects_clients(c: Config) -> Iterator[Row]:
    if c.system.kind == "fedshield" and c.privacy is not None and c.privacy.unit != "client":
        yield "privacy.unit", "fedshield adds noise to whole updates", c.privacy.unit, "client"


def _faithful_dp_lora(c: Config) -> Iterator[Row]:
    if (
        c.system.kind == "dp_lora"
        and c.system.faithful
        and c.privacy is not None
        and c.privacy.unit != "client"
    ):
        yield (
            "privacy.unit",
            "the faithful setting clips the gradient of a batch: a single record can change all of it, so it has no "
            "bound of its own, only that of the client",
            c.privacy.unit,
            "client, or faithful: false",
        )


def _codec_is_possible(c: Config) -> Iterator[Row]:
    if c.codec.kind == "autoencoder":
        yield (
            "codec.kind",
            "needs stage 1 of dr_encoder, which this version does not have",
            c.codec.kind,
            "identity, prune, random_projection, count_sketch, top_k, row_pca, public_subspace",
        )
    if c.codec.error_feedback:
        yield "codec.error_feedback", "is not wired into runs in this version", True, "false"
    if c.sealing.kind != "none" and c.codec.kind == "top_k" and c.codec.support == "client":
        yield "codec.support", "supports that clients choose do not line up under a seal", "client", "public"


def _colluders_leave_a_share(c: Config) -> Iterator[Row]:
    survivors = c.schedule.min_survivors
    if c.privacy is None or survivors is None or c.system.kind == "dp_lora":
        return
    if c.privacy.trust.colluders >= survivors:
        yield (
            "privacy.trust.colluders",
            "leave no honest share of the noise",
            c.privacy.trust.colluders,
            f"< schedule.min_survivors, {survivors}",
        )


RULES: tuple[Rule, ...] = (
    _privacy_matches_system,
    _noise_is_given_once,
    _record_level_needs_sampling,
    _client_level_is_zero_out,
    _weights_are_public_shares,
    _noise_shares_need_a_seal,
    _faithful_needs_its_seal,
    _fedshield_protects_clients,
    _faithful_dp_lora,
    _codec_is_possible,
    _colluders_leave_a_share,
)
