//! Conversations on this machine: one encrypted file each, appended to by one process at a time, readable by whoever
//! has the key file beside them. What lies on disk is decided in `history/frame.rs`.

pub mod entry;
pub mod export;
pub mod frame;
pub mod key;
pub mod prompts;

use crate::failure::{Code, Failure};
use entry::{Entry, Header, Story};
use frame::{Conversation, Master, Sealer};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Of a conversation's file.
const SUFFIX: &str = "chat";
/// Records that wait for room on the disk, in bytes of text; beyond this the oldest are given up.
const WAITING: usize = 64 << 20;

/// What can be wrong with the history.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No home folder.
    #[error("there is no folder for the history: neither XDG_DATA_HOME nor HOME is set")]
    Homeless,
    /// A file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("could not write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key's file may be read by others.
    #[error("the key of the history, {}, may be read by others (its mode is {mode:o})", path.display())]
    KeyIsShared {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key's file holds something else.
    #[error("{} does not hold a key", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// There are conversations and no key.
    #[error("the key of the history, {}, is missing", path.display())]
    KeyIsMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Sealed with another key.
    #[error("conversation {id} was written with another key")]
    WrongKey {
        /// The conversation.
        id: String,
        /// The key that was tried.
        key: PathBuf,
    },
    /// Written by a later srchat.
    #[error("conversation {id} was written by a newer version of srchat")]
    Newer {
        /// The conversation.
        id: String,
    },
    /// Nothing in the file is a record of this conversation.
    #[error("nothing of conversation {id} can be read: all of its records are damaged")]
    Ruined {
        /// The conversation.
        id: String,
    },
    /// No such conversation.
    #[error("there is no conversation {id}")]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// The beginning of several.
    #[error("{id} is the beginning of several conversations: {found}")]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Those that begin like it.
        found: String,
    },
    /// Another process writes it.
    #[error("conversation {id} is open in another srchat")]
    Busy {
        /// The conversation.
        id: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Homeless => (
                Code::Error,
                Some("set XDG_DATA_HOME, or chat with --no-history".into()),
            ),
            Error::Read { .. } => (Code::Error, None),
            Error::Write { .. } => (
                Code::Error,
                Some("is the disk full? --no-history chats without it".into()),
            ),
            Error::KeyIsShared { path, .. } => (
                Code::NotAllowed,
                Some(format!("chmod 600 {}", path.display())),
            ),
            Error::NotAKey { .. } => (
                Code::Error,
                Some("put the right file back; without it the conversations cannot be read".into()),
            ),
            Error::KeyIsMissing { .. } => (
                Code::Error,
                Some("put it back, or give the conversations up: srchat history rm --all".into()),
            ),
            Error::WrongKey { key, .. } => (
                Code::Error,
                Some(format!("put the key that wrote it at {}", key.display())),
            ),
            Error::Newer { .. } => (Code::Error, Some("upgrade srchat on this machine".into())),
            Error::Ruined { id } => (
                Code::Error,
                Some(format!(
                    "restore its file from a backup, or: srchat history rm {id}"
                )),
            ),
            Error::Unknown { .. } => (
                Code::NotFound,
                Some("`srchat history ls` lists them".into()),
            ),
            Error::Ambiguous { .. } => (Code::Usage, Some("give more of its digits".into())),
            Error::Busy { .. } => (Code::Error, Some("leave that chat first".into())),
        };
        let failure = Failure::new(code, error.to_string());
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The folder of the history and its key.
pub struct History {
    folder: PathBuf,
    master: Master,
}

/// Where the history is: `$XDG_DATA_HOME/srchat/history`.
///
/// # Errors
/// When there is no such place.
pub fn folder() -> Result<PathBuf, Error> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let data = set("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(set("HOME")?.join(".local/share")));
    Ok(data.ok_or(Error::Homeless)?.join("srchat/history"))
}

impl History {
    /// Opens the history for writing and reading; the first time, its folder and key are made.
    ///
    /// # Errors
    /// When the folder or the key cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Write {
            path: folder.to_owned(),
            source,
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed)?;
        let master = match key::read(folder)? {
            Some(master) => master,
            None if ids(folder)?.is_empty() => key::make(folder)?,
            // A new key beside conversations of an old one would hide that the old one is missing. Unless another
            // process has made both since we looked.
            None => key::read(folder)?.ok_or(Error::KeyIsMissing {
                path: key::path(folder),
            })?,
        };
        Ok(Self {
            folder: folder.to_owned(),
            master,
        })
    }

    /// Opens the history for reading; `None` when there is none.
    ///
    /// # Errors
    /// When there are conversations and their key cannot be read.
    pub fn existing(folder: &Path) -> Result<Option<Self>, Error> {
        match key::read(folder)? {
            Some(master) => Ok(Some(Self {
                folder: folder.to_owned(),
                master,
            })),
            None if ids(folder)?.is_empty() => Ok(None),
            None => Err(Error::KeyIsMissing {
                path: key::path(folder),
            }),
        }
    }

    /// All conversations, oldest first; one that cannot be read is an error among them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn stories(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = (String, Result<Story, Error>)>, Error> {
        let ids = ids(&self.folder)?;
        Ok(ids.into_iter().map(|id| {
            let story = self.story(&id);
            (id, story)
        }))
    }

    /// One conversation, by its whole id.
    ///
    /// # Errors
    /// When nothing of it can be read.
    pub fn story(&self, id: &str) -> Result<Story, Error> {
        let path = file_of(&self.folder, id);
        let unknown = || Error::Unknown { id: id.to_owned() };
        let conversation = conversation(id).ok_or_else(unknown)?;
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            bytes => bytes.map_err(|source| Error::Read { path, source })?,
        };
        let opened = frame::open(&bytes, &self.master, conversation);
        if opened.records.is_empty() {
            let id = id.to_owned();
            return Err(match (opened.newer, opened.foreign_key) {
                (true, _) => Error::Newer { id },
                (_, true) => Error::WrongKey {
                    id,
                    key: key::path(&self.folder),
                },
                (false, false) => Error::Ruined { id },
            });
        }
        let (mut header, mut entries, mut lost) = (None, Vec::new(), opened.lost);
        for (sequence, plain) in &opened.records {
            if *sequence == 0 {
                header = serde_json::from_slice(plain).ok();
                continue;
            }
            match serde_json::from_slice(plain) {
                Ok(entry) => entries.push(entry),
                Err(_) => lost += 1,
            }
        }
        Ok(Story::of(id.to_owned(), header, entries, lost))
    }

    /// A new conversation. Nothing is on disk before its first record.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn begin(&self, header: &Header) -> io::Result<Writer> {
        let mut conversation = Conversation::default();
        getrandom::fill(&mut conversation).map_err(io::Error::other)?;
        let header = serde_json::to_vec(header).map_err(io::Error::other)?;
        let id = hex::encode(conversation);
        Ok(Writer {
            sealer: Sealer::new(&self.master, conversation, &header),
            path: file_of(&self.folder, &id),
            id,
            file: None,
            next: 0,
            waiting: VecDeque::from([Zeroizing::new(header)]),
        })
    }
}

/// The ids of a folder's conversations, oldest first. Needs no key.
///
/// # Errors
/// When the folder cannot be read; a folder that does not exist has none.
pub fn ids(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let ours =
            path.extension().is_some_and(|suffix| suffix == SUFFIX) && conversation(id).is_some();
        // A file that vanished meanwhile is no conversation any more.
        if let (true, Ok(about)) = (ours, path.metadata()) {
            found.push(((about.mtime(), about.mtime_nsec()), id.to_owned()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// The whole id of the one conversation that begins so. Needs no key.
///
/// # Errors
/// When there is none, or there are several.
pub fn find(folder: &Path, beginning: &str) -> Result<String, Error> {
    let mut found = ids(folder)?;
    found.retain(|id| !beginning.is_empty() && id.starts_with(beginning));
    match (found.len(), found.pop()) {
        (1, Some(id)) => Ok(id),
        (_, None) => Err(Error::Unknown {
            id: beginning.to_owned(),
        }),
        (_, Some(last)) => Err(Error::Ambiguous {
            id: beginning.to_owned(),
            found: format!("{}, {last}", found.join(", ")),
        }),
    }
}

/// Removes a conversation's file, by its whole id. Needs no key.
///
/// # Errors
/// When another process writes it.
pub fn remove(folder: &Path, id: &str) -> Result<(), Error> {
    let path = file_of(folder, id);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Unknown { id: id.to_owned() },
        _ => Error::Write {
            path: path.clone(),
            source,
        },
    };
    let file = File::open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => fs::remove_file(&path).map_err(failed),
        Err(TryLockError::WouldBlock) => Err(Error::Busy { id: id.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn file_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.{SUFFIX}"))
}

fn conversation(id: &str) -> Option<Conversation> {
    let mut conversation = Conversation::default();
    let lower = !id.bytes().any(|b| b.is_ascii_uppercase());
    (lower && hex::decode_to_slice(id, &mut conversation).is_ok()).then_some(conversation)
}

/// The conversation that this process writes. Its file is locked as long as this lives.
pub struct Writer {
    sealer: Sealer,
    path: PathBuf,
    id: String,
    file: Option<File>,
    /// Sequence number of the first record that waits.
    next: u64,
    /// Records that are not on disk yet.
    waiting: VecDeque<Zeroizing<Vec<u8>>>,
}

impl Writer {
    /// The conversation's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends a record, and those before it that found no room. What fails now is tried again with the next one.
    ///
    /// # Errors
    /// When it cannot be written now. The file is as it was before.
    pub fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        let plain = serde_json::to_vec(entry).map_err(|e| self.failed(io::Error::other(e)))?;
        self.waiting.push_back(Zeroizing::new(plain));
        while self.waiting.iter().map(|plain| plain.len()).sum::<usize>() > WAITING {
            // The gap in the sequence tells the reader.
            self.waiting.pop_front();
            self.next += 1;
        }
        while let Some(plain) = self.waiting.front() {
            let frame = self.sealer.seal(self.next, plain);
            let written = frame.and_then(|frame| write(&mut self.file, &self.path, &frame));
            written.map_err(|source| self.failed(source))?;
            self.waiting.pop_front();
            self.next += 1;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write {
            path: self.path.clone(),
            source,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Whoever leaves has no more use for an error; what was appended is in the system's hands in any case.
            let _ = file.sync_data();
        }
    }
}

/// Appends all of it or nothing.
fn write(slot: &mut Option<File>, path: &Path, frame: &[u8]) -> io::Result<()> {
    let file = match slot {
        Some(file) => file,
        None => {
            let file = OpenOptions::new()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            // A new name of 64 random bits is nobody else's; the lock is for those who would remove it.
            file.try_lock().map_err(io::Error::from)?;
            slot.insert(file)
        }
    };
    let before = file.metadata()?.len();
    file.write_all(frame).inspect_err(|_| {
        // If even this fails, the reader passes over the torn record.
        let _ = file.set_len(before);
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::Timestamp;

    fn header() -> Header {
        let text = |text: &str| text.to_owned();
        Header {
            model: text("Qwen/Qwen3-8B"),
            session: text("qwen"),
            namespace: text("team"),
            uid: text("uid"),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    fn said(text: &str) -> Entry {
        Entry::Said {
            at: Timestamp::UNIX_EPOCH,
            text: text.into(),
            pictures: vec![],
        }
    }

    fn words(story: &Story) -> Vec<&str> {
        story
            .turns
            .iter()
            .filter_map(|turn| turn.said.as_deref())
            .collect()
    }

    #[test]
    fn a_conversation_outlives_its_process_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        let mut writer = history.begin(&header()).unwrap();
        writer
            .append(&said("the treasure is under the oak"))
            .unwrap();
        let id = writer.id().to_owned();
        drop((writer, history));

        let history = History::existing(folder.path()).unwrap().unwrap();
        let story = history
            .story(&find(folder.path(), &id[..6]).unwrap())
            .unwrap();
        assert_eq!(
            (story.header.as_ref(), words(&story)),
            (Some(&header()), vec!["the treasure is under the oak"])
        );
        let path = file_of(folder.path(), &id);
        let bytes = fs::read(&path).unwrap();
        for secret in ["treasure", "Qwen", "qwen", "team"] {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|part| part == secret.as_bytes()),
                "{secret}"
            );
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_conversation_in_which_nothing_was_said_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        drop(
            History::open(folder.path())
                .unwrap()
                .begin(&header())
                .unwrap(),
        );
        assert_eq!(ids(folder.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_conversation_that_is_being_written_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        let mut writer = history.begin(&header()).unwrap();
        writer.append(&said("a")).unwrap();
        let id = writer.id().to_owned();
        assert!(matches!(
            remove(folder.path(), &id),
            Err(Error::Busy { .. })
        ));
        drop(writer);
        remove(folder.path(), &id).unwrap();
        assert!(matches!(history.story(&id), Err(Error::Unknown { .. })));
    }

    #[test]
    fn a_key_that_is_missing_or_wrong_is_a_sentence_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        let mut writer = history.begin(&header()).unwrap();
        writer.append(&said("a")).unwrap();
        let id = writer.id().to_owned();
        fs::remove_file(key::path(folder.path())).unwrap();
        for missing in [
            History::open(folder.path()).err(),
            History::existing(folder.path()).err(),
        ] {
            assert!(
                Failure::from(missing.unwrap())
                    .hint
                    .unwrap()
                    .contains("history rm --all")
            );
        }
        key::make(folder.path()).unwrap();
        let wrong = History::open(folder.path())
            .unwrap()
            .story(&id)
            .unwrap_err();
        assert_eq!(
            wrong.to_string(),
            format!("conversation {id} was written with another key")
        );
    }

    #[test]
    fn a_file_that_nothing_can_be_read_of_says_so_and_leaves_the_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        let mut writer = history.begin(&header()).unwrap();
        writer.append(&said("a")).unwrap();
        fs::write(
            file_of(folder.path(), "0123456789abcdef"),
            b"not a conversation",
        )
        .unwrap();
        let stories: Vec<_> = history
            .stories()
            .unwrap()
            .map(|(_, story)| story.is_ok())
            .collect();
        assert_eq!(stories.iter().filter(|whole| **whole).count(), 1);
        let ruined = history.story("0123456789abcdef").unwrap_err();
        assert!(matches!(ruined, Error::Ruined { .. }), "{ruined}");
    }

    #[test]
    fn what_found_no_room_is_written_once_there_is_some() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        let mut writer = history.begin(&header()).unwrap();
        writer.append(&said("one")).unwrap();
        // Every write to this device fails as on a full disk.
        let file = writer
            .file
            .replace(OpenOptions::new().append(true).open("/dev/full").unwrap());
        let failed = writer.append(&said("two")).unwrap_err();
        assert!(
            matches!(&failed, Error::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{failed}"
        );
        writer.file = file;
        writer.append(&said("three")).unwrap();
        let story = history.story(writer.id()).unwrap();
        assert_eq!(
            (words(&story), story.lost),
            (vec!["one", "two", "three"], 0)
        );
    }

    #[test]
    fn two_at_once_write_two_conversations_with_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &'static str| {
            let history = History::open(folder.path()).unwrap();
            let mut writer = history.begin(&header()).unwrap();
            for _ in 0..50 {
                writer.append(&said(text)).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for text in ["a", "b", "c", "d"] {
                scope.spawn(move || write(text));
            }
        });
        let history = History::existing(folder.path()).unwrap().unwrap();
        let stories: Vec<_> = history
            .stories()
            .unwrap()
            .map(|(_, story)| story.unwrap())
            .collect();
        assert_eq!(
            stories
                .iter()
                .map(|story| words(story).len())
                .collect::<Vec<_>>(),
            [50; 4]
        );
    }
}
