//! Folders of this machine: which files are in them, and what those would be called elsewhere.

use super::safe;
use crate::failure::{Code, Failure};
use crate::place::is_pattern;
use std::path::{Path, PathBuf};

/// A session's names go no deeper.
const DEPTH: usize = 16;

/// A plain file of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the folder it was found in, with slashes.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// All plain files below a folder, by name, and the links and devices that are left out: a link would send what nobody named.
pub fn files_of(folder: &Path) -> Result<(Vec<LocalFile>, Vec<PathBuf>), Failure> {
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    let mut folders = vec![(folder.to_owned(), String::new(), 1)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let cannot_read = |e: std::io::Error| {
            let shown = folder.display();
            Failure::new(
                Code::Transfer,
                format!("could not read the folder {shown}: {e}"),
            )
        };
        for entry in std::fs::read_dir(&folder).map_err(cannot_read)? {
            let entry = entry.map_err(cannot_read)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(cannot_read)?);
            let own = entry.file_name();
            let own = own.to_str().ok_or_else(|| unnameable(&path))?;
            let name = format!("{prefix}{own}");
            if kind.is_dir() {
                if depth >= DEPTH {
                    return Err(Failure::new(
                        Code::Usage,
                        format!("{} is deeper than {DEPTH} folders", path.display()),
                    ));
                }
                folders.push((path, format!("{name}/"), depth + 1));
            } else if kind.is_file() {
                safe(&name).map_err(|_| unnameable(&path))?;
                let size = entry.metadata().map_err(cannot_read)?.len();
                files.push(LocalFile { path, name, size });
            } else {
                left_out.push(path);
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((files, left_out))
}

fn unnameable(path: &Path) -> Failure {
    Failure::new(
        Code::Usage,
        format!("{path:?} has a name that a session cannot keep"),
    )
    .hint("names are UTF-8 without control characters and do not end like our own .part files")
}

/// What a source means: itself, or all that a pattern matches where nothing has exactly this name.
pub fn matches(text: &str) -> Result<Vec<PathBuf>, Failure> {
    let itself = PathBuf::from(text);
    if !is_pattern(text) || itself.symlink_metadata().is_ok() {
        return Ok(vec![itself]);
    }
    let paths = glob::glob(text)
        .map_err(|e| Failure::new(Code::Usage, format!("{text:?} is no pattern: {}", e.msg)))?;
    let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().map_err(|e| {
        let shown = e.path().display();
        Failure::new(
            Code::Transfer,
            format!("could not read {shown}: {}", e.error()),
        )
    })?;
    if paths.is_empty() {
        return Err(Failure::new(
            Code::NotFound,
            format!("nothing matches {text}"),
        ));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_walked_to_its_leaves_and_links_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("d/e")).unwrap();
        std::fs::write(at("d/e/b"), "12").unwrap();
        std::fs::write(at("a"), "1").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let (files, left_out) = files_of(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.size)).collect();
        assert_eq!(names, [("a", 1), ("d/e/b", 2)]);
        #[cfg(unix)]
        assert_eq!(left_out, [at("link")]);
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_no_session_can_keep_is_said_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a\nb"), "").unwrap();
        assert_eq!(files_of(folder.path()).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn a_pattern_matches_unless_something_has_its_very_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.txt", "b.txt", "c.csv", "x[1].txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let of = |name: &str| matches(&folder.path().join(name).to_string_lossy());
        assert_eq!(of("?.txt").unwrap().len(), 2);
        assert_eq!(of("x[1].txt").unwrap(), [folder.path().join("x[1].txt")]);
        assert_eq!(of("*.pdf").unwrap_err().code, Code::NotFound);
        assert_eq!(
            matches("no-pattern").unwrap(),
            [PathBuf::from("no-pattern")]
        );
    }
}
