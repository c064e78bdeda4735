//! Whether the demo has left anything on the machine: processes and mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The state of the machine before the demo started anything.
#[derive(Debug)]
pub struct Before {
    mounts: BTreeSet<String>,
}

impl Before {
    /// Looks, and makes every orphan below us ours: whatever daemonizes itself stays in sight.
    ///
    /// # Errors
    /// When the kernel does not know how.
    pub fn look() -> std::io::Result<Before> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Before { mounts: mounts() })
    }

    /// What is there now that was not, one line each. Empty is good.
    pub fn left(&self) -> Vec<String> {
        let mounts = mounts()
            .difference(&self.mounts)
            .map(|mount| format!("mount {mount}"))
            .collect::<Vec<_>>();
        let processes = descendants()
            .into_iter()
            .map(|(pid, name)| format!("process {pid} ({name})"));
        mounts.into_iter().chain(processes).collect()
    }
}

/// Asks every process below us to end. For a set-up that failed in one part while compilers and downloads of
/// the others go on: nobody waits for them any more.
pub fn end_descendants() {
    for pid in descendants().into_keys() {
        if let Some(pid) = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // One that has ended meanwhile is what was wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// The mount points of ours that this mount namespace shows; other people's come and go as they like.
fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| point.contains("srchat"))
        .map(str::to_owned)
        .collect()
}

/// All live processes whose line of parents leads to us, with their names.
fn descendants() -> BTreeMap<u32, String> {
    let mut parents = BTreeMap::new();
    let mut names = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok() else {
            continue;
        };
        // `pid (name) state parent …`, and a name may hold anything, parentheses included.
        let Some((start, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let mut fields = rest.split_whitespace();
        let (state, parent) = (
            fields.next(),
            fields.next().and_then(|parent| parent.parse::<u32>().ok()),
        );
        if state != Some("Z")
            && let Some(parent) = parent
        {
            parents.insert(pid, parent);
            names.insert(
                pid,
                start
                    .split_once('(')
                    .map_or("", |(_, name)| name)
                    .to_owned(),
            );
        }
    }
    let us = std::process::id();
    let is_ours = |pid: u32| {
        let mut at = pid;
        while let Some(parent) = parents.get(&at) {
            if *parent == us {
                return true;
            }
            at = *parent;
        }
        false
    };
    names.retain(|pid, _| is_ours(*pid));
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_is_left_is_seen_and_one_that_ended_is_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(
            descendants().get(&child.id()).map(String::as_str),
            Some("sleep")
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants().contains_key(&child.id()));
    }
}
