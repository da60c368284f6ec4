"""Node ids of the tests that mutants name."""

from __future__ import annotations

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
BFV = "tests/unit/test_bfv.py::"
CHEATING = "tests/integration/test_cheating_servers.py::"
ENCRYPTED = "tests/integration/test_encrypted_rounds.py::"
SITE = "tests/unit/test_site_policy.py::"
ENCRYPTED_PARTS = "tests/unit/test_encrypted.py::"
MASKED = "tests/unit/test_masked.py::"
MASKING_CHEATS = "tests/unit/test_masking_cheats.py::"
REFUSALS = "tests/unit/test_masking_refusals.py::"
SITES = "tests/integration/test_remote_engine.py::"

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
SINGLE_CHARGED = (
    "tests/unit/test_server.py::"
    "test_trap_11_contributions_to_a_round_that_fails_are_charged_where_one_counts_by_itself"
)
NO_SECRET = PROTOCOL + "test_trap_10_no_secret_of_a_client_reaches_the_server"
ANSWERED_ONCE = PROTOCOL + "test_trap_10_a_question_is_answered_once_and_then_with_the_same_bytes"
STAGES_CHARGED = TWO_STAGES + "test_trap_11_every_opened_sum_is_in_the_ledger_by_its_stage"
STAGE_NOISE = TWO_STAGES + "test_trap_11_the_noise_of_each_stage_is_what_it_is_charged_for"
STAGES_CALIBRATED = "tests/unit/test_dr_encoder.py::test_both_stages_are_calibrated_together"
VISIBLE = CANARIES + "test_trap_09_canaries_are_as_visible_as_the_ledger_says"
NAN_IS_ZERO = "tests/unit/test_clip.py::test_trap_08_a_unit_that_is_not_finite_contributes_zero"
NAN_UNDER_NOISE = "tests/integration/test_poison_norm.py::test_under_noise_too_nan_counts_as_zero"
COMPANY = "tests/unit/test_train.py::test_a_record_s_gradient_has_the_same_bits_in_any_company"
UNSHARED = "tests/unit/test_train.py::test_a_shape_that_keeps_no_bits_is_not_shared"
CODE_COMPANY = "tests/unit/test_pipeline.py::test_a_unit_s_code_does_not_depend_on_its_company"
OVER_POLICY = SITES + "test_a_run_over_a_sites_policy_is_refused_with_the_reason_on_both_sides"
ALTERED = SITES + "test_an_answer_under_another_key_or_for_another_round_drops_its_site_out"
LOST_LEDGER = (
    "tests/integration/test_remote_engine.py::test_a_site_whose_ledger_was_lost_or_put_back_answers_nothing"
)
PUT_BACK = (
    "tests/integration/test_failures.py::test_a_checkpoint_that_was_lost_or_put_back_is_not_gone_on_from"
)
PUT_BACK_AT_SERVER = (
    "tests/integration/test_remote_engine.py::test_a_server_that_was_put_back_ends_no_run_by_an_old_ledger"
)
REPLAYED = SITES + "test_envelopes_change_nothing_and_old_questions_are_refused"
STARTS = (
    "tests/unit/test_client.py::"
    "test_an_answer_that_is_begun_more_often_than_one_crash_explains_is_charged_each_time"
)
SAME_BATCH = "tests/unit/test_client.py::test_the_start_that_costs_nothing_has_the_batch_that_was_charged"
ONE_NAME = SITES + "test_a_run_of_one_name_is_one_run"
ONE_AGREEMENT = SITES + "test_a_server_that_tells_sites_of_different_runs_opens_nothing"
FOREIGN_JOB = "tests/unit/test_flare_job.py::test_whatever_differs_from_it_is_refused"
UNPACKED = "tests/integration/test_flare_site.py::test_a_job_with_code_is_refused_before_anything_is_unpacked"
CUSTOM = "tests/integration/test_flare_site.py::test_no_folder_of_a_job_is_where_python_looks_for_modules"
NO_FILE_READ = "tests/integration/test_flare_messages.py::test_a_message_reads_no_file"
UPLOADED = (
    "tests/integration/test_flare_messages.py::test_files_are_uploaded_to_the_server_by_operators_alone"
)
NO_FILE_WRITTEN = "tests/integration/test_flare_messages.py::test_a_message_writes_no_file"
ADMITTED = "tests/unit/test_flare_admitted.py::test_whatever_else_a_site_sends_is_refused"
FLARE_MESSAGES = "tests/integration/test_flare_messages.py::"
ASKED = FLARE_MESSAGES + "test_the_server_asks_whose_message_it_is_and_who_signed_a_job"
NO_EVENT = FLARE_MESSAGES + "test_a_message_fires_no_event"
NO_TASK = FLARE_MESSAGES + "test_a_job_at_a_site_answers_no_question_that_it_did_not_fetch"
NO_OBJECT = FLARE_MESSAGES + "test_a_message_holds_nothing_that_ours_do_not"
SIGNED_JOB = "tests/integration/test_flare_site.py::test_a_job_that_no_operator_signed_is_refused"
ONE_QUESTION = "tests/unit/test_worker.py::test_questions_are_asked_one_at_a_time"
ADAPTIVE_RUNS = (
    "tests/unit/test_site_policy.py::test_runs_that_may_follow_from_each_other_are_added_up_as_such"
)
ONE_REVISION = (
    "tests/integration/test_remote_engine.py::test_a_site_takes_no_other_revision_of_a_model_than_it_approved"
)
DEAF = "tests/integration/test_flare_messages.py::test_the_network_agent_of_a_site_takes_no_requests"
EXPERTS = "tests/unit/test_train.py::test_records_of_a_model_with_experts_pass_one_by_one"
TOO_LONG = (
    "tests/unit/test_material.py::test_records_longer_than_the_model_reads_are_refused_before_there_are_any"
)
NO_EPSILON_TOGETHER = (
    "tests/unit/test_server.py::test_where_records_share_the_arithmetic_of_a_micro_batch_there_is_no_epsilon"
)
PUBLIC_ORDER = (
    "tests/unit/test_data_files.py::test_a_private_row_says_nothing_about_which_public_records_come_first"
)
WEIGHT_ONCE = "tests/unit/test_systems.py::test_a_client_s_weight_counts_once_in_its_local_steps"
AS_AUDITED = (
    "tests/integration/test_rehearsal.py::test_every_mechanism_of_a_rehearsal_is_that_of_the_audited_run"
)
