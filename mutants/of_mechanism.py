"""Bugs in the mechanism: noise, sensitivity, sampling."""

from __future__ import annotations

from mutants.mutant import Mutant, mutant
from mutants.tests_that_notice import (
    AS_AUDITED,
    BATCHES,
    CHARGED_NOISE,
    CODE_COMPANY,
    COMPANY,
    EMPTY_ROUND,
    EQUALITY,
    EXPERTS,
    FIXED_POINT,
    INFLUENCE_BOUND,
    LEDGER,
    LOCAL_NOISE,
    MECHANISM,
    NAN_IS_ZERO,
    NAN_UNDER_NOISE,
    NO_EPSILON_TOGETHER,
    NOISE,
    ORDER,
    PUBLIC_CONSTANT,
    PUBLIC_ORDER,
    SAME_IN_EVERY_BATCH,
    TOO_LONG,
    UNSHARED,
    VISIBLE,
    WEIGHT_ONCE,
)

EXPERTS_UNSEEN = (
    "def computes_by_content(config: Any) -> bool:\n    return False\n\n\ndef _unused(config: Any) -> bool:"
)

_UNCHECKED_NORM = (
    "fixed_point.py",
    "accepted = norms_within(values, grid.bound)",
    "accepted = np.ones(len(values), np.bool_)",
)
_UNCLIPPED = (
    "pipeline.py",
    "clipped, zeroed = clip_rows(value, self.norm)",
    "clipped, zeroed = value, 0",
)
_UNCHECKED_ORDER = ("pipeline.py", "if roles != sorted(roles) or ", "if ")
_CLIP_FIRST = (
    "systems/hedge.py",
    "Pipeline([*encoders(facts), *stages])",
    "Pipeline([stages[0], *encoders(facts), *stages[1:]])",
)

MECHANISM_MUTANTS: tuple[Mutant, ...] = (
    # --- noise
    mutant(
        "noise halved where it is drawn",
        (
            "mechanism.py",
            "rounded_gaussian(self.share_std_steps,",
            "rounded_gaussian(self.share_std_steps / 2,",
        ),
        tests=(CHARGED_NOISE, LOCAL_NOISE, VISIBLE, MECHANISM + "test_what_runs_is_what_is_accounted"),
    ),
    mutant(
        "noise halved in the mechanism's own figures",
        (
            "mechanism.py",
            "return self.noise_multiplier * self.grid.bound",
            "return self.noise_multiplier * self.grid.bound / 2",
        ),
        tests=(CHARGED_NOISE, VISIBLE, MECHANISM + "test_shares_of_the_floor_make_the_declared_noise"),
    ),
    mutant(
        "noise over the root of n twice",
        ("mechanism.py", "self.std_steps / math.sqrt(self.floor)", "self.std_steps / self.floor"),
        tests=(CHARGED_NOISE, EQUALITY + "test_the_sum_of_real_shares_has_the_accounted_variance"),
    ),
    mutant(
        "floor ignored: shares sized for all parties",
        ("resolve.py", "else trust.floor,", "else parties,"),
        tests=(CHARGED_NOISE,),
    ),
    mutant(
        "colluders' shares counted as noise",
        ("privacy/observers.py", " - observer.known_shares", ""),
        tests=(LEDGER + "test_a_participant_takes_off_its_own_share",),
    ),
    mutant(
        "noise clamped at four standard deviations",
        (
            "pipeline.py",
            "return value + share",
            "s = 4 * self.mechanism.share_std_steps; return value + np.clip(share, -s, s).astype(np.int64)",
        ),
        tests=(NOISE + "test_trap_09_noise_is_never_clamped",),
    ),
    mutant(
        "noisy sum clamped to the range of a clean one",
        (
            "pipeline.py",
            "total = stage.forward(total, (), passing)",
            "total = project_range(stage.forward(total, (), passing), self.rounding.limit)",
        ),
        tests=(NOISE + "test_trap_09_noise_is_never_clamped",),
    ),
    mutant(
        "float32 noise from an ordinary generator",
        (
            "mechanism.py",
            "return rounded_gaussian(self.share_std_steps, self.dimension, key)",
            "g = np.random.default_rng(int.from_bytes(key, 'big')).standard_normal(self.dimension, np.float32); "
            "return np.rint(g * np.float32(self.share_std_steps)).astype(np.int64)",
        ),
        tests=(
            NOISE + "test_trap_09_the_lowest_bit_of_the_noise_is_noise",
            MECHANISM + "test_what_runs_is_what_is_accounted",
        ),
    ),
    mutant(
        "no noise where no record was sampled",
        (
            "pipeline.py",
            "for stage in self._sum_stages:",
            "for stage in self._sum_stages if passing.observed.get('units') else ():",
        ),
        tests=(EMPTY_ROUND, EQUALITY + "test_the_sum_of_real_shares_has_the_accounted_variance"),
    ),
    # --- sensitivity
    mutant(
        "clip missing",
        _UNCLIPPED,
        tests=(INFLUENCE_BOUND, EQUALITY + "test_hedge_opens_the_integers_of_central_dp_sgd"),
    ),
    mutant(
        "norm check of rounded units skipped",
        _UNCHECKED_NORM,
        tests=(FIXED_POINT + "test_rejected_rows_are_rounded_again_and_then_zeroed",),
    ),
    mutant(
        "clip and norm check both missing",
        _UNCLIPPED,
        _UNCHECKED_NORM,
        tests=(INFLUENCE_BOUND, VISIBLE),
    ),
    mutant(
        "a unit that is not finite counts in full",
        (
            "clip.py",
            "block[~finite] = 0.0",
            "block[~finite] = norm / np.sqrt(width) * _MARGIN",
        ),
        tests=(NAN_IS_ZERO, NAN_UNDER_NOISE),
    ),
    mutant("order of stages not checked", _UNCHECKED_ORDER, tests=(ORDER,)),
    mutant(
        "clip before the encoder only",
        _UNCHECKED_ORDER,
        _CLIP_FIRST,
        _UNCHECKED_NORM,
        tests=(INFLUENCE_BOUND, ORDER),
    ),
    mutant(
        "contribution rounded as a sum",
        ("pipeline.py", "round_units(value * np", "round_units(value.sum(axis=0, keepdims=True) * np"),
        ("pipeline.py", "self.grid, keys, zeroed", "self.grid, keys[:1], zeroed"),
        tests=(SAME_IN_EVERY_BATCH, EQUALITY + "test_hedge_opens_the_integers_of_central_dp_sgd"),
    ),
    mutant(
        "gradients divided by the batch that was drawn",
        (
            "work.py",
            "yield Units(tuple(ids), -gradients)",
            "yield Units(tuple(ids), -gradients / np.float32(len(sampled)))",
        ),
        tests=(SAME_IN_EVERY_BATCH,),
    ),
    mutant(
        "mean over the actual survivors",
        (
            "server.py",
            "self.aggregator.apply(self.progress.round, opened.total, opened.apart)",
            "self.aggregator.apply(self.progress.round, opened.total * 4 // len(opened.survivors), opened.apart)",
        ),
        tests=(PUBLIC_CONSTANT,),
    ),
    # --- sampling
    mutant(
        "batch truncated to the micro-batch",
        ("work.py", "for i in chosen]\n        for", "for i in chosen[: place.micro_batch]]\n        for"),
        tests=(BATCHES,),
    ),
    mutant(
        "twice the sampling rate that is charged",
        (
            "work.py",
            "for example in place.examples], self.rate)",
            "for example in place.examples], min(1, 2 * self.rate))",
        ),
        tests=(BATCHES,),
    ),
    mutant(
        "batch of fixed size under a Poisson charge",
        (
            "work.py",
            "        sampled = [place.examples[i] for i in chosen]",
            "        size = round(self.rate * len(place.examples)); order = np.random.default_rng(len(chosen))\n"
            "        sampled = [place.examples[i] for i in order.permutation(len(place.examples))[:size]]",
        ),
        tests=(BATCHES,),
    ),
    # --- company
    mutant(
        "a record's last micro-batch as small as what is left",
        (
            "sequences.py",
            "ids = np.zeros((len(sequences) if shape is None else shape.rows, width), np.int64)",
            "ids = np.zeros((len(sequences), width), np.int64)",
        ),
        (
            "sequences.py",
            "dummies = shape.rows - len(sequences)",
            "dummies = 0",
        ),
        (
            "frozen_prefix.py",
            "size = (len(words), max(map(len, words))) if shape is None else (shape.rows, shape.width)",
            "size = (len(words), max(map(len, words))) if shape is None else (len(words), shape.width)",
        ),
        tests=(COMPANY,),
    ),
    mutant(
        "units encoded together",
        (
            "pipeline.py",
            "codes = [self.codec.encode(value[at : at + 1]) for at in range(len(value))]",
            "together = self.codec.encode(value)\n        codes = [together[at : at + 1] for at in range(len(value))]",
        ),
        tests=(CODE_COMPANY,),
    ),
    mutant(
        "shapes shared untried",
        (
            "train.py",
            "self._shares[shape] = shape.rows > 1 and self._keeps_bits(shape)",
            "self._shares[shape] = shape.rows > 1",
        ),
        tests=(UNSHARED,),
    ),
    mutant(
        "records of models with experts share passes",
        ("company.py", "def computes_by_content(config: Any) -> bool:", EXPERTS_UNSEEN),
        tests=(EXPERTS,),
    ),
    mutant(
        "an epsilon for records that move each other's gradients",
        (
            "config.py",
            "return SHARED_ARITHMETIC if record and not self.deterministic_units else None",
            "return None",
        ),
        tests=(NO_EPSILON_TOGETHER,),
    ),
    mutant(
        "which public records come first told by line numbers",
        ("data/records.py", "record.id if record.own_id else", "record.id if True else"),
        tests=(PUBLIC_ORDER,),
    ),
    mutant(
        "records longer than the model's positions taken",
        ("material.py", "    check_length(config, model)\n", ""),
        tests=(TOO_LONG,),
    ),
    mutant(
        "a client's weight counted in its local steps too",
        ("work.py", 'scope=f"step/{number}/", weight=1.0,', 'scope=f"step/{number}/",'),
        tests=(WEIGHT_ONCE,),
    ),
    # --- audits
    mutant(
        "a rehearsal composed from its own few rounds",
        (
            "attacks/rehearsal.py",
            "config = without_budget(stage.config)",
            "config = without_budget(stage.config if rounds is None else with_schedule(stage.config, rounds=rounds))",
        ),
        tests=(AS_AUDITED,),
    ),
)
