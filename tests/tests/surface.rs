//! Everything that a person or a program touches: each command of `srchat` and of kubectl run as a user would, on real parts. One
//! rig, one session that serves, and a few that come and go beside it.
#![allow(clippy::unwrap_used)]

mod surface {
    mod bad_input;
    mod door;
    mod examples;
    mod files;
    mod kubectl;
    mod life;
    mod looking;
    mod person;
    mod readme;
    mod stage;

    pub use stage::{on_runtime, strike};

    /// All of them; the long ones first, so that nobody waits for them in the end.
    pub fn all() -> Vec<libtest_mimic::Trial> {
        srchat_tests::trials![on_runtime:
            readme::every_command_works_as_it_stands,
            life::a_session_is_run_paused_resumed_and_ended_by_name,
            life::told_to_stop_run_ends_what_it_has_rented,
            life::a_plan_costs_nothing_and_leaves_nothing,
            life::what_nobody_has_confirmed_rents_nothing,
            life::a_limit_is_raised_by_those_who_say_so_and_by_nobody_else,
            life::a_session_is_extended_as_far_as_the_resource_allows,
            examples::every_example_is_taken_and_says_what_became_of_it,
            examples::the_client_in_the_cluster_finds_every_key_that_it_names,
            kubectl::a_session_can_be_watched_described_waited_for_and_explained,
            kubectl::a_session_is_scaled_and_patched,
            person::from_a_models_name_to_a_chat_and_back_to_nothing,
            person::a_limit_is_raised_by_hand_or_not_at_all,
            person::a_key_is_typed_unseen_and_ctrl_c_leaves_the_terminal_as_it_was,
            person::what_would_be_lost_is_asked_about_first,
            person::twenty_columns_are_enough,
            looking::a_session_that_serves_is_listed_and_shown,
            looking::the_engines_log_is_shown_and_followed,
            looking::doctor_finds_a_whole_installation_in_order,
            looking::a_name_that_is_almost_right_finds_its_session,
            files::a_file_comes_back_as_it_was,
            files::folders_and_patterns_go_both_ways,
            files::a_thousand_small_files_are_one_transfer,
            files::what_was_cut_off_goes_on,
            files::what_is_there_is_replaced_by_force_only,
            files::files_are_listed_and_removed,
            files::a_full_disk_is_a_sentence_and_leaves_no_half_file,
            door::tools_on_this_machine_talk_to_the_session_without_its_token,
            door::pages_in_a_browser_and_other_users_are_kept_out,
            readme::the_readmes_commands_are_found_wherever_they_stand,
            bad_input::without_a_cluster_there_is_a_sentence_and_a_hint,
            bad_input::without_the_resource_or_the_operator_that_is_what_is_said,
            bad_input::of_several_sessions_one_has_to_be_named,
            bad_input::who_may_not_is_told_so,
            bad_input::a_reader_that_goes_away_is_no_error,
            bad_input::without_utf8_and_on_a_narrow_terminal_it_stays_readable,
            bad_input::a_command_line_that_makes_no_sense_is_refused_before_anything_is_asked,
            bad_input::a_key_is_tried_before_it_is_kept,
        ]
    }
}

fn main() -> std::process::ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Most of each is waiting for others' clocks; two cores bear the rest.
    arguments.test_threads.get_or_insert(6);
    let conclusion = libtest_mimic::run(&arguments, surface::all());
    surface::on_runtime(surface::strike()).ok();
    conclusion.exit_code()
}
