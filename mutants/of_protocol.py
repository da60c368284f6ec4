"""Bugs around the mechanism: randomness and secrets, ledger, accounting, protocol."""

from __future__ import annotations

from mutants.mutant import Mutant, mutant
from mutants.tests_that_notice import (
    ACCOUNTANTS,
    ANSWERED_ONCE,
    BFV,
    CHARGED_DRAWS,
    CHARGED_NOISE,
    CHARGED_RETRIES,
    CHEATING,
    ENCRYPTED,
    ENCRYPTED_PARTS,
    FRESH_NOISE,
    KEYS,
    LEDGER,
    LOCAL_NOISE,
    MASKED,
    MASKING_CHEATS,
    MECHANISM,
    NO_SECRET,
    PROTOCOL,
    REFUSALS,
    SINGLE_CHARGED,
    SITE,
    STAGE_NOISE,
    STAGES_CALIBRATED,
    STAGES_CHARGED,
)

PROTOCOL_MUTANTS: tuple[Mutant, ...] = (
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
            "        self._charge()\n        try:\n            opened = yield from self.sealing.open(due, self.size, "
            "bodies, digest(question))",
            "        try:\n            opened = yield from self.sealing.open(due, self.size, "
            "bodies, digest(question))\n            self._charge()",
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
        "contributions that an assumed colluder opens charged with their sum only",
        ("server.py", " or self.ledger.trust.counts_single_contributions:", ":"),
        tests=(SINGLE_CHARGED,),
    ),
    mutant(
        "whole noise in a failed round charged for nothing but its sum",
        ("privacy/observers.py", 'return self.noise == "local" or self._open', "return self._open"),
        tests=(SINGLE_CHARGED,),
    ),
    mutant(
        "budget not asked",
        ("server.py", "if self.ledger.would_exceed(self._release, self._planned):", "if False:"),
        tests=(PROTOCOL + "test_trap_11_a_run_stops_before_the_release_that_exceeds_its_budget",),
    ),
    mutant(
        "budget of the server's view, not of the worst observer",
        (
            "privacy/ledger.py",
            "self.trust.seen_by(self.trust.worst, whole)",
            "self.trust.seen_by(self.trust.observers()[0], whole)",
        ),
        tests=(LEDGER + "test_a_calibrated_plan_is_admitted_to_its_last_round_and_no_further",),
    ),
    mutant(
        "budget that is planned for one kind of release lent to another",
        (
            "privacy/ledger.py",
            "whole = counted([*others, one.times(times)], planned)",
            "whole = [*others, one.times(times)]",
        ),
        tests=(
            LEDGER + "test_whoever_chooses_the_attempts_all_that_could_have_happened_keeps_to_the_budget",
            LEDGER + "test_a_stage_that_is_tried_again_is_not_paid_for_by_the_next",
        ),
    ),
    mutant(
        "the same at a site",
        ("site_ledger.py", "if planned is None or several else", "if True else"),
        tests=(SITE + "test_a_site_does_not_lend_what_one_stage_is_planned_to_another",),
    ),
    mutant(
        "a site counts what was charged for another unit as if it were its own",
        (
            "site_ledger.py",
            "!= (self.policy.unit, self.policy.relation):\n                return",
            "is None:\n                return",
        ),
        tests=(SITE + "test_what_was_charged_for_another_unit_or_relation_is_not_counted_as_this_ones",),
    ),
    mutant(
        "a site lets others' records move its own sums",
        ("site_policy.py", "config.void == SHARED_ARITHMETIC and policy.max_epsilon is not None", "False"),
        tests=(SITE + "test_what_a_policy_does_not_allow_is_named",),
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
            "        if last is not None and answered is not None:\n",
            "        if False and last is not None and answered is not None:\n",
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
        "sums of attempts that were not contributed to opened",
        ("client.py", "if self._answered(ROUND) != round_id:", "if False:"),
        tests=(CHEATING + "test_a_server_cannot_ask_for_the_key_by_what_does_and_does_not_open",),
    ),
    mutant(
        "a sum without the client's own contribution opened",
        ("sealing/encrypted_round.py", "if self.party not in survivors:", "if False:"),
        tests=(CHEATING + "test_a_server_cannot_ask_for_the_key_by_what_does_and_does_not_open",),
    ),
    mutant(
        "hashes tell whether two sealed states are equal",
        ("sealing/state_seal.py", 'derive("compare", question)', 'derive("compare")'),
        tests=(CHEATING + "test_a_server_does_not_learn_whether_two_ciphertexts_opened_to_the_same",),
    ),
    mutant(
        "as many openings may fail as the server asks for",
        ("client.py", "if len(failed) >= MOST_FAILED_OPENINGS:", "if False:"),
        tests=(CHEATING + "test_a_server_cannot_ask_for_the_key_by_what_does_and_does_not_open",),
    ),
    mutant(
        "rounds after the last one answered",
        ("client.py", "if round_id.number >= self.rounds:", "if False:"),
        tests=(CHEATING + "test_no_adapter_that_a_question_does_not_hold_is_contributed_to",),
    ),
    mutant(
        "those who contribute nothing sign two survivor sets of one round",
        ("sealing/masking.py", " and number.number != round.number\n", "\n"),
        tests=(
            MASKING_CHEATS
            + "test_those_who_contribute_nothing_do_not_help_to_open_a_round_without_one_of_the_others",
        ),
    ),
    mutant(
        "contributions to a state that the question does not hold",
        (
            "client.py",
            "elif rounds > 0 or self.aggregator.rounds != 0:",
            "elif self.aggregator.rounds != rounds:",
        ),
        tests=(CHEATING + "test_no_adapter_that_a_question_does_not_hold_is_contributed_to",),
    ),
    mutant(
        "a participant's state before the first round",
        ("client.py", "            if rounds == 0:\n", "            if False:\n"),
        tests=(CHEATING + "test_no_adapter_that_a_question_does_not_hold_is_contributed_to",),
    ),
    mutant(
        "colluders who open a contribution with a cheating server counted as too few",
        ("sealing/base.py", "return t if max(floor, t) == parties else 2 * t - parties", "return t"),
        tests=(
            LEDGER + "test_under_masks_a_server_that_cheats_needs_fewer_unless_all_survivors_are_demanded",
        ),
    ),
    mutant(
        "survivors of an encrypted sum forgotten over a restart of the server",
        (
            "sealing/encrypted_round.py",
            "if same or alike else None",
            "if False else None",
        ),
        tests=(
            ENCRYPTED
            + "test_trap_12_a_server_that_restarts_hands_out_no_second_sum_of_the_same_contributions",
            ENCRYPTED + "test_trap_12_without_noise_another_attempt_sums_up_no_other_survivors",
        ),
    ),
    mutant(
        "masks not bound to the question",
        (
            "sealing/masking_messages.py",
            "round.number, round.attempt, question, *pair)",
            "round.number, round.attempt, *pair)",
        ),
        tests=(
            REFUSALS + "test_parties_that_answer_different_questions_sum_to_noise",
            CHEATING + "test_others_cannot_be_made_to_contribute_nothing",
        ),
    ),
    mutant(
        "masks not bound to the pair's numbers",
        (
            "sealing/masking_messages.py",
            "round.number, round.attempt, question, *pair)",
            "round.number, round.attempt, question)",
        ),
        tests=(MASKING_CHEATS + "test_a_party_that_advertises_anothers_keys_takes_no_mask_off",),
    ),
    mutant(
        "parties that are no survivors sign who the survivors are",
        (
            "sealing/masking.py",
            'self._party_list(body["signers"], among=survivors, fewest=self._threshold)',
            'self._party_list(body["signers"], among=epoch.shares, fewest=self._threshold)',
        ),
        tests=(MASKING_CHEATS + "test_parties_that_are_no_survivors_do_not_stand_for_who_is",),
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
            "among=survivors, fewest=self._threshold)",
            "among=survivors, fewest=0)",
        ),
        tests=(REFUSALS + "test_unmasking_needs_the_signatures_of_a_threshold",),
    ),
    mutant(
        "a seed used that is not the one its owner committed to",
        ("sealing/recombining.py", "lambda seed: commitment(seed) == committed", "lambda seed: True"),
        tests=(
            MASKED + "test_shares_that_do_not_fit_together_abort_the_round",
            MASKING_CHEATS + "test_a_party_that_gives_wrong_shares_is_named_and_the_round_goes_on",
        ),
    ),
    mutant(
        "no other shares tried where some do not fit",
        ("sealing/recombining.py", "len(self._givers) - self._threshold, tries)", "0, tries)"),
        tests=(MASKING_CHEATS + "test_a_party_that_gives_wrong_shares_is_named_and_the_round_goes_on",),
    ),
    mutant(
        "a party whose words were refused not named where the others insist on it",
        ("sealing/masked.py", 'f"{reason}{missing}{reasons(refused)}"', 'f"{reason}"'),
        tests=(MASKING_CHEATS + "test_a_party_without_which_nobody_signs_is_named",),
    ),
    mutant(
        "a full ciphertext taken for an upload if it is packed small",
        ("sealing/seal_memory.py", "if unpacked_bytes(data[HEADER_BYTES:]) > most:", "if False:"),
        tests=(
            BFV + "test_a_full_ciphertext_is_refused_however_small_it_was_packed",
            ENCRYPTED_PARTS + "test_clients_whose_ciphertexts_cancel_are_refused_and_named",
        ),
    ),
    mutant(
        "of senders whose ciphertexts cancel only the last left out",
        ("sealing/encrypted_round.py", "[: refusal.terms]", "[refusal.terms - 1 : refusal.terms]"),
        tests=(ENCRYPTED_PARTS + "test_whose_ciphertexts_add_up_to_none_are_left_out_together",),
    ),
)
