//! The operator: `controller`, `gateway`, `sweep`, `uninstall`.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use srchat_operator::args::{Arguments, Command};
use srchat_operator::{gateway, session, sweep, telemetry, uninstall};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    // Before anything else: kube, reqwest and our own TLS all ask for the process's provider, and the first one asked would choose.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing runs before main");
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&*error), "the operator stops");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Outcome {
    telemetry::start(&arguments.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Controller(args) => Ok(session::run(*args).await?),
            Command::Gateway(args) => Ok(gateway::run(args).await?),
            Command::Sweep(args) => Ok(sweep::once::run(args).await?),
            Command::Uninstall(args) => Ok(uninstall::run(args).await?),
        }
    })
}

/// The error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
