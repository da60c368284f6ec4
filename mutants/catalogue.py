"""The mutants: what is broken, where, and which tests must notice.

Old texts are short, occur once in their file, and are exact to the character; a mutant whose text is gone is stale and
fails the command, so that it is moved along with the code that it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass

NOISE = "tests/integration/test_trap_noise.py::"
INFLUENCE = "tests/integration/test_trap_influence.py::"
PROTOCOL = "tests/integration/test_trap_protocol.py::"
CANARIES = "tests/integration/test_trap_canaries.py::"
EQUALITY = "tests/integration/test_hedge_equality.py::"
TWO_STAGES = "tests/integration/test_dr_encoder.py::"
MECHANISM = "tests/unit/test_mechanism.py::"
ACCOUNTANTS = "tests/unit/test_accountants.py::"
LEDGER = "tests/unit/test_ledger.py::"
KEYS = "tests/unit/test_keys.py::"
FIXED_POINT = "tests/unit/test_fixed_point.py::"
CHEATING = "tests/integration/test_cheating_servers.py::"
REFUSALS = "tests/unit/test_masking_refusals.py::"

CHARGED_NOISE = NOISE + "test_trap_09_opened_sums_hold_the_noise_that_the_ledger_charges"
LOCAL_NOISE = NOISE + "test_trap_09_every_local_step_of_dp_lora_holds_its_noise_in_full"
EMPTY_ROUND = NOISE + "test_trap_05_a_round_without_sampled_records_is_noised_and_charged"
FRESH_NOISE = NOISE + "test_trap_10_noise_is_fresh_over_clients_rounds_and_restarts"
INFLUENCE_BOUND = INFLUENCE + "test_trap_07_one_record_moves_the_opened_sum_by_the_sensitivity_at_most"
SAME_IN_EVERY_BATCH = INFLUENCE + "test_trap_06_a_record_counts_alike_in_every_batch"
PUBLIC_CONSTANT = INFLUENCE + "test_trap_06_the_direction_is_the_sum_over_a_public_constant"
BATCHES = INFLUENCE + "test_trap_04_batches_are_the_poisson_draw_that_the_ledger_charges"
ORDER = INFLUENCE + "test_trap_07_unsound_orders_of_stages_are_refused"
CHARGED_DRAWS = PROTOCOL + "test_trap_11_every_noise_draw_is_in_the_ledger_before_anything_opens"
CHARGED_RETRIES = PROTOCOL + "test_trap_11_an_attempt_that_gave_something_away_is_charged_and_so_is_the_next"
NO_SECRET = PROTOCOL + "test_trap_10_no_secret_of_a_client_reaches_the_server"
ANSWERED_ONCE = PROTOCOL + "test_trap_10_a_question_is_answered_once_and_then_with_the_same_bytes"
STAGES_CHARGED = TWO_STAGES + "test_trap_11_every_opened_sum_is_in_the_ledger_by_its_stage"
STAGE_NOISE = TWO_STAGES + "test_trap_11_the_noise_of_each_stage_is_what_it_is_charged_for"
STAGES_CALIBRATED = "tests/unit/test_dr_encoder.py::test_both_stages_are_calibrated_together"
VISIBLE = CANARIES + "test_trap_09_canaries_are_as_visible_as_the_ledger_says"


@dataclass(frozen=True)
class Edit:
    """One replacement.

    Attributes:
        file: Path below ``src/privet``.
        old: Text that occurs exactly once in it.
        new: What takes its place.
    """

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: What is wrong, in words.
        edits: The changes that plant it.
        tests: Node ids of the tests that must each fail.
        seconds: Time that the tests have; a mutant that hangs counts as caught, and is labelled so.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    seconds: float = 90.0


def mutant(name: str, *edits: tuple[str, str, str], tests: tuple[str, ...], seconds: float = 90.0) -> Mutant:
    """A mutant from plain tuples."""
    return Mutant(name, tuple(Edit(*edit) for edit in edits), tests, seconds)


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

MUTANTS: tuple[Mutant, ...] = (
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
    # --- randomness and secrets
    mutant(
        "keys of noise repeat over rounds",
        (
            "keys.py",
            'return derive(self._root, "draw", purpose, round_id.number, round_id.attempt, count, fresh)',
            'return derive(self._root, "draw", purpose)',
        ),
        tests=(
            FRESH_NOISE,
            KEYS + "test_trap_10_no_key_comes_twice_over_clients_rounds_attempts_and_resumes",
        ),
    ),
    mutant(
        "keys of noise repeat after a restart",
        (
            "keys.py",
            "round_id.number, round_id.attempt, count, fresh)",
            "round_id.number)",
        ),
        tests=(
            FRESH_NOISE,
            KEYS + "test_trap_10_no_key_comes_twice_over_clients_rounds_attempts_and_resumes",
        ),
    ),
    mutant(
        "noise keys in the server's checkpoint",
        (
            "federation.py",
            "    engine = LocalEngine(",
            "    server.keys = b''.join(s.keys._root for s in secrets)\n    engine = LocalEngine(",
        ),
        ("checkpoint.py", '"seconds": wire.Real(),', '"seconds": wire.Real(), "keys": wire.Blob(1 << 16),'),
        (
            "checkpoint.py",
            '"seconds": float(totals["seconds"]),',
            '"seconds": float(totals["seconds"]), "keys": server.keys,',
        ),
        tests=(NO_SECRET,),
    ),
    mutant(
        "roots of clients' seals kept in the server's folder",
        (
            "federation.py",
            "    engine = LocalEngine(",
            "    for i, s in enumerate(secrets): server_store and server_store.put(f'seal{i}', s.seal_root)\n"
            "    engine = LocalEngine(",
        ),
        tests=(NO_SECRET,),
    ),
    mutant(
        "secret key of the run sent to the server",
        (
            "sealing/run_key.py",
            'self.name = self.derive("name", length=NAME_BYTES)',
            "self.name = root[:NAME_BYTES]",
        ),
        tests=(NO_SECRET,),
    ),
    # --- ledger
    mutant(
        "every other release missing from the ledger",
        (
            "server.py",
            "            self.ledger.charge(self._release)",
            "            if self.progress.number % 2: self.ledger.charge(self._release)",
        ),
        tests=(CHARGED_DRAWS, CHARGED_NOISE),
    ),
    mutant(
        "local steps of a round charged as one",
        (
            "systems/dp_lora.py",
            'mechanism.release("local steps", count=local.steps, ',
            'mechanism.release("local steps", ',
        ),
        tests=(CHARGED_DRAWS, LOCAL_NOISE),
    ),
    mutant(
        "stage 1 missing from the two-stage ledger",
        ("privacy/two_stage.py", "if self.statistics_releases:", "if False:"),
        tests=("tests/unit/test_two_stage.py::test_closed_form_equals_pld",),
    ),
    mutant(
        "releases of stage 1 not charged in a run",
        (
            "server.py",
            "            self.ledger.charge(self._release)",
            "            if self.progress.number >= self.system.prepared_by: self.ledger.charge(self._release)",
        ),
        tests=(STAGES_CHARGED,),
    ),
    mutant(
        "stage 1 charged with the noise of stage 2",
        ("server.py", "return self.system.at(self.progress.number).release", "return self.system.release"),
        tests=(STAGES_CHARGED, STAGE_NOISE),
    ),
    mutant(
        "stage 1 missing from the plan and the calibration",
        ("systems/base.py", "if self.preparation else []", "if False else []"),
        tests=(STAGES_CALIBRATED,),
    ),
    mutant(
        "charged after the sum was opened",
        (
            "server.py",
            "        self._charge()\n        opened = yield from self.sealing.open(due, self.size, bodies, "
            "digest(question))",
            "        opened = yield from self.sealing.open(due, self.size, bodies, digest(question))\n"
            "        self._charge()",
        ),
        tests=(CHARGED_DRAWS, CHARGED_RETRIES),
    ),
    mutant(
        "second attempt at a round not charged",
        (
            "server.py",
            "        if self.progress.charged != self.progress.round:",
            "        if self.progress.charged is None or self.progress.charged.number != self.progress.number:",
        ),
        tests=(CHARGED_RETRIES,),
    ),
    mutant(
        "budget not asked",
        ("server.py", "if self.ledger.would_exceed(self._release):", "if False:"),
        tests=(PROTOCOL + "test_trap_11_a_run_stops_before_the_release_that_exceeds_its_budget",),
    ),
    mutant(
        "budget of the server's view, not of the worst observer",
        (
            "privacy/ledger.py",
            "self.trust.seen_by(self.trust.worst, [*others,",
            "self.trust.seen_by(self.trust.observers()[0], [*others,",
        ),
        tests=(LEDGER + "test_a_calibrated_plan_is_admitted_to_its_last_round_and_no_further",),
    ),
    # --- accounting
    mutant(
        "fixed-size sampling accounted as Poisson",
        (
            "privacy/pairs.py",
            'return Pair(sigma / 2, count, s.rate, "apart" if relation == "add-remove" else "larger")',
            'return Pair(sigma, count, s.rate, "apart")',
        ),
        tests=(ACCOUNTANTS + "test_trap_02_fixed_size_sampling_is_not_poisson",),
    ),
    mutant(
        "replace-one without the factor 2",
        ("privacy/pairs.py", 'sigma / (2 if relation == "replace-one" else 1)', "sigma"),
        tests=(ACCOUNTANTS + "test_trap_01_replace_one_doubles_the_sensitivity",),
    ),
    mutant(
        "Poisson under replace-one accounted as add-remove",
        (
            "privacy/pairs.py",
            '"replace" if relation == "replace-one" else "apart")\n    return',
            '"apart")\n    return',
        ),
        tests=(ACCOUNTANTS + "test_poisson_replace_one_pair_is_the_antipodal_mixture",),
    ),
    mutant(
        "δ′ ignored by the accountant",
        ("privacy/accountants.py", "math.fsum(r.count * r.delta_prime for r in releases)", "0.0"),
        tests=(ACCOUNTANTS + "test_the_distance_to_the_ideal_is_charged_with_both_of_its_sides",),
    ),
    mutant(
        "δ′ not declared by the mechanism",
        ("mechanism.py", "sampling or Sampling.none(), self.delta_prime)", "sampling or Sampling.none())"),
        tests=(MECHANISM + "test_what_runs_is_what_is_accounted",),
    ),
    # --- protocol
    mutant(
        "an answer computed and noised twice",
        (
            "client.py",
            "        if last is not None:\n            answered",
            "        if last is not None and False:\n            answered",
        ),
        tests=(ANSWERED_ONCE,),
    ),
    mutant(
        "another question answered with another noise",
        ("client.py", "            if round_id <= answered:", "            if round_id < answered:"),
        tests=(ANSWERED_ONCE,),
    ),
    mutant(
        "survivor set not checked against the one that was signed",
        (
            "sealing/masking.py",
            "if decided.survivors is not None and decided.survivors != survivors:",
            "if False:",
        ),
        tests=(
            REFUSALS + "test_two_survivor_sets_are_refused",
            REFUSALS + "test_both_kinds_of_share_of_one_client_are_refused",
        ),
    ),
    mutant(
        "same values opened under another survivor set in a retry",
        ("sealing/masking.py", "if opened and alike and", "if False and"),
        tests=(REFUSALS + "test_trap_12_the_same_contribution_is_never_opened_under_two_survivor_sets",),
    ),
    mutant(
        "values rounded anew taken for another contribution",
        (
            "sealing/masking.py",
            " or (number.number == round.number and not self._fresh_noise)",
            "",
        ),
        tests=(
            REFUSALS + "test_trap_12_the_same_contribution_is_never_opened_under_two_survivor_sets",
            CHEATING + "test_the_same_round_is_not_opened_again_without_one_client",
        ),
    ),
    mutant(
        "masks not bound to the question",
        (
            "sealing/masking_messages.py",
            "round.number, round.attempt, question)",
            "round.number, round.attempt)",
        ),
        tests=(
            REFUSALS + "test_parties_that_answer_different_questions_sum_to_noise",
            CHEATING + "test_others_cannot_be_made_to_contribute_nothing",
        ),
    ),
    mutant(
        "other words masked in the same slot",
        (
            "sealing/masking.py",
            "elif not hmac.compare_digest(decided.tag, tag) or decided.question != _padded(question):",
            "elif False:",
        ),
        tests=(REFUSALS + "test_a_slot_masks_one_value_only",),
    ),
    mutant(
        "unmasking without the signatures of a threshold",
        (
            "sealing/masking.py",
            "among=epoch.shares, fewest=self._threshold)",
            "among=epoch.shares, fewest=0)",
        ),
        tests=(REFUSALS + "test_unmasking_needs_the_signatures_of_a_threshold",),
    ),
)
