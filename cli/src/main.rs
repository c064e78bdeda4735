//! `srchat`: chat with a private model from a terminal. Parse, resolve, run, exit code.

mod args;
mod chat;
mod cluster;
mod commands;
mod failure;
mod gateway;
mod print;
mod session;
mod transfer;

use args::{Arguments, Command};
use clap::Parser as _;
use failure::{Code, Failure};
use print::Printer;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let print = Arc::new(Printer::new());
    match run(arguments, &print) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                print.failure(&failure);
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(arguments: Arguments, print: &Arc<Printer>) -> Result<(), Failure> {
    // One provider of cryptography for every TLS connection; a second call in one process changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Error, format!("could not start: {e}")))?;
    let outcome = runtime.block_on(obey(arguments, print));
    // The editor's thread may sit in a read that never ends.
    runtime.shutdown_background();
    outcome
}

async fn obey(arguments: Arguments, print: &Arc<Printer>) -> Result<(), Failure> {
    let output = arguments.global.output;
    let cluster = cluster::Cluster::connect(&arguments.global).await?;
    let chats = matches!(arguments.command, Command::Attach(_));
    let act = async {
        match arguments.command {
            Command::Attach(args) => commands::attach::attach(&cluster, args, print).await,
            Command::Ask(args) => commands::ask::ask(&cluster, args, print).await,
            Command::Cp(args) => commands::cp::cp(&cluster, args, output, print).await,
            Command::Ls(args) => commands::ls::ls(&cluster, args, output, print).await,
            Command::Status(args) => commands::status::status(&cluster, args, output, print).await,
            Command::Rm(args) => commands::rm::rm(&cluster, args, print).await,
        }
    };
    // The chat gives Ctrl-C a meaning of its own: it stops the answer.
    if chats {
        return act.await;
    }
    tokio::select! {
        outcome = act => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Code::Interrupted)),
    }
}
