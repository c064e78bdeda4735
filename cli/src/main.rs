//! `srchat`: chat with a private model from a terminal. Parse, resolve, run, exit code.

mod args;
mod chat;
mod cluster;
mod commands;
mod confirm;
mod failure;
mod gateway;
mod history;
mod place;
mod print;
mod proposal;
mod provider;
mod ready;
mod secret_line;
mod session;
mod signals;
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
    // What needs no cluster needs no runtime either.
    match &arguments.command {
        Command::Completions(args) => return commands::documents::completions(args, print),
        Command::Man(args) => return commands::documents::man(args),
        Command::History(verb) => {
            return commands::history::history(verb.clone(), arguments.global.output, print);
        }
        _ => {}
    }
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
    // The chat gives Ctrl-C a meaning of its own: it stops the answer. Others clean up after it.
    let own_end = matches!(
        arguments.command,
        Command::Attach(_) | Command::Run(_) | Command::Plan(_)
    );
    let act = act(arguments, print);
    if own_end {
        return act.await;
    }
    tokio::select! {
        outcome = act => outcome,
        _ = tokio::signal::ctrl_c() => {
            print.clear_progress();
            Err(Failure::silent(Code::Interrupted))
        }
    }
}

async fn act(arguments: Arguments, print: &Arc<Printer>) -> Result<(), Failure> {
    let output = arguments.global.output;
    let cluster = cluster::Cluster::connect(&arguments.global).await?;
    match arguments.command {
        Command::Run(args) => commands::run::run(&cluster, args, print).await,
        Command::Plan(args) => commands::plan::plan(&cluster, args, output, print).await,
        Command::Attach(args) => commands::attach::attach(&cluster, args, print).await,
        Command::Ask(args) => commands::ask::ask(&cluster, args, print).await,
        Command::Proxy(args) => commands::proxy::proxy(cluster, args, output, print).await,
        Command::Login => commands::login::login(&cluster, print).await,
        Command::Doctor => commands::doctor::doctor(&cluster, output, print).await,
        Command::Ls(args) => commands::ls::ls(&cluster, args, output, print).await,
        Command::Status(args) => commands::status::status(&cluster, args, output, print).await,
        Command::Logs(args) => commands::logs::logs(&cluster, args, print).await,
        Command::Cp(args) => commands::cp::cp(&cluster, args, output, print).await,
        Command::Files(args) => commands::files::files(&cluster, args, output, print).await,
        Command::Pause(args) => commands::pause::pause(&cluster, args, output, print).await,
        Command::Resume(args) => commands::pause::resume(&cluster, args, output, print).await,
        Command::Extend(args) => commands::extend::extend(&cluster, args, output, print).await,
        Command::Rm(args) => commands::rm::rm(&cluster, args, print).await,
        Command::Completions(args) => commands::documents::completions(&args, print),
        Command::Man(args) => commands::documents::man(&args),
        Command::History(verb) => commands::history::history(verb, output, print),
    }
}
