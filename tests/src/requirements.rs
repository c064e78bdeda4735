//! What the rig needs of a machine: looked at first, named all at once, with the command that installs it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{self, say};
use crate::tools;

const GIB: u64 = 1 << 30;

/// A program, and the packages that hold it.
struct Program {
    name: &'static str,
    why: &'static str,
    debian: &'static str,
    fedora: &'static str,
    alpine: &'static str,
}

/// The programs of the machine that the rig runs.
const PROGRAMS: [Program; 9] = [
    Program {
        name: "python3",
        why: "the model server is a Python package",
        debian: "python3",
        fedora: "python3",
        alpine: "python3",
    },
    Program {
        name: "sshd",
        why: "each simulated pod runs a real OpenSSH server",
        debian: "openssh-server",
        fedora: "openssh-server",
        alpine: "openssh-server",
    },
    Program {
        name: "ssh-keygen",
        why: "each simulated pod makes a host key",
        debian: "openssh-client",
        fedora: "openssh-clients",
        alpine: "openssh-keygen",
    },
    Program {
        name: "pivot_root",
        why: "simulated pods have a root of their own",
        debian: "util-linux",
        fedora: "util-linux",
        alpine: "util-linux-misc",
    },
    Program {
        name: "curl",
        why: "the watchdog of a pod calls the provider with it",
        debian: "curl",
        fedora: "curl",
        alpine: "curl",
    },
    Program {
        name: "gzip",
        why: "the start command of a pod unpacks itself with it",
        debian: "gzip",
        fedora: "gzip",
        alpine: "gzip",
    },
    Program {
        name: "setpriv",
        why: "no process of the rig may outlive it",
        debian: "util-linux",
        fedora: "util-linux",
        alpine: "setpriv",
    },
    Program {
        name: "unshare",
        why: "simulated pods are kept apart with it",
        debian: "util-linux",
        fedora: "util-linux",
        alpine: "util-linux-misc",
    },
    Program {
        name: "timeout",
        why: "scripts on a pod are bounded in time with GNU coreutils",
        debian: "coreutils",
        fedora: "coreutils",
        alpine: "coreutils",
    },
];

/// What a node needs besides.
const NODE_PROGRAMS: [Program; 4] = [
    Program {
        name: "runc",
        why: "containers of the node are made with it",
        debian: "runc",
        fedora: "runc",
        alpine: "runc",
    },
    Program {
        name: "iptables",
        why: "Services of the node's cluster are rules of it",
        debian: "iptables",
        fedora: "iptables-nft",
        alpine: "iptables",
    },
    Program {
        name: "ip",
        why: "the node's network is made with it",
        debian: "iproute2",
        fedora: "iproute",
        alpine: "iproute2",
    },
    Program {
        name: "host-local",
        why: "a pod's network is made by CNI's plugins",
        debian: "containernetworking-plugins",
        fedora: "containernetworking-plugins",
        alpine: "cni-plugins",
    },
];

/// Where distributions put CNI's plugins, which are on no PATH.
const CNI: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// The folder of CNI's plugins.
pub fn cni_plugins() -> Option<PathBuf> {
    CNI.iter()
        .map(PathBuf::from)
        .find(|folder| folder.join("host-local").is_file())
}

/// What this machine lacks; says all of it, and what to do.
#[derive(Debug, thiserror::Error)]
pub struct Missing {
    what: Vec<String>,
    install: Option<String>,
}

impl Missing {
    fn or_nothing(self) -> Result<(), Missing> {
        if self.what.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { what, install } = self;
        write!(f, "this machine lacks:")?;
        for line in what {
            write!(f, "\n  {line}")?;
        }
        match install {
            Some(command) => write!(f, "\nhint: {command}"),
            None => Ok(()),
        }
    }
}

/// Looks at disk, memory and programs. Root on Debian gets missing programs installed without being asked.
///
/// # Errors
/// [`Missing`], with everything that is.
pub fn check() -> Result<(), Missing> {
    let mut missing = programs(&PROGRAMS);
    missing.what.extend(too_little(
        "disk space",
        free_disk(&cache::dir()),
        needed_disk(),
    ));
    missing
        .what
        .extend(too_little("free memory", free_memory(), needed_memory()));
    missing.what.extend(no_pip());
    missing.or_nothing()
}

/// Looks for the programs of a node, likewise.
///
/// # Errors
/// [`Missing`], with everything that is.
pub fn check_for_node() -> Result<(), Missing> {
    programs(&NODE_PROGRAMS).or_nothing()
}

/// Which of these are missing, after what can be installed was.
fn programs(wanted: &[Program]) -> Missing {
    let mut missing = not_there(wanted);
    if !missing.is_empty()
        && rustix::process::geteuid().is_root()
        && tools::on_path("apt-get").is_some()
    {
        install_on_debian(&missing);
        missing = not_there(wanted);
    }
    Missing {
        what: missing
            .iter()
            .map(|program| format!("{} ({})", program.name, program.why))
            .collect(),
        install: install_command(&missing),
    }
}

fn not_there(wanted: &[Program]) -> Vec<&Program> {
    let there = |name: &str| match name {
        "host-local" => cni_plugins().is_some(),
        name => tools::on_path(name).is_some(),
    };
    wanted
        .iter()
        .filter(|program| !there(program.name))
        .collect()
}

fn install_command(missing: &[&Program]) -> Option<String> {
    let sudo = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    let by = |package: fn(&Program) -> &'static str| {
        let mut packages: Vec<_> = missing.iter().map(|program| package(program)).collect();
        packages.sort_unstable();
        packages.dedup();
        packages.join(" ")
    };
    if missing.is_empty() {
        return None;
    }
    let found = |manager: &str| tools::on_path(manager).is_some();
    if found("apt-get") {
        Some(format!(
            "{sudo}apt-get install -y --no-install-recommends {}",
            by(|program| program.debian)
        ))
    } else if found("dnf") {
        Some(format!(
            "{sudo}dnf install -y {}",
            by(|program| program.fedora)
        ))
    } else if found("apk") {
        Some(format!("{sudo}apk add {}", by(|program| program.alpine)))
    } else {
        None
    }
}

/// Installs what is missing and starts nothing: a package that holds a server would otherwise open its port to
/// the world.
fn install_on_debian(missing: &[&Program]) {
    let mut packages: Vec<_> = missing.iter().map(|program| program.debian).collect();
    packages.sort_unstable();
    packages.dedup();
    say(&format!("installing {}", packages.join(" ")));
    let _policy = StartNothing::new();
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y", "--no-install-recommends"]);
        apt
    };
    let install = || tools::run(apt().arg("install").args(&packages));
    // A machine that has never been updated knows no package; one that has need not be updated again.
    let installed = install().or_else(|_| tools::run(apt().arg("update")).and_then(|_| install()));
    if let Err(error) = installed {
        say(&format!("that did not work: {error}"));
    }
}

/// Debian's own switch against starting services at installation, for as long as this lives.
struct StartNothing(Option<PathBuf>);

impl StartNothing {
    fn new() -> StartNothing {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        // Where there is one already, somebody has decided otherwise, and it stays.
        let made = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(&path);
        StartNothing(
            made.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"))
                .is_ok()
                .then_some(path),
        )
    }
}

impl Drop for StartNothing {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn too_little(what: &str, there: Option<u64>, needed: u64) -> Option<String> {
    let there = there.filter(|there| *there < needed)?;
    let gib = |bytes: u64| format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB);
    Some(format!(
        "{what}: {} needed, {} there",
        gib(needed),
        gib(there)
    ))
}

/// Go's module cache, its build cache and the programs take about 6 GiB the first time; the model twice its
/// half GiB; a run little.
fn needed_disk() -> u64 {
    if tools::control_plane_is_built() {
        2 * GIB
    } else {
        8 * GIB
    }
}

/// Go's linker takes 2 GB for the API server; a running rig about as much, with the model.
fn needed_memory() -> u64 {
    if tools::control_plane_is_built() {
        2 * GIB
    } else {
        3 * GIB
    }
}

fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.is_dir())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

/// What is available, and what the control group leaves of it.
fn free_memory() -> Option<u64> {
    let number = |path: &str| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let system = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = system
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let left = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, current)| max.saturating_sub(current));
    Some(left.map_or(available, |left| left.min(available)))
}

/// Python without pip cannot fetch the model server.
fn no_pip() -> Option<String> {
    tools::on_path("python3")?;
    let pip = tools::run(Command::new("python3").args(["-m", "pip", "--version"]));
    pip.is_err()
        .then(|| "pip for python3 (on Debian: python3-pip)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_at_once_with_the_way_out() {
        let missing = Missing {
            what: vec![
                "sshd (why)".to_owned(),
                "disk space: 8.0 GiB needed, 1.5 GiB there".to_owned(),
            ],
            install: Some("apt-get install -y openssh-server".to_owned()),
        };
        assert_eq!(
            missing.to_string(),
            "this machine lacks:\n  sshd (why)\n  disk space: 8.0 GiB needed, 1.5 GiB there\n\
             hint: apt-get install -y openssh-server"
        );
    }

    #[test]
    fn too_little_is_told_in_numbers() {
        let told = too_little("disk space", Some(GIB * 3 / 2), 8 * GIB);
        assert_eq!(
            told.as_deref(),
            Some("disk space: 8.0 GiB needed, 1.5 GiB there")
        );
        assert_eq!(too_little("disk space", Some(8 * GIB), 8 * GIB), None);
        assert_eq!(
            too_little("disk space", None, 8 * GIB),
            None,
            "what cannot be known is not held against anybody"
        );
    }

    #[test]
    fn this_machine_can_be_measured() {
        assert!(free_disk(&cache::dir()).is_some_and(|bytes| bytes > 0));
        assert!(free_memory().is_some_and(|bytes| bytes > 0));
    }
}
