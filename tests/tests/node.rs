//! srchat in a cluster that runs pods: on a real node, in a place that this program has to itself. One node for all trials.
#![allow(clippy::unwrap_used)]

mod node {
    mod basics;
    mod chart;
    mod chat;
    mod idle;
    mod kill;
    mod release;
    mod stage;

    pub use stage::{on_runtime, prepare, strike};

    /// All of them.
    pub fn all() -> Vec<libtest_mimic::Trial> {
        srchat_tests::trials![on_runtime:
            release::it_is_installed_used_upgraded_and_taken_away_and_nothing_is_left,
            basics::a_pod_finds_another_by_the_name_of_its_service,
        ]
    }
}

use std::process::ExitCode;

use srchat_tests::explain::causes;
use srchat_tests::node::confined;
use srchat_tests::{cache, skipped};

fn main() -> ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    let trials = node::all();
    if !arguments.list && confined::inside().is_none() {
        if let Err(reason) = confined::possible() {
            for trial in trials {
                skipped::of(trial.name(), &reason);
            }
            return ExitCode::SUCCESS;
        }
        // There is no way out from inside: what is to be fetched or built is, before.
        node::prepare();
        return confined::again().unwrap_or_else(|error| {
            cache::say(&causes(&error));
            ExitCode::FAILURE
        });
    }
    arguments.test_threads.get_or_insert(4);
    let conclusion = libtest_mimic::run(&arguments, trials);
    node::strike();
    conclusion.exit_code()
}
