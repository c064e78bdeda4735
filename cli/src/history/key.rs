//! The key file: 32 random bytes in hex that only their owner may read. Whoever has it can read the history.

use super::Error;
use super::frame::Master;
use secrecy::SecretBox;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// 64 digits and a line end.
const LONGEST: u64 = 66;

/// Where the key of a history lies.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("key")
}

/// Reads the key; `None` when there is none.
///
/// # Errors
/// When others may read it, or it is no key.
pub fn read(folder: &Path) -> Result<Option<Master>, Error> {
    let path = path(folder);
    let failed = |source| Error::Read {
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::KeyIsShared { path, mode });
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(LONGEST).read_to_string(&mut text);
    read.map_err(failed)?;
    let mut master = Box::new([0; 32]);
    match hex::decode_to_slice(text.trim_end(), &mut *master) {
        Ok(()) => Ok(Some(SecretBox::new(master))),
        Err(_) => Err(Error::NotAKey { path }),
    }
}

/// Makes a key, unless another process was faster: then that one is taken.
///
/// # Errors
/// When it cannot be written.
pub fn make(folder: &Path) -> Result<Master, Error> {
    let path = path(folder);
    let failed = |source| Error::Write {
        path: path.clone(),
        source,
    };
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|e| failed(io::Error::other(e)))?;
    let text = Zeroizing::new(hex::encode(*bytes) + "\n");
    // Under a name of its own first: under its own name a key is always whole.
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|e| failed(io::Error::other(e)))?;
    let draft = folder.join(format!(".key.{}", hex::encode(name)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| match fs::hard_link(&draft, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    let _ = fs::remove_file(&draft);
    written.map_err(failed)?;
    read(folder)?.ok_or(Error::KeyIsMissing { path })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use secrecy::ExposeSecret as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path()).unwrap();
        let again = make(folder.path()).unwrap();
        assert_eq!(made.expose_secret(), again.expose_secret());
        assert_eq!(
            fs::metadata(path(folder.path())).unwrap().mode() & 0o777,
            0o600
        );
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path()).unwrap();
        fs::set_permissions(path(folder.path()), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = read(folder.path()).unwrap_err();
        assert!(
            matches!(refused, Error::KeyIsShared { mode: 0o640, .. }),
            "{refused}"
        );
    }

    #[test]
    fn what_is_no_key_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        for text in ["", "secret", &"f".repeat(63), &"g".repeat(64)] {
            let mut file = options.open(path(folder.path())).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert!(
                matches!(read(folder.path()), Err(Error::NotAKey { .. })),
                "{text}"
            );
        }
    }
}
