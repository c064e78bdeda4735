//! What the command line can say: clap types and nothing else.

pub mod history;
pub mod values;
pub mod wishes;

use clap::{Args, Parser, Subcommand, ValueEnum};
use srchat_crds::Span;
use std::path::PathBuf;
use std::time::Duration;
use values::{duration, span};
pub use wishes::{Plan, Run, Wishes};

/// Chat with a private model on a GPU that exists only for you.
#[derive(Debug, Parser)]
#[command(name = "srchat", version, arg_required_else_help = true)]
pub struct Arguments {
    /// Where the cluster is and how to print.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every verb takes. The first three mean what they mean to kubectl.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Path of the kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Namespace of the session
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace that the operator runs in
    #[arg(
        long,
        global = true,
        env = "SRCHAT_NAMESPACE",
        default_value = "srchat-system"
    )]
    pub system_namespace: String,
    /// How to print data
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t = Output::Text
    )]
    pub output: Output,
}

/// How data goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The verbs, one file of `commands/` each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Rent a GPU for a model, chat, and end it again
    Run(Run),
    /// Show what a model would be rented, and what it would cost
    Plan(Plan),
    /// Chat with a session
    Attach(Attach),
    /// Ask one question and print the answer
    Ask(Ask),
    /// Offer a session to every tool on this machine, as plain HTTP on 127.0.0.1
    Proxy(Proxy),
    /// Give the operator RunPod's API key: from RUNPOD_API_KEY, from .env, or typed
    Login,
    /// List sessions, what they cost and why one is not ready
    Ls(List),
    /// Show one session in full
    Status(Status),
    /// Show the end of the model server's log
    Logs(Logs),
    /// Copy files to or from a session (NAME:path is remote)
    Cp(Copy),
    /// List or remove the files of a session
    #[command(subcommand)]
    Files(Files),
    /// End what a session rents and keep its name, URL and token
    Pause(Named),
    /// Rent again for a session that is paused or has ended
    Resume(Named),
    /// Let a session live longer
    Extend(Extend),
    /// End a session: wipe the host, terminate the pod, prove that it is gone
    Rm(Remove),
    /// Look at everything that a session stands on, and say what to do
    Doctor,
    /// Read, export, search and remove the encrypted conversations of this machine
    #[command(subcommand)]
    History(history::HistoryVerb),
    /// Print the completions of a shell
    Completions(Completions),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(Man),
}

/// `srchat attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The session; may be left out when there is only one
    pub name: Option<String>,
    /// A first prompt, sent at once
    pub prompt: Option<String>,
    /// How long to wait for the model to be served, such as 30s or 20m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Keep nothing of the conversation on this machine
    #[arg(long)]
    pub no_history: bool,
}

/// `srchat ask`.
#[derive(Debug, Args)]
pub struct Ask {
    /// The session
    pub name: String,
    /// The question; `-`, or nothing, reads it from standard input
    pub prompt: Option<String>,
    /// A system prompt
    #[arg(long)]
    pub system: Option<String>,
    /// Sampling temperature, 0 to 2
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Upper bound of the answer's length, in tokens
    #[arg(long)]
    pub max_tokens: Option<u32>,
    /// A JSON schema that the answer must follow
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// A text file to put before the question; repeatable
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// A PNG, JPEG, WebP or GIF to send along; repeatable
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// Print the whole response object as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `srchat proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// The session; may be left out when there is only one
    pub name: Option<String>,
    /// The port to listen on; 0 takes one that is free
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
}

/// `srchat ls`.
#[derive(Debug, Args)]
pub struct List {
    /// In every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `srchat status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The session; may be left out when there is only one
    pub name: Option<String>,
}

/// `srchat logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The session; may be left out when there is only one
    pub name: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// How many lines from the end
    #[arg(long, value_name = "LINES", default_value_t = 200)]
    pub tail: u32,
}

/// `srchat cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// What to copy: files and folders of this machine, or NAME:path; `*`, `?` and `[a-z]` match names
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Where to: a local path, or NAME:path; one side of the two is remote
    pub destination: String,
    /// Replace files that exist
    #[arg(short, long)]
    pub force: bool,
}

/// `srchat files`.
#[derive(Debug, Subcommand)]
pub enum Files {
    /// List the files of a session
    Ls {
        /// The session, or NAME:folder; may be left out when there is only one
        place: Option<String>,
    },
    /// Remove files of a session
    Rm {
        /// NAME:path; a path that ends with a slash removes a whole folder, `*`, `?` and `[a-z]` match names
        #[arg(required = true, value_name = "NAME:PATH")]
        paths: Vec<String>,
    },
}

/// A verb that takes a session and nothing else.
#[derive(Debug, Args)]
pub struct Named {
    /// The session
    pub name: String,
}

/// `srchat extend`.
#[derive(Debug, Args)]
pub struct Extend {
    /// The session
    pub name: String,
    /// By how much, such as 30m or 2h
    #[arg(value_name = "DURATION", value_parser = span)]
    pub by: Span,
}

/// `srchat rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// The sessions
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Follow the end until the pod is proved gone
    #[arg(long)]
    pub wait: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `srchat completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `srchat man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Where the pages go; made where it does not exist
    pub folder: PathBuf,
}
