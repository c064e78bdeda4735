//! Whole lives of sessions on real parts: bad input, deletion at every stage, crashes at every stage, hosts and engines that go wrong,
//! limits. Journeys that trouble nobody but their own pods share one rig and go on at the same time, since most of each is waiting;
//! those that trouble a cluster or an account have another rig, one after the other. Both rigs end in order, after the last.

mod journeys {
    mod account;
    mod bad_input;
    mod crashes;
    mod deletion;
    mod draws;
    mod engines;
    mod hosts;
    mod illegible;
    mod limits;
    mod quiet;
    mod releases;
    mod resource;
    mod rights;
    mod stage;

    pub use stage::{JOURNEYS_AT_ONCE, on_runtime, strike};

    /// All of them; the long ones first, so that nobody waits for them in the end.
    pub fn all() -> Vec<libtest_mimic::Trial> {
        srchat_tests::trials![on_runtime:
            quiet::a_session_at_rest_is_written_by_nobody_and_a_minute_without_an_api_server_ends_nothing,
            hosts::a_pod_whose_sshd_never_comes_is_replaced_after_the_startup_deadline,
            limits::a_run_ends_when_its_total_cost_is_reached,
            hosts::a_pod_that_vanishes_is_replaced_and_only_one_lives,
            hosts::a_host_that_is_started_again_is_told_nothing_and_ended,
            hosts::a_container_that_crashes_again_and_again_is_given_up_and_replaced,
            draws::machines_that_do_not_get_a_pod_up_in_six_minutes_are_replaced,
            account::calls_to_the_provider_are_counted_and_do_not_grow_with_the_sessions,
            account::what_was_billed_is_what_status_and_receipt_say,
            illegible::a_session_whose_stored_spec_cannot_be_read_rents_nothing_and_can_be_deleted,
            account::a_key_that_is_missing_wrong_or_revoked_is_said_so_and_nothing_is_lost,
            crashes::a_controller_killed_at_every_stage_rents_once_and_forgets_nothing,
            crashes::a_gateway_comes_back_and_an_absent_api_server_ends_nothing,
            hosts::a_host_that_cannot_boot_is_condemned_at_once_and_tried_again_elsewhere,
            hosts::a_host_that_goes_wrong_ends_the_run_and_leaves_nothing,
            hosts::of_two_pods_for_one_request_one_serves_and_the_other_ends,
            engines::an_engine_that_dies_while_loading_leaves_its_last_words_and_no_secret,
            engines::a_model_that_vllm_cannot_start_is_served_by_transformers_on_the_same_pod,
            engines::an_engine_that_dies_while_serving_is_replaced,
            engines::a_client_that_leaves_in_the_middle_of_an_answer_stops_the_engine,
            limits::a_run_ends_at_its_lifetime,
            limits::a_session_that_nobody_uses_ends_and_rents_again_only_when_asked_to,
            deletion::a_session_deleted_at_any_stage_leaves_nothing,
            rights::without_rights_to_secrets_nothing_is_rented_and_what_was_is_ended_all_the_same,
            releases::a_resource_of_another_release_drops_no_limit_in_silence_and_holds_up_no_end,
            deletion::a_paused_session_rents_nothing_and_comes_back_with_the_same_token,
            bad_input::what_cannot_be_rented_is_a_sentence_and_costs_nothing,
            bad_input::a_model_behind_a_licence_needs_a_token_that_is_offered_and_admitted,
            bad_input::what_is_no_session_is_refused_at_once_in_a_sentence,
        ]
    }
}

fn main() -> std::process::ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments
        .test_threads
        .get_or_insert(journeys::JOURNEYS_AT_ONCE);
    let conclusion = libtest_mimic::run(&arguments, journeys::all());
    journeys::strike();
    conclusion.exit_code()
}
