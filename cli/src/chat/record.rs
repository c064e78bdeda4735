//! The conversation on disk. What goes wrong with it is said once, and the chat goes on.

use crate::failure::Failure;
use crate::history::entry::{Entry, Header};
use crate::history::{self, History, Writer};
use crate::print::Printer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keeps the conversation, or does not.
pub struct Record {
    writer: Option<Writer>,
    folder: Option<PathBuf>,
    print: Arc<Printer>,
    /// The last record found no room.
    failing: bool,
}

impl Record {
    /// Begins a conversation; without `wanted` nothing is ever written.
    pub fn begin(wanted: bool, header: &Header, print: &Arc<Printer>) -> Self {
        let mut record = Self {
            writer: None,
            folder: None,
            print: Arc::clone(print),
            failing: false,
        };
        if wanted {
            match begin(header) {
                Ok((folder, writer)) => {
                    (record.folder, record.writer) = (Some(folder), Some(writer))
                }
                Err(failure) => {
                    record.print.failure(&failure);
                    record.print.note("This conversation is not kept.");
                }
            }
        }
        record
    }

    /// Where the conversations are, if this one is kept there.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The conversation's id, if it is kept.
    pub fn id(&self) -> Option<&str> {
        self.writer.as_ref().map(Writer::id)
    }

    /// Adds to it.
    pub fn add(&mut self, entry: &Entry) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        match writer.append(entry) {
            Ok(()) if self.failing => {
                self.failing = false;
                self.print
                    .note("The conversation is being kept again; nothing of it is missing.");
            }
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                self.print.failure(
                    &Failure::from(error).hint(
                        "the chat goes on; what was said is written as soon as there is room",
                    ),
                );
            }
        }
    }
}

fn begin(header: &Header) -> Result<(PathBuf, Writer), Failure> {
    let folder = history::folder()?;
    let writer = History::open(&folder)?.begin(header);
    let writer = writer.map_err(|source| history::Error::Write {
        path: folder.clone(),
        source,
    })?;
    Ok((folder, writer))
}
