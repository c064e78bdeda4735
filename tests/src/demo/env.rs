//! `target/demo/env`: what a shell sources to use kubectl and srchat against a running demo. It exists exactly
//! while everything is ready.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::process::Vanishing;

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another demo has it.
    #[error("another demo is running from this checkout: {} is its", .0.display())]
    Taken(PathBuf),
    /// It could not be written.
    #[error("could not write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// `demo` in cargo's target folder, which one demo at a time may have.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes it.
    ///
    /// # Errors
    /// When another demo has it, or it cannot be made.
    pub fn take() -> Result<Folder, Error> {
        let us = std::env::current_exe().unwrap_or_default();
        let target = us
            .ancestors()
            .find(|folder| folder.join("CACHEDIR.TAG").is_file());
        Folder::at(target.unwrap_or(Path::new("target")).join("demo"))
    }

    fn at(path: PathBuf) -> Result<Folder, Error> {
        let failed = |error| Error::Write(path.clone(), error);
        fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path, _lock: lock }),
            Err(_) => Err(Error::Taken(path.join("env"))),
        }
    }

    /// A new folder for the logs of this run; those of the run before are forgotten.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn logs(&self) -> Result<PathBuf, Error> {
        let logs = self.path.join("logs");
        let failed = |error| Error::Write(logs.clone(), error);
        match fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir_all(&logs).map_err(failed)?;
        Ok(logs)
    }
}

/// The file, there until this is dropped or the process dies.
#[derive(Debug)]
pub struct Env {
    file: Vanishing,
    text: String,
}

impl Env {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(folder: &Folder, values: &[(&str, String)]) -> Result<Env, Error> {
        let path = folder.path.join("env");
        let failed = |error| Error::Write(path.clone(), error);
        let text = values
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect::<String>();
        let partial = folder.path.join("env.partial");
        crate::cluster::write_private(&partial, &text).map_err(failed)?;
        // The watcher first: there must be no moment in which the file is there and nobody would remove it.
        let file = Vanishing::new(path.clone()).map_err(failed)?;
        fs::rename(&partial, &path).map_err(failed)?;
        Ok(Env { file, text })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A folder with nothing but kubectl and srchat, and a PATH that begins with it.
///
/// # Errors
/// When it cannot be made.
pub fn path_with(folder: &Path, programs: &[&Path]) -> io::Result<String> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for program in programs {
        symlink(program, bin.join(program.file_name().unwrap_or_default()))?;
    }
    let rest = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{rest}", bin.display()))
}

/// As a shell reads it back.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_shell_reads_what_was_meant_and_only_while_it_holds() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::at(temporary.path().join("demo")).unwrap();
        assert!(matches!(
            Folder::at(folder.path.clone()),
            Err(Error::Taken(_))
        ));
        let value = "it's $HOME and `more`";
        let env = Env::write(&folder, &[("SRCHAT_TEST_VALUE", value.to_owned())]).unwrap();
        let script = format!(
            ". {} && printf %s \"$SRCHAT_TEST_VALUE\"",
            env.path().display()
        );
        let read =
            crate::tools::run(std::process::Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(read, value);
        let path = env.path().to_owned();
        drop(env);
        assert!(!path.exists());
    }
}
