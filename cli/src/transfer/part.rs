//! Where a download goes: a folder that is held open, a temporary file in it, and a name that is taken only when all is there.

use super::Existing;
use crate::failure::{Code, Failure};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Names of temporary files keep this many bytes of the file's own.
const KEPT: usize = 80;

/// A folder of this machine that downloads cannot leave: paths are resolved below it, and links that lead out are refused.
#[derive(Debug)]
pub struct Destination {
    folder: Dir,
    path: PathBuf,
}

impl Destination {
    /// Opens a folder; makes it where it does not exist.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let made = std::fs::create_dir_all(path)
            .and_then(|()| Dir::open_ambient_dir(path, ambient_authority()));
        let folder = made.map_err(|e| cannot_write(path, &e))?;
        Ok(Self {
            folder,
            path: path.to_owned(),
        })
    }

    /// The path of something in it, for people.
    pub fn shown(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether something has this name already.
    pub fn has(&self, name: &str) -> bool {
        self.folder.symlink_metadata(name).is_ok()
    }

    /// Opens the temporary file of a download, with what an earlier try has left in it.
    pub fn part(&self, name: &str, sha256: &str) -> Result<Part<'_>, Failure> {
        let fail = |e: io::Error| cannot_write(&self.shown(name), &e);
        let (above, own) = name.rsplit_once('/').unwrap_or(("", name));
        if !above.is_empty() {
            self.folder.create_dir_all(above).map_err(fail)?;
        }
        let hidden = temporary(own, sha256);
        let temporary = match above {
            "" => hidden,
            above => format!("{above}/{hidden}"),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let file = self.folder.open_with(&temporary, &options).map_err(fail)?;
        let file = file.into_std();
        if file.try_lock().is_err() {
            let shown = self.shown(name);
            return Err(Failure::new(
                Code::Transfer,
                format!("{} is being fetched by another srchat", shown.display()),
            ));
        }
        Ok(Part {
            place: self,
            temporary,
            name: name.to_owned(),
            file,
        })
    }
}

/// The temporary file of one download.
#[derive(Debug)]
pub struct Part<'a> {
    place: &'a Destination,
    temporary: String,
    name: String,
    file: File,
}

impl Part<'_> {
    /// What is there of a file of this length: its bytes and their sum, and the file set behind them.
    pub fn so_far(&self, length: u64) -> io::Result<(File, u64, Sha256)> {
        let mut file = self.file.try_clone()?;
        if file.metadata()?.len() > length {
            file.set_len(0)?;
        }
        file.seek(SeekFrom::Start(0))?;
        let (mut sum, mut have) = (Sha256::new(), 0);
        let mut buffer = vec![0; super::CHUNK];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok((file, have, sum));
            }
            sum.update(&buffer[..read]);
            have += read as u64;
        }
    }

    /// Gives it its name. Where the name was taken meanwhile and is not to be replaced, nothing happens.
    pub fn keep(self, existing: Existing) -> Result<(), Failure> {
        let folder = &self.place.folder;
        let done = self.file.sync_all().and_then(|()| match existing {
            Existing::Replace => folder.rename(&self.temporary, folder, &self.name),
            // A link fails where the name is taken, so a file that came meanwhile is not replaced.
            Existing::Refuse => match folder.hard_link(&self.temporary, folder, &self.name) {
                Err(error) if lacks_links(&error) && !self.place.has(&self.name) => {
                    folder.rename(&self.temporary, folder, &self.name)
                }
                linked => linked.and_then(|()| folder.remove_file(&self.temporary)),
            },
        });
        done.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.place.shown(&self.name)),
            _ => self.failed(&e),
        })
    }

    /// Removes it: what is in it is of no use to a later try.
    pub fn forget(self) {
        // What cannot be removed is found, and judged again, by the next try.
        let _ = self.place.folder.remove_file(&self.temporary);
    }

    /// Why it could not be written.
    pub fn failed(&self, error: &io::Error) -> Failure {
        cannot_write(&self.place.shown(&self.name), error)
    }
}

/// File systems of memory cards have no links.
fn lacks_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
    )
}

/// The same content under the same name goes on where it broke off.
fn temporary(name: &str, sha256: &str) -> String {
    let mut end = name.len().min(KEPT);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}.{sha256:.16}.part", &name[..end])
}

/// A name from the other side that may be written below a folder of ours: relative, no `.` or `..`, nothing that could steer a
/// terminal, and none of our own temporary names.
pub fn safe(name: &str) -> Result<&str, Failure> {
    let part = |part: &str| {
        let windows = cfg!(windows) && part.contains(['\\', ':']);
        let odd = part.chars().any(char::is_control) || windows;
        !matches!(part, "" | "." | "..") && part.len() <= 255 && !odd
    };
    let ours = |part: &str| part.starts_with('.') && part.ends_with(".part");
    let named = name.split('/').all(|each| part(each) && !ours(each));
    if named && name.len() <= 1024 {
        Ok(name)
    } else {
        Err(Failure::new(
            Code::Transfer,
            format!("the session has a file whose name is refused: {name:?}"),
        )
        .hint("names may not leave their folder, nor steer a terminal; name the files you want one by one"))
    }
}

/// The name is taken.
pub fn exists(path: &Path) -> Failure {
    Failure::new(Code::Transfer, format!("{} exists", path.display())).hint("--force replaces it")
}

/// A local file cannot be written.
fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(
        Code::Transfer,
        format!("could not write {}: {error}", path.display()),
    );
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.hint("the disk is full: make room, or give another destination")
        }
        io::ErrorKind::PermissionDenied => failure.hint("give a destination that you may write to"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    const SUM: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_part_waits_for_the_next_try_and_only_of_the_same_content() {
        let folder = tempfile::tempdir().unwrap();
        let place = Destination::open(folder.path()).unwrap();
        let part = place.part("d/a", SUM).unwrap();
        part.so_far(3).unwrap().0.write_all(b"ab").unwrap();
        drop(part);
        let part = place.part("d/a", SUM).unwrap();
        assert_eq!(part.so_far(3).unwrap().1, 2);
        drop(part);
        assert_eq!(
            place
                .part("d/a", &"0".repeat(64))
                .unwrap()
                .so_far(3)
                .unwrap()
                .1,
            0
        );
    }

    #[test]
    fn a_part_is_in_one_hand_at_a_time_and_leaves_nothing_when_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let place = Destination::open(folder.path()).unwrap();
        let part = place.part("a", SUM).unwrap();
        assert_eq!(place.part("a", SUM).unwrap_err().code, Code::Transfer);
        part.forget();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let place = Destination::open(folder.path()).unwrap();
        let part = place.part("a", SUM).unwrap();
        std::fs::write(folder.path().join("a"), "theirs").unwrap();
        let failure = part.keep(Existing::Refuse).unwrap_err();
        assert_eq!(failure.hint.unwrap(), "--force replaces it");
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"theirs");
        place
            .part("a", SUM)
            .unwrap()
            .keep(Existing::Replace)
            .unwrap();
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_out_of_the_folder_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("d")).unwrap();
        let place = Destination::open(folder.path()).unwrap();
        assert!(place.part("d/a", SUM).is_err());
        assert_eq!(outside.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn names_that_leave_or_hide_or_steer_are_refused() {
        for name in ["a", "a b/ü.txt", "...", ".hidden", "-rf"] {
            assert_eq!(safe(name).unwrap(), name);
        }
        for name in [
            "",
            "/a",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\nb",
            "a\x1b[2J",
            "a\0",
            ".a.0123.part",
        ] {
            assert!(safe(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_safe_stays_below_its_folder(name in "[a./\\n\\\\]{0,12}|\\PC{0,20}") {
            if let Ok(name) = safe(&name) {
                for part in Path::new(name).components() {
                    prop_assert!(matches!(part, std::path::Component::Normal(_)), "{part:?}");
                }
            }
        }

        #[test]
        fn every_name_has_a_temporary_one(name in "\\PC{1,200}") {
            prop_assert!(temporary(&name, SUM).len() <= 255);
        }
    }
}
