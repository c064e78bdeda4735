//! Tests that cannot run where they are: each says why on the spot, and all of them are counted in the last lines
//! of `cargo test`, by the test binary `what_was_skipped`. Without this they would look as if they had passed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cache::say;

/// Records that the running test cannot say anything here, and why. Return right after it.
pub fn because(reason: &str) {
    of(std::thread::current().name().unwrap_or("a test"), reason);
}

/// The same of a test that is not running yet.
pub fn of(test: &str, reason: &str) {
    say(&format!("skipped: {test}: {reason}"));
    let line = format!("{test}: {}\n", reason.replace('\n', " "));
    let recorded = folder().and_then(|folder| {
        fs::create_dir_all(&folder)?;
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(run()));
        // One write, so that the lines of tests that run at once do not mix.
        file?.write_all(line.as_bytes())
    });
    assert!(
        recorded.is_ok(),
        "a skipped test that is not counted would pass for one that ran: {recorded:?}"
    );
}

/// What was skipped in this run of cargo, which is over now. Forgets it, and the runs that were cut short.
///
/// # Errors
/// When the record cannot be read.
pub fn take() -> io::Result<Vec<String>> {
    let folder = folder()?;
    let ours = folder.join(run());
    let record = match fs::read_to_string(&ours) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == ours || !is_running(&path) {
            fs::remove_file(path)?;
        }
    }
    let mut lines: Vec<String> = record.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// All test binaries of one run are children of one cargo.
fn run() -> String {
    std::os::unix::process::parent_id().to_string()
}

fn is_running(record: &Path) -> bool {
    record
        .file_name()
        .is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

/// Beside the test binaries: `target/debug/skipped`.
fn folder() -> io::Result<PathBuf> {
    let us = std::env::current_exe()?;
    let of_profile = us
        .parent()
        .and_then(Path::parent)
        .ok_or(io::ErrorKind::NotFound)?;
    Ok(of_profile.join("skipped"))
}
