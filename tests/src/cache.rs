//! The user's cache folder: what is expensive to fetch or build is made there once, under a lock, and is
//! never seen half made. It outlives `cargo clean` and fresh clones. Nothing here knows what is being kept.

use std::error::Error as StdError;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Why something could not be had from the cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder itself could not be used.
    #[error("could not use the cache folder {}", path.display())]
    Folder {
        /// The file or folder that failed.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The thing could not be made.
    #[error("could not make {key}")]
    Build {
        /// What was to be made.
        key: String,
        /// Why it was not.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// Where everything is kept: `SRCHAT_RIG_CACHE`, else `srchat` in the user's cache folder.
pub fn dir() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("SRCHAT_RIG_CACHE")
        .or_else(|| {
            set("XDG_CACHE_HOME")
                .filter(|path| path.is_absolute())
                .map(|path| path.join("srchat"))
        })
        .or_else(|| set("HOME").map(|home| home.join(".cache/srchat")))
        .unwrap_or_else(|| std::env::temp_dir().join("srchat-cache"))
}

/// The folder `key`, made by `build` if it is not there yet.
///
/// `build` fills the folder that it is given; only when it succeeds does that folder get its name, so whoever
/// finds `key` finds all of it. Others who want the same key meanwhile, in this process or another, wait.
/// Blocks: call it on a thread that may.
///
/// # Errors
/// When the cache folder cannot be used, or `build` fails; nothing is left under the key then.
pub fn once<E>(key: &str, build: impl FnOnce(&Path) -> Result<(), E>) -> Result<PathBuf, Error>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let target = dir().join(key);
    if target.is_dir() {
        return Ok(target);
    }
    let _lock = lock(key)?;
    if target.is_dir() {
        return Ok(target);
    }
    let partial = dir().join(format!("{key}.partial"));
    let folder = |source| Error::Folder {
        path: partial.clone(),
        source,
    };
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(folder(error)),
        _ => {}
    }
    fs::create_dir_all(&partial).map_err(folder)?;
    if let Err(error) = build(&partial) {
        // What is half made is of no use to anybody, and the error that matters is the builder's.
        let _ = fs::remove_dir_all(&partial);
        return Err(Error::Build {
            key: key.to_owned(),
            source: error.into(),
        });
    }
    fs::rename(&partial, &target).map_err(|source| Error::Folder {
        path: target.clone(),
        source,
    })?;
    Ok(target)
}

/// Holds `key` against every other process until the file is dropped (or the process dies).
///
/// # Errors
/// When the lock file cannot be made.
pub fn lock(key: &str) -> Result<File, Error> {
    let path = dir().join(format!("{key}.lock"));
    let failed = |source| Error::Folder {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The first 16 hexadecimal digits of the SHA-256 of these, in order: what a key ends with when what it
/// names depends on them.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Writes a line of progress straight to stderr: the test harness keeps what `eprintln!` prints to itself,
/// and somebody who waits for minutes must see for what.
pub fn say(line: &str) {
    // Where there is no stderr there is nobody to tell.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A key of this test process's own, removed when it is dropped.
    struct Key(String);

    impl Key {
        fn new(name: &str) -> Key {
            Key(format!("test-{name}-{}", std::process::id()))
        }
    }

    impl Drop for Key {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(dir().join(&self.0));
            let _ = fs::remove_file(dir().join(format!("{}.lock", self.0)));
        }
    }

    #[test]
    fn many_who_want_the_same_thing_make_it_once() {
        let key = Key::new("once");
        let built = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let path = once(&key.0, |folder| {
                        built.fetch_add(1, Ordering::SeqCst);
                        fs::write(folder.join("whole"), "yes")
                    })
                    .unwrap();
                    assert_eq!(fs::read_to_string(path.join("whole")).unwrap(), "yes");
                });
            }
        });
        assert_eq!(built.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_fails_half_way_leaves_nothing_and_can_be_tried_again() {
        let key = Key::new("half");
        let failed = once(&key.0, |folder| {
            fs::write(folder.join("half"), "").unwrap();
            Err("the network went away")
        });
        assert!(matches!(failed, Err(Error::Build { .. })));
        assert!(!dir().join(&key.0).exists());
        let path = once(&key.0, |_| Ok::<_, io::Error>(())).unwrap();
        assert!(
            !path.join("half").exists(),
            "the second try starts from nothing"
        );
    }

    #[test]
    fn a_fingerprint_tells_where_one_part_ends_and_the_next_begins() {
        assert_ne!(
            fingerprint([b"ab".as_slice(), b"c"]),
            fingerprint([b"a".as_slice(), b"bc"])
        );
    }
}
