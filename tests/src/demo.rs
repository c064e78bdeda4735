//! The demo: one session from `kubectl apply` to the proof that its pod is gone, on embedded parts, for a program
//! (`--check`), for a person, or left running (`--serve`).

mod args;
mod check;
mod client;
mod env;
mod follow;
mod leftovers;
mod person;
mod report;
mod serve;
mod stage;
mod timing;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cache::say;
use crate::explain::causes;
use crate::requirements;
use args::Arguments;
pub use client::{Answer, Client};
use leftovers::Before;

/// As shells report a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// How a demo ended.
enum Outcome {
    /// Every step held.
    Held,
    /// A step did not hold; it has been told.
    Failed,
    /// Somebody wanted it to end.
    Interrupted,
}

/// Runs the demo that the command line asks for, to its end.
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    // Asked first: what is missing is found before anything is started, and named all at once.
    let mut arguments = Arguments::parse_from(args::without_one_dash_dash(arguments));
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !(arguments.check || arguments.serve || terminal) {
        say("no terminal on stdin and stdout: running as --check");
        arguments.check = true;
    }
    let prepared = requirements::check()
        .map_err(|missing| missing.to_string())
        .and_then(|()| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build();
            Ok((
                Before::look().map_err(|error| error.to_string())?,
                runtime.map_err(|error| error.to_string())?,
            ))
        });
    let (before, runtime) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            say(&format!("error: {why}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let stop = stop_on_signals();
        if arguments.check {
            check::run(&arguments, &before, &stop).await
        } else if arguments.serve {
            serve::run(&arguments, &stop).await
        } else {
            person::run(&arguments, &stop).await
        }
    });
    match outcome {
        Outcome::Held => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::FAILURE,
        Outcome::Interrupted => ExitCode::from(INTERRUPTED),
    }
}

/// Cancelled by the first signal that asks us to end. From then on everything is on its way out, in order.
fn stop_on_signals() -> CancellationToken {
    let stop = CancellationToken::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let Ok(mut signals) = signal(kind) else {
            continue;
        };
        let stop = stop.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                stop.cancel();
            }
        });
    }
    stop
}

/// Tells an error with its causes.
fn tell(error: &(dyn std::error::Error + 'static)) {
    say(&format!("error: {}", causes(error)));
}

/// Writes a line to stdout; a reader that has gone does not stop the end of the demo.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
