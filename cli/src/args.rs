//! What the command line can say: clap types and nothing else.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

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
    /// Chat with a session
    Attach(Attach),
    /// Ask one question and print the answer
    Ask(Ask),
    /// Copy a file to or from a session (NAME:path is remote)
    Cp(Copy),
    /// List sessions, what they cost and why one is not ready
    Ls(List),
    /// Show one session in full
    Status(Status),
    /// End a session: wipe the host, terminate the pod, prove that it is gone
    Rm(Remove),
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
    pub wait: Option<std::time::Duration>,
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

/// `srchat cp`.
#[derive(Debug, Args)]
pub struct Copy {
    /// What to copy: a local path, or NAME:path
    pub source: String,
    /// Where to: a local path, or NAME:path; one of the two is remote
    pub destination: String,
    /// Replace a local file that exists
    #[arg(short, long)]
    pub force: bool,
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
    /// The session
    pub name: String,
}

/// `srchat rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// The session
    pub name: String,
    /// Follow the end until the pod is proved gone
    #[arg(long)]
    pub wait: bool,
}

/// Parses Go-style durations: `90s`, `20m`, `1h30m`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 20m or 1h30m");
    let mut seconds = 0_u64;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        seconds = count
            .checked_mul(unit)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(wrong)?;
        digits.clear();
    }
    if !digits.is_empty() || text.is_empty() {
        return Err(wrong());
    }
    Ok(std::time::Duration::from_secs(seconds))
}
