//! `srchat history`.

use clap::{Subcommand, ValueEnum};

/// What to do with the conversations of this machine.
#[derive(Debug, Clone, Subcommand)]
pub enum HistoryVerb {
    /// List the conversations, oldest first
    Ls,
    /// Show a conversation
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Print a conversation as Markdown or JSON
    Export {
        /// Its id, or the beginning of it
        id: String,
        /// How to write it; Markdown unless said otherwise
        #[arg(long, value_enum)]
        format: Option<ExportFormat>,
    },
    /// Find what was said, in any conversation
    Search {
        /// What to look for; upper and lower case are the same
        text: String,
    },
    /// Remove conversations for good
    Rm {
        /// Their ids, or the beginnings of them
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// Remove every conversation
        #[arg(long)]
        all: bool,
    },
}

/// How a conversation is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// For people.
    Markdown,
    /// For programs.
    Json,
}
