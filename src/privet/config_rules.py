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
    if c.privacy is not None and c.system.kind in {"fedavg", "cg_fedllm"}:
        kind = c.system.kind
        yield "privacy", f"{kind} has no mechanism", kind, "no privacy section, or a private system"


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
    records = c.system.kind == "dr_encoder" and c.privacy is not None and c.privacy.unit == "record"
    if weights is not None and (c.system.kind == "hedge" or records):
        yield (
            "schedule.weights",
            f"{c.system.kind} sums records, every record counts alike",
            weights,
            "absent",
        )


def _decay_has_rounds_left(c: Config) -> Iterator[Row]:
    s = c.schedule
    if s.server.decay != "none" and s.server.warmup_rounds >= s.rounds:
        yield (
            "schedule.server.warmup_rounds",
            "leaves no round in which the rate could fall",
            s.server.warmup_rounds,
            f"less than schedule.rounds, {s.rounds}, or decay: none",
        )


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


def _dr_encoder_bounds_what_it_sends(c: Config) -> Iterator[Row]:
    if c.system.kind != "dr_encoder":
        return
    if c.privacy is None and not c.system.faithful:
        yield (
            "privacy",
            "is missing: dr_encoder adds noise in both stages",
            None,
            "a section, or faithful: true",
        )
    if c.privacy is not None and c.system.faithful and c.privacy.target_epsilon is not None:
        yield (
            "privacy.target_epsilon",
            "no noise in stage 2 reaches it: the faithful setting sends exact statistics",
            c.privacy.target_epsilon,
            "noise_multiplier, or faithful: false",
        )
    if c.privacy is not None and c.sealing.kind == "ckks":
        yield (
            "sealing.kind",
            "CKKS is approximate and for comparison only",
            "ckks",
            "masked, encrypted, none, …",
        )


def _learned_codecs_have_a_source(c: Config) -> Iterator[Row]:
    learns = {
        "dr_encoder": ("autoencoder", "random_projection", "count_sketch"),
        "cg_fedllm": ("autoencoder",),
    }
    allowed = learns.get(c.system.kind)
    if allowed and c.codec.kind not in allowed:
        yield "codec.kind", f"{c.system.kind} makes its codec itself", c.codec.kind, ", ".join(allowed)
    if not allowed and c.codec.kind == "autoencoder":
        yield (
            "codec.kind",
            "learns from what the first part of dr_encoder or cg_fedllm releases",
            c.codec.kind,
            "identity, prune, random_projection, count_sketch, top_k, row_pca, public_subspace",
        )
    if (
        c.system.kind == "dr_encoder"
        and c.codec.kind in ("count_sketch", "random_projection")
        and c.codec.allocation == "uniform"
        and not c.codec.allow_useless
    ):
        yield (
            "codec.allocation",
            "stage 1 would be paid for nothing: this codec takes nothing from the statistics",
            "uniform",
            "by_std, by_rate, or codec.allow_useless: true",
        )
    if c.system.kind == "cg_fedllm" and c.sealing.kind != "none":
        yield "sealing.kind", "the server of cg_fedllm needs updates one by one", c.sealing.kind, "none"


def _error_feedback_keeps_the_guarantee(c: Config) -> Iterator[Row]:
    if not c.codec.error_feedback:
        return
    if c.codec.kind == "identity":
        yield "codec.error_feedback", "nothing is lost without a codec", True, "false"
    if c.privacy is None and "masked" in c.sealing.kind:
        yield (
            "codec.error_feedback",
            "without noise, a server that steers what the others remember opens one contribution alone",
            True,
            "false, a section privacy, or sealing.kind: none",
        )
    if c.privacy is not None and c.privacy.unit == "record":
        yield (
            "codec.error_feedback",
            "a record's influence would persist over later rounds, in which it was not sampled",
            "unit: record",
            "unit: client",
        )
    if getattr(c.codec, "scale", "projection") == "unbiased":
        yield (
            "codec.scale",
            "the memory of a decoder that stretches grows without bound",
            "unbiased",
            "projection",
        )


def _codec_is_possible(c: Config) -> Iterator[Row]:
    written = getattr(c.codec, "source", "public_data") == "self_generated"
    if written and c.data.template.kind == "chat":
        yield (
            "codec.source",
            "the base model continues a prompt, not a conversation",
            "self_generated",
            "public_data, or a template of kind prompt or classification",
        )
    if c.sealing.kind != "none" and c.codec.kind == "top_k" and c.codec.support == "client":
        yield "codec.support", "supports that clients choose do not line up under a seal", "client", "public"


def _colluders_leave_a_share(c: Config) -> Iterator[Row]:
    survivors = c.schedule.min_survivors
    local = c.system.kind == "dp_lora" or (c.system.kind == "dr_encoder" and c.sealing.kind == "none")
    if c.privacy is None or survivors is None or local:
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
    _decay_has_rounds_left,
    _noise_shares_need_a_seal,
    _faithful_needs_its_seal,
    _fedshield_protects_clients,
    _faithful_dp_lora,
    _dr_encoder_bounds_what_it_sends,
    _learned_codecs_have_a_source,
    _error_feedback_keeps_the_guarantee,
    _codec_is_possible,
    _colluders_leave_a_share,
)
